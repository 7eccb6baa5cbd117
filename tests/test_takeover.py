"""Taking over the older system's pairings: what is accepted, what is refused, and that it is done once."""

import base64
import dataclasses
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from hermes_nodes import config, operations, takeover
from hermes_nodes.audit import tail
from hermes_nodes.books import Books
from hermes_nodes.config import Settings
from hermes_nodes.errors import AuditUnwritable, BadKey, HermesNodesError, SettingsError, StoreDamaged
from hermes_nodes.operations import PairRequest
from hermes_nodes.records import Pairing, Secret
from hermes_nodes.tokens import TokenStore
from tests.older_home import CREATED, KEY, RECORDS, USED, VARIABLE, leave, record, sealed
from tests.support import proofs

OTHER_KEY = Fernet.generate_key().decode()
WITH_KEY = {VARIABLE: KEY}
CREATED_AT, USED_AT = "2025-11-02T08:15:30.123Z", "2026-01-31T12:00:00.000Z"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return config.load(environ={"HERMES_HOME": str(tmp_path / "h")})


@pytest.fixture
def path(settings: Settings) -> Path:
    settings.nodes_dir.mkdir(parents=True)
    return settings.nodes_dir / "tokens.json"


def opened(settings: Settings, environ: dict[str, str] | None = None) -> list[str]:
    """What opening the store, as every change does, says of what it has done."""
    notes: list[str] = []
    Books.open(settings, WITH_KEY if environ is None else environ, tell=notes.append).close()
    return notes


def pairings(settings: Settings) -> list[Pairing]:
    with TokenStore.read_only(settings.token_store_path) as store:
        return store.pairings(include_revoked=True)


def names(settings: Settings) -> list[str]:
    return [pairing.name for pairing in pairings(settings) if pairing.revoked_at is None]


# -- what a record becomes --


def test_a_live_record_becomes_a_pairing_of_which_only_the_hash_is_known(path: Path) -> None:
    path.write_bytes(sealed([record("web-1", last_used_at=USED)]))
    ((pairing, secret),) = takeover.read(path, KEY)
    assert (pairing.name, pairing.labels, pairing.hash_only) == ("web-1", {}, True)
    assert (pairing.created_at, pairing.last_seen_at) == (CREATED_AT, USED_AT)
    assert (pairing.first_used_at, pairing.revoked_at) == (USED_AT, None)
    assert secret == Secret("sha256", str(record("web-1")["token_hash"]))
    assert pairing.state(USED_AT, connected=False) == "disconnected"


def test_a_revoked_record_becomes_a_tombstone(path: Path) -> None:
    path.write_bytes(sealed([record("web-1", revoked=True), record("web-1", revoked=True)]))
    found = [pairing for pairing, _ in takeover.read(path, KEY)]
    assert all(pairing.revoked_at is not None and not pairing.hash_only for pairing in found)
    assert len({pairing.id for pairing in found}) == 2


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-01-31T12:00:00Z", USED_AT),
        ("2026-01-31t12:00:00z", USED_AT),
        ("2026-01-31T12:00:00.000000000+00:00", USED_AT),
        ("2026-01-31T06:30:00-05:30", USED_AT),
        ("2026-01-31 12:00:00", USED_AT),
        ("2026-01-31T12:00:00.0009", USED_AT),
        (1_769_860_800, USED_AT),
        (1_769_860_800.25, "2026-01-31T12:00:00.250Z"),
        (None, None),
        (..., None),
        ("", None),
    ],
)
def test_a_time_may_be_written_in_many_ways(path: Path, written: object, read: str | None) -> None:
    path.write_bytes(sealed([record("web-1", last_used_at=written)]))
    assert takeover.read(path, KEY)[0][0].last_seen_at == read


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"token_hash": "AB" * 32}, "web-1"),
        ({"name": "build box (2), all"}, "build box (2), all"),
        ({"name": " web-1\t"}, "web-1"),
        ({"labels": ["x"], "expires": {"a": 1}}, "web-1"),
    ],
)
def test_what_may_differ_in_a_record(path: Path, change: dict[str, object], name: str) -> None:
    path.write_bytes(b"\n" + sealed([record("web-1", **change)], written_by={"x": 1}) + b"\r\n")
    ((pairing, secret),) = takeover.read(path, KEY)
    assert pairing.name == name
    assert secret.value == secret.value.lower()


