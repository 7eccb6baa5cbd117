"""The token store's SQLite file: how it is opened, its schema, its seals, and what its failures mean.

``cryptography`` is imported where a secret is touched: listing and completing names needs none.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from hermes_nodes.disk import open_private
from hermes_nodes.errors import BadKey, HermesNodesError, StoreDamaged, TryAgain, Unavailable
from hermes_nodes.keys import is_store, make_cipher, store_unusable

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

#: ``MIGRATIONS[n]`` takes a store from version n to n + 1.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL)",
        """CREATE TABLE pairings (
            id TEXT PRIMARY KEY, name TEXT NOT NULL, labels TEXT NOT NULL,
            created_at TEXT NOT NULL, expires_at TEXT, first_use_by TEXT, first_used_at TEXT,
            revoked_at TEXT, last_seen_at TEXT, facts TEXT NOT NULL)""",
        "CREATE UNIQUE INDEX live_names ON pairings (name) WHERE revoked_at IS NULL",
        """CREATE TABLE pairing_tokens (
            id INTEGER PRIMARY KEY, pairing_id TEXT NOT NULL REFERENCES pairings (id),
            kind TEXT NOT NULL CHECK (kind IN ('token', 'sha256')), secret BLOB NOT NULL,
            created_at TEXT NOT NULL, dies_at TEXT)""",
        "CREATE INDEX tokens_of_pairing ON pairing_tokens (pairing_id)",
    ),
    (
        """CREATE TABLE operators (
            id TEXT PRIMARY KEY, name TEXT NOT NULL, verbs TEXT NOT NULL, scope TEXT NOT NULL,
            created_at TEXT NOT NULL, created_by TEXT NOT NULL, expires_at TEXT, removed_at TEXT,
            verifier BLOB NOT NULL)""",
        "CREATE UNIQUE INDEX operator_names ON operators (name) WHERE removed_at IS NULL",
    ),
)
#: Where sealed values lie: table, its key, the column. In `meta` others lie beside them.
_SEALED = (("pairing_tokens", "id", "secret"), ("operators", "id", "verifier"), ("meta", "key", "value"))
_CANARY = b"hermes-nodes token store"
#: How long a change waits for another process's.
BUSY_SECONDS = 5.0
RESTORE = "restore it from a backup, or move it away and pair the nodes again"


def make_file(path: Path) -> None:
    """Make the file before SQLite does, which would give it the umask's mode and -wal the same.

    One with content is left alone: to close a file of our own would drop SQLite's locks on it.
    """
    if not is_store(path):
        os.close(open_private(path))


def connect(location: str) -> sqlite3.Connection:
    database = sqlite3.connect(
        location, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True
    )
    database.row_factory = sqlite3.Row
    return database


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system say of this store into an error with a sentence."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a mistake of ours, not the store's
    except (sqlite3.Error, OSError, msgspec.DecodeError) as error:
        raise _explanation(path, error) from error


def _explanation(path: Path, error: Exception) -> HermesNodesError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest is SQLite's extended code
    why = getattr(error, "strerror", None) or str(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return TryAgain(f"the token store {path} is in use by another process")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return Unavailable(f"the token store {path} can't be written: {why}", "look at the disk")
    if isinstance(error, OSError) or code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return store_unusable(path, why)
    return StoreDamaged(f"{path} is damaged, or not a token store: {why}", RESTORE)


class SealedDatabase:
    """The store's file, open, with the key that seals its secrets; one thread at a time may use it."""

    def __init__(self, path: Path, database: sqlite3.Connection, cipher: "MultiFernet | None") -> None:
        self.path = path
        self.database = database
        self._cipher = cipher
        #: The key that seals its secrets; empty when opened for listing only.
        self.key: bytes | str = b""
        #: A read-only look at a store that has no tables yet.
        self.is_blank = False

    @classmethod
    def open(cls, path: Path, keys: Sequence[bytes | str]) -> Self:
        """Open for changes, or make it with the first key; BadKey if it was made with none of them."""
        make_cipher(keys)  # there is one, and each is a key
        ciphers = [make_cipher([key]) for key in keys]
        with explained(path):
            make_file(path)
            store = cls(path, connect(f"{path.absolute().as_uri()}?mode=rw"), ciphers[0])
            with store._closed_on_failure():
                store._prepare(ciphers)
        store.key = keys[ciphers.index(store._fernet())]
        return store

    @classmethod
    def read_only(cls, path: Path, keys: Sequence[bytes | str] = ()) -> Self:
        """Open for listing, which needs no key; a store not made yet lists nothing.

        With keys its secrets can be read; BadKey if it was made with none of them.
        """
        with explained(path):
            # A process that was killed may have left a transaction to undo, which needs to write.
            mode = "rw" if os.access(path, os.W_OK) else "ro"
            location = f"{path.absolute().as_uri()}?mode={mode}" if path.exists() else ":memory:"
            store = cls(path, connect(location), None)
            with store._closed_on_failure():
                store.database.execute("PRAGMA query_only = ON")
                store.is_blank = not store._version()
                if keys and not store.is_blank:
                    store._cipher = store._opening([make_cipher([key]) for key in keys])
        return store

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which takes the write lock at once: what is read in it stays true."""
        with explained(self.path), self.database:
            self.database.execute("BEGIN IMMEDIATE")
            yield self.database

    def kept(self, name: str) -> bytes | None:
        """What `keep` put away under this name."""
        if self.is_blank:
            return None
        with explained(self.path):
            row = self.database.execute("SELECT value FROM meta WHERE key = ?", (name,)).fetchone()
        return self.unseal(row["value"]) if row else None

    def keep(self, values: Mapping[str, bytes]) -> None:
        """Put away what nobody may read or change without the token key, all of it or nothing."""
        rows = [(name, self.seal(value)) for name, value in values.items()]
        with self.change() as database:
            database.executemany("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", rows)

    @contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _prepare(self, ciphers: "Sequence[MultiFernet]") -> None:
        """Look the store over before anything in it is changed, then bring it to our version."""
        if self._version():
            self._check_pages()
            self._cipher = self._opening(ciphers)
        os.chmod(self.path, 0o600)
        for setting in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            self.database.execute(f"PRAGMA {setting}")
        if self._version() < len(MIGRATIONS):
            with self.change():
                self._migrate(self._version())

    def _version(self) -> int:
        """The schema's version; 0 is a store not made yet."""
        # In one statement, as somebody may make the store between two.
        version, tables = self.database.execute(
            "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
        ).fetchone()
        if version > len(MIGRATIONS):
            raise StoreDamaged(
                f"{self.path} was written by a newer hermes-nodes (store version {version})",
                "upgrade hermes-nodes on this machine",
            )
        if bool(tables) != bool(version):
            raise StoreDamaged(f"{self.path} is not a token store", "check token_store_path")
        return int(version)

    def _check_pages(self) -> None:
        """Measured at 4 ms for ten thousand pairings: cheap enough for every command."""
        verdict = self.database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise StoreDamaged(f"the token store {self.path} is damaged: {verdict}", RESTORE)

    def _opening(self, ciphers: "Sequence[MultiFernet]") -> "MultiFernet":
        """The one that the store was made with, or sealed anew with since."""
        row = self.database.execute("SELECT value FROM meta WHERE key = 'canary'").fetchone()
        if row is None:
            raise StoreDamaged(f"the token store {self.path} has lost its canary", RESTORE)
        for cipher in ciphers:
            if _opened(cipher, row["value"]) is not None:
                return cipher
        raise BadKey(
            f"the token store {self.path} was made with another key",
            "export the key it was made with, or put it back into .env in the home",
        )

    def _migrate(self, version: int) -> None:
        for steps in MIGRATIONS[version:]:
            for statement in steps:
                self.database.execute(statement)
        if version == 0:
            row = ("canary", self.seal(_CANARY))
            self.database.execute("INSERT INTO meta (key, value) VALUES (?, ?)", row)
        self.database.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _fernet(self) -> "MultiFernet":
        if self._cipher is None:
            raise BadKey("this token store was opened for listing only", "open it with its key")
        return self._cipher

    def seal(self, secret: bytes) -> bytes:
        return self._fernet().encrypt(secret)

    def unseal(self, sealed: object) -> bytes:
        opened = _opened(self._fernet(), sealed)
        if opened is None:
            raise StoreDamaged(f"a secret in {self.path} does not open", RESTORE)
        return opened

    def rekey(self, key: str, before_commit: Callable[[], object] = lambda: None) -> None:
        """Seal every secret anew under another key, in one transaction; the old key opens nothing then.

        If ``before_commit`` raises, nothing has happened.
        """
        old, cipher = self._fernet(), make_cipher([key])
        with self.change() as database:
            for table, name, column in _SEALED:
                rows = database.execute(f"SELECT {name}, {column} FROM {table}").fetchall()  # noqa: S608 - ours
                opened = ((row[0], _opened(old, row[1])) for row in rows)
                sealed = [(cipher.encrypt(secret), at) for at, secret in opened if secret is not None]
                database.executemany(f"UPDATE {table} SET {column} = ? WHERE {name} = ?", sealed)  # noqa: S608
            before_commit()
        self._cipher, self.key = cipher, key

    def clear_log(self) -> None:
        """Drop what was sealed under an old key from the log that SQLite keeps beside the file."""
        with explained(self.path):
            self.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _opened(cipher: "MultiFernet", sealed: object) -> bytes | None:
    """What a Fernet token holds; None if it does not open with this cipher, or is none."""
    from cryptography.fernet import InvalidToken  # noqa: PLC0415 - see the file's head

    try:
        return cipher.decrypt(sealed if isinstance(sealed, bytes) else b"")
    except InvalidToken:
        return None
