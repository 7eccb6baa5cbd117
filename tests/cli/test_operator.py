"""`operator`, `rotate` and `key` as they are typed: what they take, and what they do without a gateway."""

import json

import pytest

from tests.harness import Home


@pytest.fixture
def home(empty_home: Home) -> Home:
    return empty_home


def test_operators_are_kept_without_a_gateway(home: Home) -> None:
    home.pair("web-1")
    made = home.json(
        "operator", "add", "ci", "--allow", "list, exec", "--nodes", "web-1", "--expires", "1h"
    )
    assert (made["allow"], made["nodes"]) == (["list", "exec"], "web-1")
    assert str(made["token"]).startswith("hno_")
    (listed,) = json.loads(home.ok("operator", "list", "--json"))
    assert listed == {key: value for key, value in made.items() if key != "token"}
    assert home.json("operator", "remove", "ci")["operator_id"] == made["operator_id"]
    assert json.loads(home.ok("operator", "list", "--json")) == []
    assert [row["command"] for row in home.trail(action="operator")][1] == "remove ci"


def test_all_verbs_can_be_asked_for_at_once(home: Home) -> None:
    home.pair("web-1")
    assert len(home.json("operator", "add", "boss", "--allow", "all")["allow"]) == 13  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["operator", "add", "a b"], 2),
        (["operator", "add", "ci", "--allow", ","], 2),
        (["operator", "add", "ci", "--allow", "pair", "--nodes", "web-*"], 2),
        (["operator", "add", "ci", "--expires", "0s"], 2),
        (["operator", "add", "ci", "--expires", "soon"], 2),
        (["operator", "add", "ci", "--nodes", "label:x"], 2),
        (["operator", "add", "ci", "--nodes", "nobody"], 66),
        (["operator", "remove", "ci"], 66),
        (["operator", "remove", "x" * 5000], 66),
        (["rotate", "nobody"], 66),
        (["rotate", "x" * 5000], 66),
        (["rotate", "web-1", "--grace", "-1s"], 2),
    ],
)
def test_what_can_not_be_done_ends_with_its_status_and_a_sentence(
    home: Home, arguments: list[str], code: int
) -> None:
    home.pair("web-1")
    done = home.run(*arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    assert b"hermes-nodes: error: " in done.stderr
    assert b"Traceback" not in done.stderr
    assert home.trail(action="operator") == home.trail(action="rotate") == []


def test_an_operators_removal_where_there_is_no_store_makes_none(home: Home) -> None:
    assert home.run("operator", "remove", "ci").returncode == 66
    assert not (home.path / "nodes" / "tokens.db").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["--help"], ["operator", "rotate", "key", "--gateway", "--operator-token-file"]),
        (["--help"], ["HERMES_NODES_GATEWAY", "HERMES_NODES_OPERATOR_TOKEN"]),
        (["operator", "--help"], ["add", "list", "remove"]),
        (["operator", "add", "--help"], ["--allow", "--nodes", "--expires", "operate", "shell"]),
        (["rotate", "--help"], ["--grace", "24h"]),
        (["key", "--help"], ["rotate"]),
        (["key", "rotate", "--help"], [".env", "backups"]),
    ],
)
def test_help_lists_it(home: Home, command: list[str], said: list[str]) -> None:
    shown = " ".join(home.ok(*command, COLUMNS="300").split())
    assert [word for word in said if word not in shown] == []
