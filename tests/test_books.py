"""Store and trail opened together: the store knows the chain before its first row, and where it ends."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from hermes_nodes import config, operations
from hermes_nodes.audit.chain import Chains
from hermes_nodes.audit.verify import Report, chains_of, verify
from hermes_nodes.books import CHAIN_KEY, CHAINS, Books, read_chains
from hermes_nodes.config import Settings
from hermes_nodes.errors import AuditUnwritable, BadKey, StoreDamaged
from hermes_nodes.keys import ensure_key
from hermes_nodes.tokens import TokenStore
from tests.audit.support import read
from tests.support import files_limited_to


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return config.load(environ={"HERMES_HOME": str(tmp_path / "h")})


@contextmanager
def opened(settings: Settings, *, lenient: bool = False) -> Iterator[Books]:
    with Books.open(settings, {}, lenient=lenient) as books:
        yield books


def pair(books: Books, name: str) -> None:
    operations.pair(books.store, books.trail, operations.PairRequest(name), "local:me")


def stored(settings: Settings) -> tuple[bytes, Chains]:
    key, _ = ensure_key(settings, {})
    found = read_chains(settings.token_store_path, [key])
    assert found is not None
    return found


def report(settings: Settings) -> Report:
    key, chains = stored(settings)
    return verify(settings.audit_log_path, key, chains_of(chains, settings.audit_log_path))


def test_the_key_is_random_and_in_the_store_sealed(settings: Settings) -> None:
    with opened(settings) as books:
        pair(books, "web-1")
    key, chains = stored(settings)
    assert len(key) == 32
    assert chains.current.seq == 1
    content = settings.token_store_path.read_bytes()
    assert key not in content
    assert chains.current.hash.encode() not in content
    other = dataclasses.replace(settings, token_store_path=settings.home / "other.db")
    with opened(other):
        assert stored(other)[0] != key


def test_the_chain_is_in_the_store_before_its_first_row(settings: Settings) -> None:
    books = Books.open(settings, {})
    pair(books, "web-1")
    # Killed: nothing is saved.
    books.trail.close()
    books.store.close()
    with opened(settings) as books:
        pair(books, "web-2")
    assert (report(settings).damage, report(settings).rows) == (None, 2)


def test_the_head_is_saved_at_the_end_and_whenever_asked(settings: Settings) -> None:
    with opened(settings) as books:
        pair(books, "web-1")
        assert stored(settings)[1].current.seq == 0
        books.trail.sync()
        books.save()
        assert stored(settings)[1].current.seq == 1
        pair(books, "web-2")
        books.save()
        assert stored(settings)[1].current.seq == 1  # the second may not be on the disk yet
    assert stored(settings)[1].current.seq == 2


def test_a_trail_elsewhere_begins_with_a_row_that_names_the_old_one(settings: Settings) -> None:
    with opened(settings) as books:
        pair(books, "web-1")
        pair(books, "web-2")
    moved = dataclasses.replace(settings, audit_log_path=settings.home / "elsewhere" / "trail.log")
    for _ in range(2):
        with opened(moved) as books:
            pass
    (row,) = read(moved.audit_log_path)
    assert (row["action"], row["status"], row["actor"]) == ("settings", "ok", operations.local_actor())
    assert (row["seq"], row["prev"]) == (1, read(settings.audit_log_path)[-1]["hash"])
    assert row["path"] == str(settings.audit_log_path)
    assert "after row 2" in str(row["command"])
    assert report(moved).ok
    assert report(settings).ok


def test_what_has_had_its_time_is_deleted_when_the_store_knows(settings: Settings) -> None:
    settings = dataclasses.replace(settings, audit_max_bytes=1024, audit_retention_days=30)
    with opened(settings) as books:
        for _ in range(6):
            books.trail.append(ts="2026-01-31T12:00:00.000Z", action="start", status="ok")
    with opened(settings) as books:
        pair(books, "web-1")
        pair(books, "web-2")
    with opened(settings) as books:
        pass
    assert (report(settings).damage, report(settings).rows) == (None, len(read(settings.audit_log_path)))
    assert stored(settings)[1].current.first_seq > 1


def test_a_store_that_cannot_take_the_head_is_caught_up_with(settings: Settings) -> None:
    with opened(settings) as books:
        pair(books, "web-1")
    size = settings.token_store_path.stat().st_size
    with files_limited_to(size), opened(settings) as books:
        books.trail.append(action="start", status="ok")
    with opened(settings):
        assert report(settings).rows == 2
    assert stored(settings)[1].current.seq == 2


def test_a_trail_that_cannot_be_opened_stops_it_unless_it_is_lenient(settings: Settings) -> None:
    settings.home.mkdir()
    (settings.home / "logs").write_text("a file")
    with pytest.raises(AuditUnwritable), opened(settings):
        pass
    with opened(settings, lenient=True) as books:
        with pytest.raises(AuditUnwritable):
            pair(books, "web-1")
        os.unlink(settings.home / "logs")
        pair(books, "web-1")
    assert (report(settings).damage, report(settings).rows) == (None, 1)


def test_a_store_that_lies_elsewhere_is_read_with_its_key_alone(settings: Settings, tmp_path: Path) -> None:
    with opened(settings) as books:
        pair(books, "web-1")
    with pytest.raises(BadKey):
        read_chains(settings.token_store_path, ["A" * 43 + "="])
    key, _ = ensure_key(settings, {})
    assert read_chains(tmp_path / "none.db", [key]) is None


def test_a_record_that_makes_no_sense_is_a_damaged_store(settings: Settings) -> None:
    with opened(settings) as books:
        books.store.keep({CHAIN_KEY: b"k" * 32, CHAINS: b"{}"})
    with pytest.raises(StoreDamaged, match="record of the audit trail"):
        stored(settings)


def test_what_is_kept_is_sealed_and_kept_together(tmp_path: Path) -> None:

    with TokenStore.open(tmp_path / "tokens.db", [Fernet.generate_key()]) as store:
        assert store.kept("a") is None
        store.keep({"a": b"one", "b": b"two"})
        store.keep({"a": b"three"})
        assert (store.kept("a"), store.kept("b")) == (b"three", b"two")
    with TokenStore.read_only(tmp_path / "tokens.db") as store, pytest.raises(BadKey):
        store.kept("a")
