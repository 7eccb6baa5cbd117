"""The operators in the token store: their records, and of their tokens nothing but a sealed verifier."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from hermes_nodes.clock import timestamp
from hermes_nodes.database import SealedDatabase, explained
from hermes_nodes.errors import AlreadyExists, UnknownOperator
from hermes_nodes.operators import Operator, Scope, mint

_INSERT = """INSERT INTO operators (id, name, verbs, scope, created_at, created_by, expires_at, verifier)
    VALUES (:id, :name, :verbs, :scope, :created_at, :created_by, :expires_at, :verifier)"""
_COLUMNS = "id, name, verbs, scope, created_at, created_by, expires_at, removed_at"


class Known(NamedTuple):
    """An operator and what its token is checked against."""

    operator: Operator
    verifier: bytes


class OperatorTable:
    """The operators of one store, which its caller opens and closes."""

    def __init__(self, store: SealedDatabase) -> None:
        self._store = store

    def add(
        self,
        name: str,
        *,
        verbs: tuple[str, ...],
        scope: Scope,
        expires_at: str | None,
        created_by: str,
        before_commit: Callable[[Operator], object] = lambda _: None,
    ) -> tuple[Known, str]:
        """A new operator and its token, which can't be had again later; AlreadyExists.

        One that has expired gives its name up. If ``before_commit`` raises, nothing has happened.
        """
        minted, now = mint(), timestamp()
        operator = Operator(minted.id, name, verbs, scope, now, created_by, expires_at)
        with self._store.change() as database:
            if any(old.name == name and old.is_valid(now) for old in self._select()):
                raise AlreadyExists(
                    f"there is an operator {name!r}", "remove it first, or choose another name"
                )
            database.execute(
                "UPDATE operators SET removed_at = ? WHERE name = ? AND removed_at IS NULL", (now, name)
            )
            columns = {
                **msgspec.structs.asdict(operator),
                "verbs": ",".join(verbs),
                "scope": msgspec.json.encode(scope).decode(),
                "verifier": self._store.seal(minted.verifier),
            }
            database.execute(_INSERT, columns)
            before_commit(operator)
        return Known(operator, minted.verifier), minted.token

    def remove(self, name: str) -> Operator:
        """End an operator for good; what it was stays in the table. Raises UnknownOperator."""
        now = timestamp()
        with self._store.change() as database:
            found = [operator for operator in self._select() if operator.name == name]
            if not found:
                raise UnknownOperator(name)
            # Nothing is left that its token could be checked against.
            database.execute(
                "UPDATE operators SET removed_at = ?, verifier = x'' WHERE id = ?", (now, found[0].id)
            )
        return msgspec.structs.replace(found[0], removed_at=now)

    def all(self) -> list[Operator]:
        """Those that have not been removed, by name."""
        if self._store.is_blank:
            return []
        with explained(self._store.path):
            return self._select()

    def known(self) -> list[Known]:
        """The same with what their tokens are checked against."""
        with explained(self._store.path):
            sealed = dict(
                self._store.database.execute(
                    "SELECT id, verifier FROM operators WHERE removed_at IS NULL"
                ).fetchall()
            )
        return [Known(operator, self._store.unseal(sealed[operator.id])) for operator in self.all()]

    def _select(self) -> list[Operator]:
        query = f"SELECT {_COLUMNS} FROM operators WHERE removed_at IS NULL ORDER BY name"  # noqa: S608 - ours
        return [_operator(dict(row)) for row in self._store.database.execute(query)]


def _operator(columns: dict[str, str | None]) -> Operator:
    verbs = tuple((columns["verbs"] or "").split(","))
    scope = msgspec.json.decode(columns["scope"] or "", type=Scope)
    return Operator(**{**columns, "verbs": verbs, "scope": scope})  # type: ignore[arg-type]
