"""The token store: every pairing with its secrets, sealed.

SQLite in WAL mode. Every change is one transaction, and every secret in it is a Fernet token.
``cryptography`` is imported where a secret is touched: listing and completing names needs none.
"""

import os
import secrets
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from hermes_nodes.clock import timestamp
from hermes_nodes.database import MIGRATIONS, RESTORE, connect, explained, make_file
from hermes_nodes.errors import AlreadyPaired, BadKey, StoreDamaged, UnknownNode
from hermes_nodes.keys import make_cipher

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

_CANARY = b"hermes-nodes token store"
_INSERT = """INSERT INTO pairings (id, name, labels, created_at, expires_at, first_use_by,
        first_used_at, revoked_at, last_seen_at, facts)
    VALUES (:id, :name, :labels, :created_at, :expires_at, :first_use_by,
        :first_used_at, :revoked_at, :last_seen_at, '{}')"""
_TOKENS_OF_KIND = "EXISTS (SELECT 1 FROM pairing_tokens WHERE pairing_id = pairings.id AND kind = '{}')"
_HASH_ONLY = f"{_TOKENS_OF_KIND.format('sha256')} AND NOT {_TOKENS_OF_KIND.format('token')} AS hash_only"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node said of itself, and from where, when it last connected."""

    platform: str | None = None
    arch: str | None = None
    node_version: str | None = None
    capabilities: list[str] = []
    encrypted: bool | None = None
    remote_addr: str | None = None


class Seen(Facts, frozen=True):
    """One node seen at one time."""

    pairing_id: str
    at: str


class Secret(msgspec.Struct, frozen=True):
    """What a node proves to hold: its token, or for an imported record only the token's hash."""

    kind: Literal["token", "sha256"]
    value: str

    def __repr__(self) -> str:
        return f"Secret(kind={self.kind!r}, value=…)"


class Pairing(Facts, frozen=True):
    """One pairing; a name paired again is another one, with another id."""

    id: str
    name: str
    labels: dict[str, str]
    created_at: str
    expires_at: str | None = None
    first_use_by: str | None = None
    first_used_at: str | None = None
    revoked_at: str | None = None
    last_seen_at: str | None = None
    #: The token itself is not known, so that its node can't be sure of us nor we encrypt for it.
    hash_only: bool = False

    def admits(self, now: str) -> bool:
        """Whether its token still opens the door."""
        unused = self.first_used_at is None and self.first_use_by is not None
        ends = (self.expires_at, self.first_use_by if unused else None)
        return self.revoked_at is None and all(end is None or now < end for end in ends)

    def state(self, now: str, connected: bool) -> str:
        """``connected``, ``disconnected``, ``never_seen``, ``revoked`` or ``expired``."""
        if self.revoked_at is not None:
            return "revoked"
        if not self.admits(now):
            return "expired"
        if connected:
            return "connected"
        return "disconnected" if self.last_seen_at else "never_seen"


