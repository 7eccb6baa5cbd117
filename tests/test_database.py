"""The store's file: what is seen of it while another process makes it."""

import sqlite3
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from hermes_nodes import database
from hermes_nodes.tokens import TokenStore


def test_a_look_at_a_store_that_is_being_made_sees_all_of_it_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "nodes" / "tokens.db"
    database.make_file(path)
    connect = database.connect

    def make_it(sql: str) -> None:
        if "sqlite_master" in sql and path.stat().st_size == 0:
            monkeypatch.setattr(database, "connect", connect)
            TokenStore.open(path, [Fernet.generate_key()]).close()

    def watched(location: str) -> sqlite3.Connection:
        connection = connect(location)
        connection.set_trace_callback(make_it)
        return connection

    monkeypatch.setattr(database, "connect", watched)
    with TokenStore.read_only(path) as store:
        assert store.is_blank or store.pairings() == []
    with TokenStore.read_only(path) as store:
        assert not store.is_blank
