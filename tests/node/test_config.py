"""A node's settings: what is read from them, what is refused, and how they are written."""

import datetime as dt
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_nodes.errors import AlreadyExists, SettingsError, UsageError
from hermes_nodes.node import config
from hermes_nodes.node.config import NodeConfig, config_path, load, normalise_server_url, to_toml

REQUIRED = 'server_url = "wss://hermes.example"\nname = "nas"\ntoken = "s3cret-token"\n'
PIN = "AB" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "config.toml"


def save(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return path


def loaded(path: Path, node: str = "", rest: str = "") -> NodeConfig:
    return load(save(path, f"[node]\n{REQUIRED}{node}\n{rest}"))


def joined(path: Path, **changes: Any) -> NodeConfig:
    values: dict[str, Any] = {
        "server_url": "wss://hermes.example",
        "name": "nas",
        "token": "t",
        "allowed_paths": [],
    }
    config.write(path, **(values | changes))
    return load(path)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/ada"}, "/home/ada/.hermes-node/config.toml"),
        ({"HOME": "/home/ada", "HERMES_NODE_CONFIG": "/etc/node.toml"}, "/etc/node.toml"),
        ({"HOME": "/home/ada", "HERMES_NODE_CONFIG": ""}, "/home/ada/.hermes-node/config.toml"),
        ({}, os.path.expanduser("~/.hermes-node/config.toml")),
    ],
)
def test_the_environment_says_where_the_settings_are(environ: dict[str, str], expected: str) -> None:
    assert config_path(environ) == Path(expected)


# --- reading --------------------------------------------------------------------------------


def test_what_is_not_set_has_a_default(path: Path) -> None:
    assert loaded(path) == NodeConfig(
        path=path, server_url="wss://hermes.example/ws/nodes", name="nas", token="s3cret-token"
    )
    assert not loaded(path).allowed_paths


def test_every_key_of_the_older_node_is_read(path: Path) -> None:
    save(path.with_name("ca.pem"), "")
    settings = loaded(
        path,
        """
        allowed_paths = ["/srv/data", "~/work"]
        exec = false
        log_path = "node.log"
        log_level = "WARN"
        proxy_url = "http://user:pw@proxy.example:3128"
        backoff_initial = 2
        backoff_max = 30.5
        backoff_factor = 1.5
        chunk_size = 4096
        """,
        f'[server]\nca_cert = "ca.pem"\npinned_cert_sha256 = "{":".join(["AB"] * 32)}"',
    )
    assert settings == NodeConfig(
        path=path,
        server_url="wss://hermes.example/ws/nodes",
        name="nas",
        token="s3cret-token",
        allowed_paths=("/srv/data", os.path.expanduser("~/work")),
        exec=False,
        log_path=path.parent / "node.log",
        log_level="warning",
        proxy_url="http://user:pw@proxy.example:3128",
        backoff_initial=2.0,
        backoff_max=30.5,
        backoff_factor=1.5,
        chunk_size=4096,
        ca_cert=path.parent / "ca.pem",
        pinned_cert_sha256="ab" * 32,
    )


def test_an_empty_text_is_the_same_as_no_text(path: Path) -> None:
    empty = 'log_path = ""\nproxy_url = ""\nlog_level = ""'
    server = '[server]\nca_cert = ""\npinned_cert_sha256 = ""'
    assert loaded(path, empty, server) == loaded(path)


def test_the_token_is_never_shown(path: Path) -> None:
    assert "s3cret" not in repr(loaded(path, 'proxy_url = "http://u:s3cret@p"'))


def test_unknown_keys_are_warnings(path: Path) -> None:
    settings = loaded(path, 'allowed_path = ["/srv"]', "[server]\nsni = 1\n[nodes]\nx = 1")
    assert settings.warnings == (
        f"{path}: unknown key `nodes` has no effect; did you mean `node`?",
        f"{path}: unknown key `allowed_path` in [node] has no effect; did you mean `allowed_paths`?",
        f"{path}: unknown key `sni` in [server] has no effect",
    )


def test_a_machine_that_never_joined_is_told_how_to(path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert "hermes-nodes node join" in caught.value.hint


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o700])
def test_a_file_others_can_use_is_refused_with_the_command_that_mends_it(path: Path, mode: int) -> None:
    save(path, f"[node]\n{REQUIRED}").chmod(mode)
    with pytest.raises(SettingsError, match=f"{mode:04o}") as caught:
        load(path)
    assert f"chmod 600 {path}" in caught.value.hint


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_only_its_owner_can_use_is_accepted(path: Path, mode: int) -> None:
    save(path, f"[node]\n{REQUIRED}").chmod(mode)
    assert load(path).name == "nas"