class TokenStore:
    """The pairings on disk; one thread at a time may use it."""

    def __init__(self, path: Path, database: sqlite3.Connection, cipher: "MultiFernet | None") -> None:
        self._path = path
        self._database = database
        self._cipher = cipher
        #: A read-only look at a store that has no tables yet.
        self._is_blank = False

    @classmethod
    def open(cls, path: Path, keys: Sequence[bytes | str]) -> Self:
        """Open for changes, or make it; BadKey if it was made with none of the keys."""
        cipher = make_cipher(keys)
        with explained(path):
            make_file(path)
            store = cls(path, connect(f"{path.absolute().as_uri()}?mode=rw"), cipher)
            with store._closed_on_failure():
                store._prepare()
        return store

    @classmethod
    def read_only(cls, path: Path) -> Self:
        """Open for listing, which needs no key; a store not made yet lists nothing."""
        with explained(path):
            # A process that was killed may have left a transaction to undo, which needs to write.
            mode = "rw" if os.access(path, os.W_OK) else "ro"
            location = f"{path.absolute().as_uri()}?mode={mode}" if path.exists() else ":memory:"
            store = cls(path, connect(location), None)
            with store._closed_on_failure():
                store._database.execute("PRAGMA query_only = ON")
                store._is_blank = not store._version()
        return store

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        token = "hnt_" + secrets.token_urlsafe(32)
        pairing = Pairing(str(uuid.uuid4()), name, dict(labels or {}), now, expires_at, first_use_by)
        with self._change() as database:
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
        if self._is_blank:
            return None
        with explained(self._path):
            row = self._database.execute("SELECT value FROM meta WHERE key = 'taken_over'").fetchone()
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
        with self._change() as database:
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

    def revoke(self, name: str) -> Pairing:
        """End the name's pairing; one already ended comes back as it is."""
        with self._change():
            live = self.live(name)
            if live is not None:
                self._end(live, timestamp())
            found = self._select("WHERE name = ? ORDER BY revoked_at DESC, rowid DESC", name)
        if not found:
            raise UnknownNode(name)
        return found[0]

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
        with self._change() as database:
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
        with explained(self._path):
            rows = self._database.execute(
                "SELECT kind, secret FROM pairing_tokens WHERE pairing_id = ?"
                " AND (dies_at IS NULL OR dies_at > ?) ORDER BY id DESC",
                (pairing_id, timestamp()),
            ).fetchall()
        return [Secret(row["kind"], self._unseal(row["secret"]).decode()) for row in rows]

    def record_seen(self, seen: Sequence[Seen]) -> None:
        """Note a batch in one transaction; ids that are unknown or revoked are passed over."""
        with self._change() as database:
            database.executemany(
                "UPDATE pairings SET last_seen_at = ?, facts = ?,"
                " first_used_at = coalesce(first_used_at, ?)"
                " WHERE id = ? AND revoked_at IS NULL",
                [(one.at, _facts_json(one), one.at, one.pairing_id) for one in seen],
            )

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which takes the write lock at once: what is read in it stays true."""
        with explained(self._path), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            yield self._database

    def _insert(self, database: sqlite3.Connection, pairing: Pairing, secret: Secret) -> None:
        """Add a pairing; a tombstone keeps no secret."""
        columns = msgspec.structs.asdict(pairing)
        database.execute(_INSERT, {**columns, "labels": _json(pairing.labels)})
        if pairing.revoked_at is None:
            database.execute(
                "INSERT INTO pairing_tokens (pairing_id, kind, secret, created_at) VALUES (?, ?, ?, ?)",
                (pairing.id, secret.kind, self._seal(secret.value.encode()), pairing.created_at),
            )

    def _end(self, pairing: Pairing, now: str) -> None:
        self._database.execute("UPDATE pairings SET revoked_at = ? WHERE id = ?", (now, pairing.id))
        self._database.execute("DELETE FROM pairing_tokens WHERE pairing_id = ?", (pairing.id,))

    def _select(self, clauses: str, *values: str) -> list[Pairing]:
        if self._is_blank:
            return []
        with explained(self._path):
            query = f"SELECT *, {_HASH_ONLY} FROM pairings {clauses}"  # noqa: S608 - the clauses are ours
            return [_pairing(dict(row)) for row in self._database.execute(query, values)]

    @contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        """Look the store over before anything in it is changed, then bring it to our version."""
        if self._version():
            self._check_pages()
            self._check_canary()
        os.chmod(self._path, 0o600)
        for setting in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            self._database.execute(f"PRAGMA {setting}")
        if self._version() < len(MIGRATIONS):
            with self._change():
                self._migrate(self._version())

    def _version(self) -> int:
        """The schema's version; 0 is a store not made yet."""
        version = int(self._database.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise StoreDamaged(
                f"{self._path} was written by a newer hermes-nodes (store version {version})",
                "upgrade hermes-nodes on this machine",
            )
        tables = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if bool(tables) != bool(version):
            raise StoreDamaged(f"{self._path} is not a token store", "check token_store_path")
        return version

    def _check_pages(self) -> None:
        """Measured at 4 ms for ten thousand pairings: cheap enough for every command."""
        verdict = self._database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise StoreDamaged(f"the token store {self._path} is damaged: {verdict}", RESTORE)

    def _check_canary(self) -> None:
        row = self._database.execute("SELECT value FROM meta WHERE key = 'canary'").fetchone()
        if row is None:
            raise StoreDamaged(f"the token store {self._path} has lost its canary", RESTORE)
        try:
            self._unseal(row["value"])
        except StoreDamaged:
            raise BadKey(
                f"the token store {self._path} was made with another key",
                "export the key it was made with, or put it back into .env in the home",
            ) from None

    def _migrate(self, version: int) -> None:
        for steps in MIGRATIONS[version:]:
            for statement in steps:
                self._database.execute(statement)
        if version == 0:
            row = ("canary", self._seal(_CANARY))
            self._database.execute("INSERT INTO meta (key, value) VALUES (?, ?)", row)
        self._database.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _fernet(self) -> "MultiFernet":
        if self._cipher is None:
            raise BadKey("this token store was opened for listing only", "open it with its key")
        return self._cipher

    def _seal(self, secret: bytes) -> bytes:
        return self._fernet().encrypt(secret)

    def _unseal(self, sealed: object) -> bytes:
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 - see the file's head

        try:
            return self._fernet().decrypt(sealed if isinstance(sealed, bytes) else b"")
        except InvalidToken:
            raise StoreDamaged(f"a secret in {self._path} does not open", RESTORE) from None


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