def test_a_file_without_records_is_taken_over_too(settings: Settings, path: Path) -> None:
    path.write_bytes(sealed([]))
    assert opened(settings) == [f"took over 0 pairings (0 revoked) from {path}"]
    assert takeover.pending(settings) is None


# -- what is refused --


def _with(*records: object, **changed: Any) -> bytes:
    return sealed([record("nas"), *records], **changed)


def _cut(content: bytes, count: int) -> bytes:
    """Without the last bytes of what the base64 stands for."""
    return base64.urlsafe_b64encode(base64.urlsafe_b64decode(content)[:-count])


DAMAGES = {
    "empty": (b"", "not a Fernet token"),
    "plain JSON": (b'{"version": 1, "records": []}', "not a Fernet token"),
    "not JSON": (Fernet(KEY).encrypt(b"records"), "the document can't be understood"),
    "not UTF-8": (Fernet(KEY).encrypt(b'{"version": 1, "records": ["\xff"]}'), "can't be understood"),
    "a list": (Fernet(KEY).encrypt(b"[]"), "the document can't be understood"),
    "deep": (Fernet(KEY).encrypt(b"[" * 100_000), "the document can't be understood"),
    "no version": (Fernet(KEY).encrypt(b'{"records": []}'), "`version`"),
    "version 2": (_with(version=2, records={}), "of version 2"),
    "no records": (Fernet(KEY).encrypt(b'{"version": 1}'), "the list of records"),
    "records no list": (_with(records={}), "the list of records"),
    "a record no object": (_with("web-1"), "record 2 "),
    "a key missing": (_with(record("web-1", revoked=...)), "record 2 .*`revoked`"),
    "revoked no truth": (_with(record("web-1", revoked="no")), "record 2 "),
    "hash too short": (_with(record("web-1", token_hash="ab" * 31)), "record 2 has a token_hash"),
    "hash not hex": (_with(record("web-1", token_hash="xy" * 32)), "record 2 has a token_hash"),
    "hash and newline": (_with(record("web-1", token_hash="ab" * 32 + "\n")), "record 2 has a token_hash"),
    "no name": (_with(record("  ")), "record 2 has a name"),
    "a path as name": (_with(record("a/b")), "record 2 has a name"),
    "a long name": (_with(record("a" * 65)), "record 2 has a name"),
    "a name not ASCII": (_with(record("bücher")), "record 2 has a name"),
    "a revoked one's name": (_with(record("a\x1bb", revoked=True)), "record 2 has a name"),
    "no time": (_with(record("web-1", created_at="yesterday")), "record 2 has a time"),
    "created at nothing": (_with(record("web-1", created_at="")), "record 2 has a time"),
    "milliseconds": (_with(record("web-1", created_at=1_769_860_800_000)), "record 2 has a time"),
    "before all time": (_with(record("web-1", last_used_at="0001-01-01T00:00:00+14:00")), "record 2 "),
    "time no text": (_with(record("web-1", last_used_at=[1])), "record 2 "),
    "two of a name": (_with(record("web-1", revoked=True), record("nas ")), "records 1 and 3 both pair"),
    "cut off": (_with()[:-1], "cut off"),
    "cut off at a byte": (_with()[:-4], "cut off"),
    "cut off at a block": (_cut(_with(), 16), "signature"),
    "head only": (_with()[:8], "cut off"),
}


