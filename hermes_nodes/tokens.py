"""The token store: every pairing with its secrets, sealed. Every change is one transaction."""

import os
import secrets
import sqlite3
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hermes_nodes.clock import timestamp
from hermes_nodes.database import SealedDatabase, explained
from hermes_nodes.errors import AlreadyPaired, UnknownNode
from hermes_nodes.records import Facts, Pairing, Secret, Seen

_INSERT = """INSERT INTO pairings (id, name, labels, created_at, expires_at, first_use_by,
        first_used_at, revoked_at, last_seen_at, facts)
    VALUES (:id, :name, :labels, :created_at, :expires_at, :first_use_by,
        :first_used_at, :revoked_at, :last_seen_at, '{}')"""
_TOKENS_OF_KIND = "EXISTS (SELECT 1 FROM pairing_tokens WHERE pairing_id = pairings.id AND kind = '{}')"
_HASH_ONLY = f"{_TOKENS_OF_KIND.format('sha256')} AND NOT {_TOKENS_OF_KIND.format('token')} AS hash_only"


class TokenStore(SealedDatabase):
    """The pairings on disk; one thread at a time may use it."""

    def pairings(self, *, include_revoked: bool = False) -> list[Pairing]:
        """All pairings by name; of one name the older first."""
        condition = "" if include_revoked else "WHERE revoked_at IS NULL"
        return self._select(f"{condition} ORDER BY name, created_at, rowid")

    def live(self, name: str) -> Pairing | None:
        """The pairing of that name that is not revoked; it may have expired."""
        found = self._select("WHERE name = ? AND revoked_at IS NULL", name)
        return found[0] if found else None

    def pair(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        expires_at: str | None = None,
        first_use_by: str | None = None,
        replace: bool = False,
        before_commit: Callable[[Pairing, Pairing | None], object] = lambda *_: None,
    ) -> tuple[Pairing, str]:
        """A new pairing and its token, which can't be had again later.

        ``before_commit`` gets it and the one that it replaces; if it raises, nothing has happened.

        AlreadyPaired if the name has one, revoked or not by then by its expiry; ``replace``
        revokes that one in the same transaction. The name is taken as it is: see ``check_name``.
        """
        now = timestamp()
        token = _new_token()
        pairing = Pairing(str(uuid.uuid4()), name, dict(labels or {}), now, expires_at, first_use_by)
        with self.change() as database:
            old = self.live(name)
            if old is not None and not replace:
                raise AlreadyPaired(name)
            if old is not None:
                self._end(old, now)
            self._insert(database, pairing, Secret("token", token))
            before_commit(pairing, old)
        return pairing, token

    def taken_over(self) -> Path | None:
        """The file that the older system's pairings came from, if they were taken over."""
        if self.is_blank:
            return None
        with explained(self.path):
            row = self.database.execute("SELECT value FROM meta WHERE key = 'taken_over'").fetchone()
        return Path(os.fsdecode(row["value"])) if row else None

    def take_over(
        self,
        source: Path,
        found: Sequence[tuple[Pairing, Secret]],
        *,
        before_commit: Callable[[Sequence[Pairing]], object] = lambda _: None,
    ) -> list[Pairing]:
        """Add the older system's pairings, and remember that for ever: a second time adds nothing.

        Gives them as they are now: one whose name is paired here already is a tombstone. If
        ``before_commit`` raises, nothing has happened.
        """
        now = timestamp()
        with self.change() as database:
            if self.taken_over() is not None:
                return []
            held = {pairing.name for pairing in self.pairings()}
            added = [_ended(pairing, now) if pairing.name in held else pairing for pairing, _ in found]
            for pairing, (_, secret) in zip(added, found, strict=True):
                self._insert(database, pairing, secret)
            mark = ("taken_over", os.fsencode(source))
            database.execute("INSERT INTO meta (key, value) VALUES (?, ?)", mark)
            before_commit(added)
        return added

    def revoke(self, name: str, *, within: Callable[[Pairing], bool] = lambda _: True) -> Pairing:
        """End the name's pairing; one already ended comes back as it is.

        ``within`` says which pairings are meant at all: UnknownNode if the name has none of these, or has
        been paired anew as another.
        """
        with self.change():
            live = self.live(name)
            if live is not None and not within(live):
                raise UnknownNode(name)
            if live is not None:
                self._end(live, timestamp())
            ended = self._select("WHERE name = ? ORDER BY revoked_at DESC, rowid DESC", name)
        found = next(filter(within, ended), None)
        if found is None:
            raise UnknownNode(name)
        return found

    def label(
        self,
        name: str,
        changes: Mapping[str, str | None],
        *,
        before_commit: Callable[[Pairing], object] = lambda _: None,
    ) -> Pairing:
        """Set labels, and drop those whose value is None; raises UnknownNode.

        ``before_commit`` gets the pairing as it will be; if it raises, nothing has happened.
        """
        with self.change() as database:
            pairing = self.live(name)
            if pairing is None:
                raise UnknownNode(name)
            merged = {**pairing.labels, **changes}
            labels = {key: value for key, value in merged.items() if value is not None}
            database.execute("UPDATE pairings SET labels = ? WHERE id = ?", (_json(labels), pairing.id))
            changed = msgspec.structs.replace(pairing, labels=labels)
            before_commit(changed)
        return changed

    def secrets(self, pairing_id: str) -> list[Secret]:
        """What this pairing may be proved with now, the newest first."""
        with explained(self.path):
            rows = self.database.execute(
                "SELECT kind, secret, id, dies_at FROM pairing_tokens WHERE pairing_id = ?"
                " AND (dies_at IS NULL OR dies_at > ?) ORDER BY id DESC",
                (pairing_id, timestamp()),
            ).fetchall()
        return [
            Secret(row["kind"], self.unseal(row["secret"]).decode(), row["id"], row["dies_at"])
            for row in rows
        ]

    def rotate(
        self,
        name: str,
        dies_at: str,
        *,
        cut: bool = False,
        within: Callable[[Pairing], bool] = lambda _: True,
        before_commit: Callable[[Pairing], object] = lambda _: None,
    ) -> tuple[Pairing, str, str | None]:
        """A new token for a pairing, and when the old one dies unless the new one is used before.

        Within such a time only the new one is replaced, and ``cut`` may make that time shorter. Raises
        UnknownNode, also for a pairing that is not ``within`` those that are meant; if ``before_commit``
        raises, nothing has happened.
        """
        token = _new_token()
        with self.change() as database:
            pairing = self.live(name)
            if pairing is None or not within(pairing):
                raise UnknownNode(name)
            good = self.secrets(pairing.id)
            # First, as SQLite would give it the id of a row that is gone, and sessions go by that.
            self._insert_secret(database, pairing.id, Secret("token", token), timestamp())
            if len(good) > 1:
                database.execute("DELETE FROM pairing_tokens WHERE id = ?", (good[0].id,))
            old = good[-1] if good else None
            if old is not None and (old.dies_at is None or (cut and dies_at < old.dies_at)):
                database.execute("UPDATE pairing_tokens SET dies_at = ? WHERE id = ?", (dies_at, old.id))
            before_commit(pairing)
            ends = [secret.dies_at for secret in self.secrets(pairing.id)[1:]]
        return pairing, token, ends[0] if ends else None

    def retire_older(self, pairing_id: str, secret_id: int) -> None:
        """Drop the secrets of a pairing that are older than the one that has been used."""
        with self.change() as database:
            database.execute(
                "DELETE FROM pairing_tokens WHERE pairing_id = ? AND id < ?", (pairing_id, secret_id)
            )

    def record_seen(self, seen: Sequence[Seen]) -> None:
        """Note a batch in one transaction; ids that are unknown or revoked are passed over."""
        with self.change() as database:
            database.executemany(
                "UPDATE pairings SET last_seen_at = ?, facts = ?,"
                " first_used_at = coalesce(first_used_at, ?)"
                " WHERE id = ? AND revoked_at IS NULL",
                [(one.at, _facts_json(one), one.at, one.pairing_id) for one in seen],
            )

    def _insert(self, database: sqlite3.Connection, pairing: Pairing, secret: Secret) -> None:
        """Add a pairing; a tombstone keeps no secret."""
        columns = msgspec.structs.asdict(pairing)
        database.execute(_INSERT, {**columns, "labels": _json(pairing.labels)})
        if pairing.revoked_at is None:
            self._insert_secret(database, pairing.id, secret, pairing.created_at)

    def _insert_secret(
        self, database: sqlite3.Connection, pairing_id: str, secret: Secret, now: str
    ) -> None:
        database.execute(
            "INSERT INTO pairing_tokens (pairing_id, kind, secret, created_at) VALUES (?, ?, ?, ?)",
            (pairing_id, secret.kind, self.seal(secret.value.encode()), now),
        )

    def _end(self, pairing: Pairing, now: str) -> None:
        self.database.execute("UPDATE pairings SET revoked_at = ? WHERE id = ?", (now, pairing.id))
        self.database.execute("DELETE FROM pairing_tokens WHERE pairing_id = ?", (pairing.id,))

    def _select(self, clauses: str, *values: str) -> list[Pairing]:
        if self.is_blank:
            return []
        with explained(self.path):
            query = f"SELECT *, {_HASH_ONLY} FROM pairings {clauses}"  # noqa: S608 - the clauses are ours
            return [_pairing(dict(row)) for row in self.database.execute(query, values)]


def _new_token() -> str:
    """A token with 256 random bits."""
    return "hnt_" + secrets.token_urlsafe(32)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _facts_json(seen: Seen) -> str:
    return _json({name: getattr(seen, name) for name in Facts.__struct_fields__})


def _pairing(columns: dict[str, Any]) -> Pairing:
    facts = msgspec.json.decode(columns.pop("facts", None) or b"", type=dict[str, Any])
    labels = msgspec.json.decode(columns.pop("labels", None) or b"")
    flags = {"hash_only": bool(columns.pop("hash_only", False))}
    return msgspec.convert({**columns, **facts, **flags, "labels": labels}, Pairing)


def _ended(pairing: Pairing, now: str) -> Pairing:
    return msgspec.structs.replace(pairing, revoked_at=now, hash_only=False)
