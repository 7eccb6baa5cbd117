"""The operators in the store: what is kept of them, and what is not."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from hermes_nodes.errors import AlreadyExists, StoreDamaged, Unavailable, UnknownOperator
from hermes_nodes.operator_table import Known, OperatorTable
from hermes_nodes.operators import Operator, Scope, is_proof
from hermes_nodes.tokens import TokenStore
from tests.test_tokens import change

KEY = Fernet.generate_key()
PAST, FUTURE = "2001-01-01T00:00:00.000Z", "2999-01-01T00:00:00.000Z"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nodes" / "tokens.db"


@pytest.fixture
def store(path: Path) -> Iterator[TokenStore]:
    with TokenStore.open(path, [KEY]) as store:
        yield store


@pytest.fixture
def table(store: TokenStore) -> OperatorTable:
    return OperatorTable(store)


def add(table: OperatorTable, name: str = "ci", expires_at: str | None = None) -> tuple[Known, str]:
    scope = Scope(("web-*",), {"id-1": "db"})
    return table.add(
        name, verbs=("list", "exec"), scope=scope, expires_at=expires_at, created_by="local:me"
    )


def test_an_operator_is_there_after_reopening(path: Path) -> None:
    with TokenStore.open(path, [KEY]) as store:
        known, token = add(OperatorTable(store), expires_at=FUTURE)
    with TokenStore.open(path, [KEY]) as store:
        assert OperatorTable(store).known() == [known]
        assert OperatorTable(store).all() == [known.operator]
    assert is_proof(token, known.verifier)


def test_of_its_token_only_a_sealed_verifier_is_kept(table: OperatorTable, path: Path) -> None:
    known, token = add(table)
    files = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert token.rpartition(".")[2].encode() not in files
    assert known.verifier not in files
    assert known.verifier.hex().encode() not in files


def test_a_name_is_taken_until_its_operator_is_removed(table: OperatorTable) -> None:
    first, _ = add(table)
    with pytest.raises(AlreadyExists):
        add(table)
    assert table.remove("ci").removed_at is not None
    second, _ = add(table)
    assert second.operator.id != first.operator.id
    assert [known.operator for known in table.known()] == [second.operator]


def test_an_expired_operator_gives_its_name_up(table: OperatorTable) -> None:
    add(table, expires_at=PAST)
    second, _ = add(table)
    assert table.all() == [second.operator]


def test_nothing_is_left_that_a_removed_operators_token_could_be_checked_against(
    table: OperatorTable, store: TokenStore
) -> None:
    add(table)
    table.remove("ci")
    assert [bytes(row[0]) for row in store.database.execute("SELECT verifier FROM operators")] == [b""]
    with pytest.raises(UnknownOperator):
        table.remove("ci")


def test_what_can_not_be_written_down_has_not_happened(table: OperatorTable) -> None:
    def refuse(_: Operator) -> None:
        raise Unavailable("the disk is full")

    with pytest.raises(Unavailable, match="disk is full"):
        table.add(
            "ci", verbs=("list",), scope=Scope(), expires_at=None, created_by="x", before_commit=refuse
        )
    assert table.all() == []


def test_a_verifier_that_somebody_has_put_there_opens_nothing(table: OperatorTable, path: Path) -> None:
    known, _ = add(table)
    change(path, "UPDATE operators SET verifier = ?", known.verifier)
    with pytest.raises(StoreDamaged):
        table.known()


def test_a_store_that_is_not_made_yet_has_no_operators(path: Path) -> None:
    with TokenStore.read_only(path) as store:
        assert OperatorTable(store).all() == []