@pytest.mark.parametrize(("content", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named_and_nothing_of_it_is_taken(
    settings: Settings, path: Path, content: bytes, said: str
) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreDamaged, match=said) as failure:
        opened(settings)
    assert str(path) in failure.value.message
    assert failure.value.hint
    assert not settings.token_store_path.exists()
    path.write_bytes(sealed([record("nas")]))
    opened(settings)
    assert names(settings) == ["nas"]


def test_a_file_changed_anywhere_gives_an_error_and_no_pairing(path: Path) -> None:
    good = base64.urlsafe_b64decode(sealed([record("web-1")]))
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1
        path.write_bytes(base64.urlsafe_b64encode(changed))
        with pytest.raises((StoreDamaged, BadKey)):
            takeover.read(path, KEY)


def test_a_file_damaged_behind_its_beginning_is_not_put_down_to_the_key(path: Path) -> None:
    content = bytearray(sealed([record("web-1")]))
    content[200:204] = b"AAAA"
    path.write_bytes(content)
    with pytest.raises(StoreDamaged, match="signature"):
        takeover.read(path, KEY)
    with pytest.raises(BadKey):
        takeover.read(path, OTHER_KEY)


def test_a_wrong_key_takes_nothing_and_the_right_one_then_everything(
    settings: Settings, path: Path
) -> None:
    path.write_bytes(sealed(RECORDS))
    with pytest.raises(BadKey, match="another key") as failure:
        opened(settings, {VARIABLE: OTHER_KEY})
    assert str(path) in failure.value.message
    assert KEY not in failure.value.message + failure.value.hint
    assert sorted(file.name for file in settings.nodes_dir.iterdir()) == ["tokens.json"]
    opened(settings)
    assert names(settings) == ["build box", "nas", "web-1"]


def test_without_a_key_none_is_made(settings: Settings, path: Path) -> None:
    path.write_bytes(sealed(RECORDS))
    with pytest.raises(BadKey, match=f"no key for the token store {path}") as failure:
        opened(settings, {})
    assert VARIABLE in failure.value.hint
    assert not settings.env_path.exists()
    assert not settings.token_store_path.exists()


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, takeover.MAX_BYTES + 1)


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (_huge, StoreDamaged, "larger than 67108864 bytes"),
        (Path.mkdir, SettingsError, "not a regular file"),
        (os.mkfifo, SettingsError, "not a regular file"),
        (lambda path: path.symlink_to("nowhere"), SettingsError, "No such file"),
    ],
)
def test_what_can_not_be_read_is_a_clear_error(
    settings: Settings, path: Path, make: Callable[[Path], None], kind: type[HermesNodesError], said: str
) -> None:
    make(path)
    with pytest.raises(kind, match=said) as failure:
        opened(settings)
    assert str(path) in failure.value.message
    assert not settings.token_store_path.exists()


def test_of_two_older_stores_one_has_to_be_named(settings: Settings, path: Path) -> None:
    path.write_bytes(sealed([record("web-1")]))
    (settings.home / "tokens.json").write_bytes(sealed([record("web-2")]))
    with pytest.raises(SettingsError, match="two token stores") as failure:
        opened(settings)
    assert str(path) in failure.value.message
    assert "token_store_path" in failure.value.hint
    chosen = {"HERMES_HOME": str(settings.home), "HERMES_NODES_TOKEN_STORE_PATH": str(path)}
    opened(config.load(environ=chosen))
    assert names(settings) == ["web-1"]
    # What was taken over is in the store, so the setting may go again.
    assert opened(settings) == []


# -- once --


def test_the_store_holds_what_the_file_held(settings: Settings, path: Path) -> None:
    path.write_bytes(sealed(RECORDS))
    assert opened(settings) == [f"took over 6 pairings (3 revoked) from {path}"]
    with TokenStore.open(settings.token_store_path, [KEY]) as store:
        live = {pairing.name: pairing for pairing in store.pairings()}
        tombstones = [one for one in store.pairings(include_revoked=True) if one.revoked_at]
        assert [store.secrets(one.id) for one in tombstones] == [[], [], []]
        for name, pairing in live.items():
            assert proofs(store, pairing.id) == [Secret("sha256", str(record(name)["token_hash"]))]
    assert sorted(live) == ["build box", "nas", "web-1"]
    assert all(pairing.hash_only for pairing in live.values())
    assert not any(tombstone.hash_only for tombstone in tombstones)
    assert sorted(tombstone.name for tombstone in tombstones) == ["gone", "web-1", "web-1"]
    assert (live["web-1"].created_at, live["web-1"].last_seen_at) == (CREATED_AT, USED_AT)
    assert live["nas"].state(USED_AT, connected=False) == "never_seen"


