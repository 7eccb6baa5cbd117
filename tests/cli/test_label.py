"""`label`: with a gateway and without, and what `list` makes of it."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from tests.harness import GatewayProcess, Home, NodeProcess


@pytest.fixture(params=["with a gateway", "without"])
def paired(request: pytest.FixtureRequest, empty_home: Home) -> Iterator[Home]:
    """A home with one node."""
    empty_home.pair("nas", "--label", "room=cellar")
    with nullcontext() if request.param == "without" else empty_home.gateway():
        yield empty_home


def test_labels_are_set_changed_and_dropped(paired: Home) -> None:
    paired.ok("label", "nas", "room=attic", "disk=big")
    assert paired.node_view("nas")["labels"] == {"room": "attic", "disk": "big"}
    paired.ok("label", "nas", "room-", "never-there-")
    assert paired.node_view("nas")["labels"] == {"disk": "big"}
    assert paired.ok("list", "label:disk=big").startswith("nas\t")
    assert paired.run("list", "label:room=attic").returncode == 66


def test_each_change_is_one_row(paired: Home) -> None:
    paired.ok("label", "nas", "a=1", "room-")
    (row,) = paired.trail(action="label")
    assert (row["status"], row["node"], row["command"]) == ("ok", "nas", "a=1 room-")
    assert row["pairing_id"] == paired.node_view("nas")["pairing_id"]


def test_json_has_all_labels(paired: Home) -> None:
    assert paired.json("label", "nas", "a=1")["labels"] == {"room": "cellar", "a": "1"}


def test_what_is_no_label_changes_nothing(paired: Home) -> None:
    for change in ("room", "=x", "-", "ro om=1", "a=b,c", "ä=1"):
        assert paired.run("label", "nas", change).returncode == 2, change
    assert paired.node_view("nas")["labels"] == {"room": "cellar"}


def test_a_name_that_is_not_paired_has_no_labels(paired: Home) -> None:
    assert paired.run("label", "desk", "a=1").returncode == 66


def test_a_label_holds_for_calls_at_once(home: Home, gateway: GatewayProcess, node: NodeProcess) -> None:
    home.ok("label", "laptop", "desk=yes")
    assert home.ok("exec", "label:desk=yes", "echo x") == "laptop: x\n"
    home.ok("label", "laptop", "desk-")
    assert home.run("exec", "label:desk=yes", "echo x").returncode == 66
