"""The token store's SQLite file: how it is made, its schema, and what its failures mean."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hermes_nodes.disk import open_private
from hermes_nodes.errors import HermesNodesError, StoreDamaged, TryAgain, Unavailable
from hermes_nodes.keys import is_store, store_unusable

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
)
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