def test_no_file_of_ours_holds_a_hash_in_clear(settings: Settings, path: Path) -> None:
    path.write_bytes(sealed(RECORDS))
    opened(settings)
    ours = b"".join(file.read_bytes() for file in settings.home.rglob("*") if file.is_file())
    assert b"build box" in ours
    assert not [one for one in RECORDS if str(one["token_hash"]).encode() in ours]


def test_the_older_file_stays_as_it_is(settings: Settings, path: Path) -> None:
    path.write_bytes(sealed(RECORDS))
    path.chmod(0o440)
    content, before = path.read_bytes(), path.stat()
    opened(settings)
    after = path.stat()
    assert path.read_bytes() == content
    assert (after.st_mtime_ns, after.st_mode, after.st_ino) == (
        before.st_mtime_ns,
        before.st_mode,
        before.st_ino,
    )


def test_it_is_not_taken_over_again_whatever_becomes_of_the_file(settings: Settings, path: Path) -> None:
    path.write_bytes(sealed([record("web-1")]))
    opened(settings)
    before = pairings(settings)
    assert opened(settings) == []
    path.write_bytes(sealed([record("web-2")]))
    assert opened(settings) == []
    path.write_bytes(b"garbage")
    assert opened(settings) == []
    path.unlink()
    assert opened(settings) == []
    assert pairings(settings) == before


def test_a_revocation_holds_over_the_next_start(settings: Settings, path: Path) -> None:
    path.write_bytes(sealed([record("web-1")]))
    opened(settings)
    with TokenStore.open(settings.token_store_path, [KEY]) as store:
        store.revoke("web-1")
    opened(settings)
    assert names(settings) == []


def test_a_file_that_comes_later_is_taken_over_then(settings: Settings, path: Path) -> None:
    assert opened(settings) == []
    path.write_bytes(sealed([record("web-1")]))
    assert len(opened(settings)) == 1
    assert names(settings) == ["web-1"]


def test_a_pairing_made_here_stays_before_one_of_the_older_system(settings: Settings, path: Path) -> None:
    with Books.open(settings, WITH_KEY) as books:
        ours, token = operations.pair(books.store, books.trail, PairRequest("web-1"), "local:me")
    path.write_bytes(sealed([record("web-1"), record("nas")]))
    assert opened(settings) == [f"took over 2 pairings (1 revoked) from {path}"]
    with TokenStore.open(settings.token_store_path, [KEY]) as store:
        assert store.live("web-1") == ours
        assert proofs(store, ours.id) == [Secret("token", token)]
        theirs = [one for one in store.pairings(include_revoked=True) if one.revoked_at]
        assert [one.name for one in theirs] == ["web-1"]
        assert store.secrets(theirs[0].id) == []


def test_a_pairing_made_anew_is_no_longer_one_of_a_hash(settings: Settings, path: Path) -> None:
    path.write_bytes(sealed([record("build box")]))
    opened(settings)
    with Books.open(settings, WITH_KEY) as books:
        # The name is none that we would give; but it is there.
        operations.pair(books.store, books.trail, PairRequest("build box", force=True), "local:me")
        (live,) = books.store.pairings()
    assert (live.name, live.hash_only) == ("build box", False)
    assert operations.node_view(live)["hash_only"] is False


def test_each_live_pairing_gets_a_row_in_the_trail(settings: Settings, path: Path) -> None:
    path.write_bytes(sealed(RECORDS))
    opened(settings)
    rows = tail(settings.audit_log_path, 10).rows
    live = {pairing.name: pairing.id for pairing in pairings(settings) if not pairing.revoked_at}
    assert {row["node"]: row["pairing_id"] for row in rows} == live
    for row in rows:
        assert (row["action"], row["status"], row["path"]) == ("pair", "ok", str(path))
        assert row["actor"] == operations.local_actor()