def test_a_directory_is_not_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[node]\nname = nas", "line 2"),
        (b"[node]\nname = '\xff'", "not a TOML file"),
        ("x = " + "9" * 5000, "not a TOML file"),
        ("x = " + "[" * 100_000, "not a TOML file"),
        ("node = 1", "`node` is not a table"),
        ("server = 1", "`server` is not a table"),
        ("", "`server_url` in .node.: this key is missing"),
        ('[node]\nserver_url = "wss://h"', "`name` in .node.: this key is missing"),
        ('[node]\nserver_url = "wss://h"\nname = "n"\ntoken = " "', "`token` .* is missing"),
    ],
)
def test_a_file_that_is_no_settings_is_refused(path: Path, content: str | bytes, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        load(save(path, content))
    assert str(path) in caught.value.message
    assert caught.value.hint


BAD_VALUES = {
    "server_url": ("1", '"hermes.example:7000"', '"ftp://hermes.example"', '"wss://"'),
    "name": ("true", '"a/b"', '"a..b"', r'"a\\b"', '"é"', r'"a\tb"', f'"{"n" * 65}"'),
    "token": ("1", '"two words"', f'"{"t" * 65}"'),
    "allowed_paths": ('"/srv"', "[1]", '["relative"]', '[""]', r'["/a\u0000b"]'),
    "exec": ('"no"', "0"),
    "log_path": ("1", r'"a\u0000"'),
    "log_level": ('"loud"',),
    "proxy_url": ("1", '"proxy:3128"', '"socks5://proxy:3128"', '"http://[proxy"'),
    "backoff_initial": ("0", "-1", "true", '"1s"'),
    "backoff_max": ("0.5", "inf", f"1{'0' * 400}"),
    "backoff_factor": ("0.9", "nan"),
    "chunk_size": ("0",),
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in BAD_VALUES.items() for value in values]
)
def test_a_bad_value_is_refused_by_key_and_file(path: Path, key: str, value: str) -> None:
    kept = [line for line in REQUIRED.splitlines() if not line.startswith(f"{key} ")]
    with pytest.raises(SettingsError) as caught:
        load(save(path, "\n".join(["[node]", *kept, f"{key} = {value}"])))
    assert str(path) in caught.value.message
    assert f"`{key}` in [node]" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "line", ['ca_cert = "missing.pem"', 'ca_cert = "."', 'pinned_cert_sha256 = "abc"', "ca_cert = 1"]
)
def test_a_bad_value_about_the_server_is_refused(path: Path, line: str) -> None:
    with pytest.raises(SettingsError, match=r"in \[server\]") as caught:
        loaded(path, rest=f"[server]\n{line}")
    assert caught.value.hint


def test_a_bad_token_is_not_shown(path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(save(path, f"[node]\n{REQUIRED}".replace("s3cret-token", "s3cret token")))
    assert "s3cret" not in caught.value.message + caught.value.hint


# --- the server's URL -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("wss://hermes.example", "wss://hermes.example/ws/nodes"),
        ("wss://hermes.example/", "wss://hermes.example/ws/nodes"),
        ("WSS://hermes.example:7000", "wss://hermes.example:7000/ws/nodes"),
        ("https://hermes.example", "wss://hermes.example/ws/nodes"),
        ("http://127.0.0.1:7000", "ws://127.0.0.1:7000/ws/nodes"),
        ("ws://[::1]:7000/", "ws://[::1]:7000/ws/nodes"),
        ("wss://hermes.example/behind/proxy?x=1", "wss://hermes.example/behind/proxy?x=1"),
    ],
)
def test_a_url_becomes_that_of_the_nodes_endpoint(text: str, url: str) -> None:
    assert normalise_server_url(text) == url
    assert normalise_server_url(url) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hermes.example",
        "hermes.example:7000",
        "ftp://hermes.example",
        "wss://",
        "wss://:7000",
        "wss://hermes.example:port",
        "wss://hermes.example:99999",
        "wss://hermes.example:0",
        "wss://[::1",
        "wss://hermes .example",
        "wss://hermes.example\n",
        "wss://hermes.example/#x",
    ],
)
def test_what_is_no_url_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        normalise_server_url(text)
    assert "wss://" in caught.value.hint


