"""Refused logins in the trail: each one, and under attack their number."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_nodes.books import Books
from hermes_nodes.gateway.lockout import MOST_FAILURES
from hermes_nodes.gateway.refusals import COUNT_EVERY, MOST_ADDRESSES, Refusals
from tests.harness import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def refusals(home: Home) -> Iterator[Refusals]:
    with Books.open(home.settings, home.environ, tell=lambda _: None) as books:
        yield Refusals(books.trail)


def test_a_refusal_is_a_row_with_its_true_reason(home: Home, refusals: Refusals) -> None:
    assert refusals.refused("unknown_name", "laptop", "192.0.2.1") is False
    (row,) = home.trail(action="auth")
    told = (row["status"], row["node"], row["remote_addr"], row["error"])
    assert told == ("denied", "laptop", "192.0.2.1", "unknown_name")


def test_under_attack_refusals_are_counted_instead_of_listed(home: Home, refusals: Refusals) -> None:
    for _ in range(1000):
        refusals.refused("bad_token", None, "192.0.2.1")
    refusals.write_counts(COUNT_EVERY)
    *listed, counted = home.trail(action="auth")
    assert len(listed) == MOST_FAILURES
    assert counted["error"] == "locked_out"
    assert counted["command"] == f"{1000 - MOST_FAILURES} more refused"
    assert counted["remote_addr"] == "192.0.2.1"


def test_counts_are_written_once_a_minute_and_at_the_end(home: Home, refusals: Refusals) -> None:
    def attack() -> None:
        for _ in range(MOST_FAILURES + 1):
            refusals.refused("bad_token", None, "192.0.2.1")

    attack()
    refusals.write_counts(1000.0)
    before = len(home.trail(action="auth"))
    attack()
    refusals.write_counts(1000.0 + COUNT_EVERY - 1)
    assert len(home.trail(action="auth")) == before
    refusals.write_counts(1000.0 + COUNT_EVERY - 1, all_of_them=True)
    refusals.write_counts(1000.0 + COUNT_EVERY - 1, all_of_them=True)
    assert len(home.trail(action="auth")) == before + 1


def test_many_addresses_at_once_do_not_fill_the_trail(home: Home, refusals: Refusals) -> None:
    for number in range(3 * MOST_ADDRESSES):
        refusals.refused("bad_token", "laptop", f"192.0.{number // 250}.{number % 250}")
    refusals.write_counts(COUNT_EVERY)
    rows = home.trail(action="auth")
    assert len(rows) <= MOST_FAILURES + MOST_ADDRESSES + 1
    assert rows[-1]["remote_addr"] == "other addresses"