def test_a_trail_that_takes_no_row_stops_it(settings: Settings, path: Path) -> None:
    path.write_bytes(sealed(RECORDS))
    with pytest.raises(AuditUnwritable):
        opened(dataclasses.replace(settings, audit_log_path=Path("/dev/full")))
    assert pairings(settings) == []
    opened(settings)
    assert names(settings) == ["build box", "nas", "web-1"]


def test_a_store_that_takes_not_all_of_it_has_none(settings: Settings, path: Path) -> None:
    assert opened(settings) == []
    with closing(sqlite3.connect(settings.token_store_path)) as database:
        database.execute(
            "CREATE TRIGGER t BEFORE INSERT ON pairings WHEN NEW.name = 'nas'"
            " BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    path.write_bytes(sealed(RECORDS))
    with pytest.raises(StoreDamaged):
        opened(settings)
    assert pairings(settings) == []
    with closing(sqlite3.connect(settings.token_store_path)) as database:
        database.execute("DROP TRIGGER t")
    assert len(opened(settings)) == 1


def test_the_store_itself_takes_over_once(settings: Settings, path: Path) -> None:
    path.write_bytes(sealed([record("web-1")]))
    found = takeover.read(path, KEY)
    with TokenStore.open(settings.token_store_path, [KEY]) as store:
        assert store.take_over(path, found) == [pairing for pairing, _ in found]
        assert store.take_over(Path("there"), takeover.read(path, KEY)) == []
        assert store.taken_over() == path


def test_ten_thousand_records_come_in_a_few_seconds(settings: Settings, path: Path) -> None:
    path.write_bytes(sealed(record(f"node-{number}") for number in range(10_000)))
    opened(settings)
    assert len(names(settings)) == 10_000


def test_a_home_is_untouched_until_either_system_has_paired(settings: Settings, path: Path) -> None:
    assert takeover.is_untouched(settings)
    path.write_bytes(sealed([]))
    assert not takeover.is_untouched(settings)
    opened(settings)
    path.unlink()
    assert not takeover.is_untouched(settings)


def test_the_settings_may_name_the_older_file_elsewhere(settings: Settings, tmp_path: Path) -> None:
    for name, store in (("tokens.json", "tokens.db"), ("tokens", "tokens.db.db")):
        path = tmp_path / name / ("tokens.json" if name.endswith("json") else "tokens.db")
        path.parent.mkdir()
        path.write_bytes(sealed([record("web-1")]))
        environ = {"HERMES_HOME": str(settings.home), "HERMES_NODES_TOKEN_STORE_PATH": str(path)}
        chosen = config.load(environ=environ)
        assert chosen.token_store_path == path.parent / store
        assert len(opened(chosen)) == 1
        path.unlink()
        assert opened(config.load(environ=environ)) == []
        assert names(config.load(environ=environ)) == ["web-1"]


def test_a_whole_home_loads_with_its_settings_and_its_key(tmp_path: Path) -> None:
    home = tmp_path / "h"
    leave(home)
    with (home / "hermes-node.yaml").open("a") as file:
        file.write("token_store_path: nodes/tokens.json\naudit_log_path: logs/nodes-audit.log\n")
    env = (home / ".env").read_bytes()
    settings = config.load(environ={"HERMES_HOME": str(home)})
    (warning,) = settings.warnings
    assert "connect_host, max_retries, retry_backoff_seconds without effect" in warning
    assert settings.rate_limit_per_node == 50
    assert settings.heartbeat_stale_seconds == 45
    assert len(opened(settings, {})) == 1
    assert names(settings) == ["build box", "nas", "web-1"]
    assert (home / ".env").read_bytes() == env
    # Old rows, then ours, from one file.
    rows = tail(settings.audit_log_path, 100).rows
    assert [row.get("ts") for row in rows[:4]] == [CREATED, CREATED, USED, None]
    assert json.dumps(rows[4]["action"]) == '"pair"'