# --- writing --------------------------------------------------------------------------------


def test_what_is_written_can_be_read(path: Path, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    settings = joined(
        path,
        server_url="http://hermes.example",
        name=" my nas ",
        token='quo"te\\d',
        allowed_paths=["/srv/ü", "~/work"],
        ca_cert=tmp_path / "ca.pem",
        pinned_cert_sha256=PIN,
    )
    assert settings == NodeConfig(
        path=path,
        server_url="ws://hermes.example/ws/nodes",
        name="my nas",
        token='quo"te\\d',
        allowed_paths=("/srv/ü", os.path.expanduser("~/work")),
        ca_cert=tmp_path / "ca.pem",
        pinned_cert_sha256=PIN.lower(),
    )


def test_a_relative_certificate_is_relative_to_the_caller(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").touch()
    monkeypatch.chdir(tmp_path)
    assert joined(path, ca_cert="ca.pem").ca_cert == tmp_path / "ca.pem"


def test_only_the_owner_can_read_it_whatever_the_umask(path: Path, no_umask: None) -> None:
    joined(path)
    joined(path, replace=True)
    assert path.parent.stat().st_mode & 0o7777 == 0o700
    for name in ("config.toml", "config.toml.bak"):
        assert (path.parent / name).stat().st_mode & 0o7777 == 0o600
    assert len(os.listdir(path.parent)) == 2


def test_an_existing_file_is_left_alone(path: Path) -> None:
    save(path, "mine")
    with pytest.raises(AlreadyExists):
        joined(path)
    assert path.read_text() == "mine"
    assert os.listdir(path.parent) == ["config.toml"]


def test_replacing_keeps_what_it_does_not_set_and_the_old_file(path: Path) -> None:
    old = (
        "# mine\nodd = [1, {a = 1.5}]\n[node]\nname = 'old'\nlog_level = 'debug'\n"
        f"allowed_paths = ['/srv']\n[server]\npinned_cert_sha256 = '{PIN}'\n[other.deep]\nx = 1\n"
    )
    save(path, old)
    settings = joined(path, name="new", allowed_paths=None, replace=True)
    assert settings.name == "new"
    assert settings.log_level == "debug"
    assert settings.allowed_paths == ("/srv",)
    assert settings.pinned_cert_sha256 == PIN.lower()
    document = tomllib.loads(path.read_text())
    assert document["odd"] == [1, {"a": 1.5}]
    assert document["other"] == {"deep": {"x": 1}}
    assert path.with_name("config.toml.bak").read_text() == old


@pytest.mark.parametrize("old", ["not toml", "node = 1", "[node]\nlog_level = 'loud'"])
def test_an_old_file_that_would_not_load_is_not_replaced(path: Path, old: str) -> None:
    save(path, old)
    with pytest.raises(SettingsError, match=str(path)):
        joined(path, replace=True)
    assert path.read_text() == old
    assert os.listdir(path.parent) == ["config.toml"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"server_url": "hermes.example"}, UsageError),
        ({"name": "a/b"}, UsageError),
        ({"token": ""}, UsageError),
        ({"allowed_paths": ["relative"]}, UsageError),
        ({"allowed_paths": ["/not/\udcff/unicode"]}, UsageError),
        ({"pinned_cert_sha256": "abc"}, UsageError),
        ({"ca_cert": "/no/such.pem"}, SettingsError),
    ],
)
def test_what_could_not_be_read_again_is_not_written(
    path: Path, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        joined(path, **changes)
    assert not path.exists()


def test_a_symlink_to_the_settings_stays_one(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "dotfiles.toml")
    config.write(path, server_url="ws://h", name="n", token="t", allowed_paths=[])
    assert path.is_symlink()
    assert load(path).name == "n"


def test_a_place_that_cannot_hold_them_is_an_error_and_nothing_is_left(path: Path) -> None:
    path.with_name("config.toml.bak").mkdir(parents=True)
    save(path, "")
    with pytest.raises(SettingsError, match="can't write"):
        joined(path, replace=True)
    assert path.read_text() == ""
    assert set(os.listdir(path.parent)) == {"config.toml", "config.toml.bak"}


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
ZONES = st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
VALUES = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | TEXTS
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.none() | ZONES),
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=10,
)


# The first example of a session has to find out about Unicode, which takes its time.
@settings(deadline=None)
@given(st.dictionaries(TEXTS, VALUES))
def test_any_document_comes_back_from_toml_as_it_was(document: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(document)) == document
