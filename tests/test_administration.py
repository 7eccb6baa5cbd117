"""Adding and removing operators: what is handed on, and what the trail says of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_nodes import administration
from hermes_nodes.administration import OperatorRequest
from hermes_nodes.books import Books
from hermes_nodes.errors import AuditUnwritable, NotAllowed, UnknownNode, UnknownOperator, UsageError
from hermes_nodes.operator_table import OperatorTable
from hermes_nodes.operators import Operator, Scope
from tests.harness import Home

GIVER = Operator("1", "boss", ("operate", "exec"), Scope(("all",)), "", "", "2100-01-01T00:00:00.000Z")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def books(home: Home) -> Iterator[Books]:
    with Books.open(home.settings, home.environ, tell=lambda _: None) as books:
        books.store.pair("laptop")
        yield books


def add(books: Books, request: OperatorRequest, giver: Operator | None = None) -> Operator:
    known, _ = administration.add_operator(books.store, books.trail, request, "local:me", giver)
    return known.operator


def remove(books: Books, name: str, taker: Operator | None = None) -> Operator:
    return administration.remove_operator(books.store, books.trail, name, "local:me", taker).noted()


def test_whoever_is_added_may_only_look_unless_more_is_said(books: Books) -> None:
    assert administration.operator_view(add(books, OperatorRequest("ci")))["allow"] == ["list"]


def test_each_change_is_a_row_without_the_token(books: Books, home: Home) -> None:
    add(books, OperatorRequest("ci", ("exec",), "laptop", 60))
    remove(books, "ci")
    first, second = home.trail(action="operator")
    assert str(first["command"]).startswith("add ci: exec on laptop until 2")
    assert second["command"] == "remove ci"
    assert "hno_" not in str(first)


def test_what_is_added_ends_with_whoever_adds_it(books: Books) -> None:
    added = add(books, OperatorRequest("ci", ("exec",)), GIVER)
    assert added.expires_at == GIVER.expires_at


@pytest.mark.parametrize(
    "request_", [OperatorRequest("ci", ("pair",)), OperatorRequest("ci", ("exec",), expires_in=5e9)]
)
def test_nobody_hands_on_more_than_it_has(books: Books, request_: OperatorRequest) -> None:
    with pytest.raises(NotAllowed):
        add(books, request_, GIVER)


def test_nobody_removes_one_who_holds_more(books: Books) -> None:
    add(books, OperatorRequest("chief", ("operate", "pair")))
    with pytest.raises(NotAllowed):
        remove(books, "chief", GIVER)
    assert remove(books, "chief").name == "chief"


@pytest.mark.parametrize(
    ("request_", "error"),
    [(OperatorRequest("a b"), UsageError), (OperatorRequest("ci", ("fly",)), UsageError),
     (OperatorRequest("ci", (), "laptop"), UsageError),
     (OperatorRequest("ci", nodes="nobody"), UnknownNode),
     (OperatorRequest("ci", ("pair",), "laptop"), UsageError)],
)  # fmt: skip
def test_what_makes_no_sense_adds_nobody(
    books: Books, home: Home, request_: OperatorRequest, error: type[Exception]
) -> None:
    with pytest.raises(error):
        add(books, request_)
    assert home.trail(action="operator") == []
    with pytest.raises(UnknownOperator):
        remove(books, request_.name)


def test_one_who_is_removed_is_gone_also_where_no_row_can_be_written(books: Books) -> None:
    add(books, OperatorRequest("leaky", allow=("list", "exec")))
    books.trail.close()
    with pytest.raises(AuditUnwritable, match="'leaky' is removed, but without a row"):
        remove(books, "leaky")
    assert OperatorTable(books.store).all() == []
