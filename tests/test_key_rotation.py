"""`key rotate`: every secret under a new key, and a store that opens whenever it is broken off."""

import os
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.fernet import Fernet, InvalidToken

from hermes_nodes import administration, database, keys
from hermes_nodes.books import Books
from hermes_nodes.errors import AuditUnwritable, Unavailable
from hermes_nodes.operator_table import OperatorTable
from hermes_nodes.operators import Scope
from hermes_nodes.tokens import TokenStore
from tests.harness import Home, scripted_node
from tests.network import add_operator

KEY = "HERMES_NODES_TOKEN_KEY"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a pairing under rotation, an operator, and one that was removed."""
    home = Home(tmp_path)
    with books(home) as opened:
        opened.store.pair("laptop")
        opened.store.rotate("laptop", "2999-01-01T00:00:00.000Z")
        table = OperatorTable(opened.store)
        for name in ("ci", "gone"):
            table.add(name, verbs=("list",), scope=Scope(("all",)), expires_at=None, created_by="test")
        table.remove("gone")
    return home


def books(home: Home, **environ: str) -> Books:
    return Books.open(home.settings, {**home.environ, **environ}, tell=lambda _: None)


def rotate(home: Home, opened: Books, **environ: str) -> list[str]:
    return administration.rotate_key(
        opened.store, opened.trail, home.settings, {**home.environ, **environ}, "local:test"
    )


def saved(home: Home) -> dict[str, str]:
    lines = (home.path / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def sealed(home: Home) -> list[bytes]:
    """Every Fernet token of the store."""
    with closing(sqlite3.connect(home.settings.token_store_path)) as store:
        rows = [
            row[0]
            for table, _, column in database._SEALED
            for row in store.execute(f"SELECT {column} FROM {table}")  # noqa: S608 - names of our own
        ]
    return [row for row in rows if isinstance(row, bytes) and row.startswith(b"gAAAA")]


def opens(key: str, token: bytes) -> bool:
    try:
        Fernet(key).decrypt(token)
    except InvalidToken:
        return False
    return True


def assert_sealed_anew(home: Home, old: str) -> None:
    """All of it opens with the key in the file, nothing with the old one, which is nowhere any more."""
    assert set(saved(home)) == {KEY}
    new = saved(home)[KEY]
    assert new != old
    tokens = sealed(home)
    assert len(tokens) >= 5  # two tokens, a verifier, the canary and the trail's key
    assert all(opens(new, token) for token in tokens)
    assert not any(opens(old, token) for token in tokens)


def assert_opens(home: Home, **environ: str) -> None:
    """With everything in it, and with no key left over."""
    with books(home, **environ) as opened:
        pairing = opened.store.live("laptop")
        assert pairing is not None
        assert len(opened.store.secrets(pairing.id)) == 2
        assert len(OperatorTable(opened.store).known()) == 1
    assert set(saved(home)) == {KEY}


def test_every_secret_opens_with_the_new_key_alone(home: Home) -> None:
    old = saved(home)[KEY]
    done = home.run("key", "rotate")
    assert (done.returncode, done.stdout) == (0, b"")
    assert saved(home)[KEY].encode() not in done.stderr
    assert_sealed_anew(home, old)
    assert_opens(home)
    assert home.run("audit", "verify").returncode == 0


def test_what_was_sealed_under_the_old_key_is_in_none_of_the_stores_files(home: Home) -> None:
    with books(home) as opened:
        before = sealed(home)
        rotate(home, opened)
        left = b"".join(
            path.read_bytes() for path in home.settings.token_store_path.parent.glob("tokens.db*")
        )
    assert not [token for token in before if token in left]


async def test_a_running_gateway_goes_on_with_the_new_key(home: Home) -> None:
    old = saved(home)[KEY]
    with home.gateway() as gateway:
        home.ok("key", "rotate")
        assert_sealed_anew(home, old)
        token = home.pair("other")
        add_operator(home, "later")
        async with scripted_node(gateway.url) as node:
            await node.log_in("other", token)
    with home.gateway() as gateway:
        async with scripted_node(gateway.url) as node:
            await node.log_in("other", token)
    assert home.run("audit", "verify").returncode == 0
    (row,) = home.trail(action="key")
    assert (row["status"], row["command"]) == ("ok", "rotate")


def test_it_says_what_to_do_about_an_exported_key_which_is_refused_afterwards(home: Home) -> None:
    old = saved(home)[KEY]
    done = home.run("key", "rotate", **{KEY: old})
    assert done.returncode == 0
    assert b"is exported with the old key" in done.stderr
    refused = home.run("pair", "other", **{KEY: old})
    assert refused.returncode == 77
    assert b"unset HERMES_NODES_TOKEN_KEY" in refused.stderr
    assert home.run("pair", "other").returncode == 0


def test_a_key_that_was_only_exported_is_in_the_file_from_then_on(home: Home) -> None:
    old = saved(home)[KEY]
    (home.path / ".env").unlink()
    home.ok("key", "rotate", **{KEY: old})
    assert_sealed_anew(home, old)
    assert_opens(home)


def test_without_a_store_there_is_no_key_to_rotate(tmp_path: Path) -> None:
    done = Home(tmp_path).run("key", "rotate")
    assert done.returncode == 77
    assert b"no token store yet" in done.stderr


# -- broken off ---------------------------------------------------------------------------------------


class Killed(BaseException):
    """What ends a process at any moment."""


class Step(NamedTuple):
    """Something that a rotation does, and how often it succeeds with that before it fails."""

    where: object
    name: str
    before: int = 0

    def breaks(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        works, calls = getattr(self.where, self.name), count()

        def broken(*args: object, **options: object) -> object:
            if next(calls) == self.before:
                raise error
            return works(*args, **options)

        monkeypatch.setattr(self.where, self.name, broken)


SEAL, CLEAR = Step(TokenStore, "rekey"), Step(TokenStore, "clear_log")
#: An earlier rotation is brought to its end first.
SAVE = Step(administration, "finish_rotation", before=1)
STEPS = {"announce": Step(administration, "announce_key"), "seal": SEAL, "save": SAVE, "clear": CLEAR}
FULL = Unavailable("the disk is full")


@pytest.mark.parametrize("error", [Killed(), FULL], ids=["killed", "full"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("exported", [False, True])
def test_broken_off_at_any_step_it_leaves_a_store_that_opens(
    home: Home, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException, exported: bool
) -> None:
    environ = {KEY: saved(home)[KEY]} if exported else {}
    with books(home, **environ) as opened, monkeypatch.context() as patch:
        STEPS[step].breaks(patch, error)
        with pytest.raises(type(error)):
            rotate(home, opened, **environ)
    assert_opens(home)


def test_a_row_that_can_not_be_written_leaves_the_old_key(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, tokens = saved(home), sealed(home)
    with books(home) as opened:
        Step(opened.trail, "append").breaks(monkeypatch, AuditUnwritable(Path("trail"), OSError("full")))
        with pytest.raises(AuditUnwritable):
            rotate(home, opened)
        assert (saved(home), sealed(home)) == (before, tokens)
        monkeypatch.undo()
    assert_opens(home)


def test_again_after_one_that_could_not_be_saved_no_key_is_lost(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = saved(home)[KEY]
    with books(home) as opened:
        with monkeypatch.context() as patch:
            SAVE.breaks(patch, FULL)
            with pytest.raises(Unavailable):
                rotate(home, opened)
        with monkeypatch.context() as patch:
            # The store is sealed with a key that is only the announced one: this must not cost it.
            SEAL.breaks(patch, Killed())
            with pytest.raises(Killed):
                rotate(home, opened)
    assert_opens(home)
    assert_sealed_anew(home, old)


def test_a_home_that_takes_no_key_is_opened_with_the_one_that_waits(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, told = saved(home)[KEY], list[str]()
    with monkeypatch.context() as patch:
        SAVE.breaks(patch, FULL)
        with books(home) as opened, pytest.raises(Unavailable):
            rotate(home, opened)
    with monkeypatch.context() as patch:
        patch.setattr(keys, "_save", _full)
        Books.open(home.settings, home.environ, tell=told.append).close()
    assert [f"{KEY}_NEXT" in sentence for sentence in told] == [True]
    assert_opens(home)
    assert_sealed_anew(home, old)


def _full(*_: object) -> None:
    raise FULL


def test_who_exports_the_new_key_is_not_told_that_it_is_the_old_one(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    SAVE.breaks(monkeypatch, FULL)
    with books(home) as opened, pytest.raises(Unavailable):
        rotate(home, opened)
    monkeypatch.undo()
    told: list[str] = []
    exported = {**home.environ, KEY: saved(home)[f"{KEY}_NEXT"]}
    Books.open(home.settings, exported, tell=told.append).close()
    assert [sentence for sentence in told if "old key" in sentence] == []


def test_a_disk_that_fails_right_after_the_sealing_does_not_cost_the_key(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = saved(home)[KEY]
    with books(home) as opened:
        CLEAR.breaks(monkeypatch, FULL)
        with pytest.raises(Unavailable):
            rotate(home, opened)
    assert_sealed_anew(home, old)
    assert_opens(home)


def test_other_lines_of_the_file_stay(home: Home) -> None:
    path = home.path / ".env"
    path.write_text("A=1\n" + path.read_text() + "B=2\n")
    home.ok("key", "rotate")
    assert {"A", "B", KEY} == set(saved(home))
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_keys_of_a_rotation_are_named_as_such(home: Home) -> None:
    key = keys.announce_key(home.settings)
    assert keys.next_key(home.settings) == [key]
    keys.withdraw_key(home.settings)
    assert keys.next_key(home.settings) == []
