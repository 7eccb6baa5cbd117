"""Settings: where they come from, and what is said of a bad one."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hermes_nodes import config
from hermes_nodes.config import Settings, control_socket_path, load, parse_duration, parse_size
from hermes_nodes.errors import SettingsError, UsageError

FileMaker = Callable[[str | bytes], Path]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def environ(home: Path) -> dict[str, str]:
    return {"HERMES_HOME": str(home)}


@pytest.fixture
def write(home: Path) -> FileMaker:
    def write(content: str | bytes) -> Path:
        path = home / config.FILE_NAME
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def explain(environ: dict[str, str]) -> str:
    """What is said of these settings, as one text."""
    with pytest.raises(SettingsError) as failure:
        load(environ=environ)
    return f"{failure.value.message} | {failure.value.hint}"


# Where a value comes from


def test_the_defaults_are_those_of_the_documentation(environ: dict[str, str], home: Path) -> None:
    assert load(environ=environ) == Settings(
        home=home,
        host="127.0.0.1",
        port=7000,
        tls_cert_path=None,
        tls_key_path=None,
        token_store_path=home / "nodes" / "tokens.db",
        token_encryption_key_env="HERMES_NODES_TOKEN_KEY",
        audit_log_path=home / "logs" / "nodes-audit.log",
        audit_retention_days=365,
        audit_max_bytes=50 * 1024 * 1024,
        audit_fsync="interval",
        audit_fail_open=False,
        audit_commands="summary",
        handshake_timeout_seconds=10.0,
        heartbeat_stale_seconds=60.0,
        heartbeat_sweep_interval_seconds=30.0,
        rate_limit_per_node=100,
        legacy_streaming=False,
        legacy_exec="guarded",
        control_socket=home / "nodes" / "gateway.sock",
        control_listen=None,
        max_connections=20_000,
        max_connections_per_address=64,
        trusted_proxies=(),
        warnings=(),
    )


def test_every_setting_has_a_field_and_every_field_a_setting() -> None:
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert fields - {"home", "older_store_path", "warnings"} == set(config.KEYS)


def test_a_flag_beats_the_environment_which_beats_the_file(
    environ: dict[str, str], write: FileMaker
) -> None:
    write("port: 1\n")
    assert load(environ=environ).port == 1
    environ["HERMES_NODES_PORT"] = "2"
    assert load(environ=environ).port == 2
    assert load({"port": 3}, environ).port == 3
    assert load({"port": None}, environ).port == 2


@pytest.mark.parametrize("key", config.KEYS)
def test_every_key_can_be_set_in_the_environment(environ: dict[str, str], key: str) -> None:
    environ[config.variable(key)] = "\0"
    assert config.variable(key) in explain(environ)


def test_the_rate_limit_has_a_short_variable_too(environ: dict[str, str]) -> None:
    environ["HERMES_NODES_RATE_LIMIT"] = "7"
    assert load(environ=environ).rate_limit_per_node == 7
    environ["HERMES_NODES_RATE_LIMIT_PER_NODE"] = "8"
    assert load(environ=environ).rate_limit_per_node == 8


def test_an_empty_variable_counts_as_not_set(environ: dict[str, str]) -> None:
    assert load(environ=environ | {"HERMES_NODES_PORT": ""}).port == 7000


@pytest.mark.parametrize(
    ("row", "key", "value"),
    [
        ("port: 0", "port", 0),
        ('port: "8443"', "port", 8443),
        ("port:", "port", 7000),
        ("host: null", "host", "127.0.0.1"),
        ("host: ::1", "host", "::1"),
        ("host: gateway.example", "host", "gateway.example"),
        ("audit_max_bytes: 50M", "audit_max_bytes", 50 << 20),
        ("audit_max_bytes: 123456", "audit_max_bytes", 123456),
        ("handshake_timeout_seconds: 2.5", "handshake_timeout_seconds", 2.5),
        ("handshake_timeout_seconds: 10s", "handshake_timeout_seconds", 10.0),
        ("handshake_timeout_seconds: 500ms", "handshake_timeout_seconds", 0.5),
        ("audit_fail_open: true", "audit_fail_open", True),
        ("audit_fail_open: Yes", "audit_fail_open", True),
        ("audit_fail_open: off", "audit_fail_open", False),
        ("audit_fsync: never", "audit_fsync", "never"),
        ("control_listen: '[::1]:7001'", "control_listen", "[::1]:7001"),
        ("trusted_proxies: [10.0.0.0/8, '::1']", "trusted_proxies", ("10.0.0.0/8", "::1")),
        ("trusted_proxies: 10.0.0.1, 10.0.0.2", "trusted_proxies", ("10.0.0.1", "10.0.0.2")),
        ("trusted_proxies: []", "trusted_proxies", ()),
    ],
)
def test_the_file_may_say(
    environ: dict[str, str], write: FileMaker, row: str, key: str, value: object
) -> None:
    write(f"# a comment\n{row}\n")
    assert getattr(load(environ=environ), key) == value


@pytest.mark.parametrize("content", ["", "\n", "# nothing\n", "---\n", "{}"])
def test_a_file_that_says_nothing_is_no_error(
    environ: dict[str, str], write: FileMaker, content: str
) -> None:
    write(content)
    assert load(environ=environ).port == 7000


@pytest.mark.parametrize("text", ["true", "True", "1", "yes", "on", "ON"])
def test_truth_in_the_environment(environ: dict[str, str], text: str) -> None:
    assert load(environ=environ | {"HERMES_NODES_AUDIT_FAIL_OPEN": text}).audit_fail_open


def test_flags_may_have_their_own_types(environ: dict[str, str]) -> None:
    flags = {"audit_fail_open": True, "audit_log_path": Path("/x"), "trusted_proxies": ["::1", "10.0.0.1"]}
    settings = load(flags, environ)
    assert settings.audit_fail_open is True
    assert settings.audit_log_path == Path("/x")
    assert settings.trusted_proxies == ("::1", "10.0.0.1")


# Paths


def test_relative_paths_start_at_the_home_in_the_file_and_at_the_working_directory_elsewhere(
    environ: dict[str, str], home: Path, write: FileMaker
) -> None:
    write("token_store_path: a.db\naudit_log_path: ~/b.log\n")
    settings = load({"control_socket": "c.sock"}, environ)
    assert settings.token_store_path == home / "a.db"
    assert settings.audit_log_path == Path.home() / "b.log"
    assert settings.control_socket == Path.cwd() / "c.sock"


def test_the_home_has_its_places(environ: dict[str, str], home: Path) -> None:
    settings = load(environ=environ)
    assert settings.nodes_dir == home / "nodes"
    assert settings.lock_path == home / "nodes" / "lock"
    assert settings.env_path == home / ".env"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (None, Path.home() / ".hermes"),
        ("", Path.home() / ".hermes"),
        ("~/x", Path.home() / "x"),
        ("x", Path.cwd() / "x"),
    ],
)
def test_the_home_is_where_the_environment_says(text: str | None, path: Path) -> None:
    assert config.hermes_home({} if text is None else {"HERMES_HOME": text}) == path


def test_a_home_of_nobody_is_refused() -> None:
    with pytest.raises(SettingsError, match="HERMES_HOME"):
        config.hermes_home({"HERMES_HOME": "~no-such-user-here/x"})


# The control socket, as clients find it


@pytest.mark.parametrize("content", [None, "port: 1\n", "control_socket:\n", "# control_socket: x\n"])
def test_the_control_socket_is_in_the_home(
    environ: dict[str, str], home: Path, write: FileMaker, content: str | None
) -> None:
    if content is not None:
        write(content)
    assert control_socket_path(environ) == f"{home}/nodes/gateway.sock"


def test_clients_and_the_gateway_agree_on_the_control_socket(
    environ: dict[str, str], home: Path, write: FileMaker
) -> None:
    write("control_socket: x.sock\n")
    assert control_socket_path(environ) == str(load(environ=environ).control_socket) == f"{home}/x.sock"
    environ["HERMES_NODES_CONTROL_SOCKET"] = "/run/y.sock"
    assert control_socket_path(environ) == str(load(environ=environ).control_socket) == "/run/y.sock"


def test_nothing_slow_is_imported_to_find_the_control_socket(tmp_path: Path) -> None:
    script = (
        "import sys; from hermes_nodes.config import control_socket_path as f\n"
        f"f({{'HERMES_HOME': {str(tmp_path)!r}}})\n"
        "print({'yaml', 'msgspec', 'asyncio', 'logging', 'difflib'} & set(sys.modules))"
    )
    (tmp_path / config.FILE_NAME).write_text("port: 1\n")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# What is said of bad ones


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("port: 65536", "port must be a whole number from 0 to 65535, not '65536'"),
        ("port: -1", "port must be"),
        ("port: true", "port must be"),
        ("port: 1.5", "port must be"),
        ("port: [7000]", "port must be a single value"),
        ("port: {a: 1}", "port must be a single value"),
        ('host: ""', "host must be an IP address or a host name"),
        ("host: 7", "host must be"),
        ("host: a b", "host must be"),
        ("audit_retention_days: 0", "audit_retention_days must be a whole number from 1"),
        ("audit_max_bytes: 1X", "audit_max_bytes must be a size"),
        ("audit_max_bytes: 0", "audit_max_bytes must be a size of at least 1K"),
        ("audit_fsync: sometimes", "must be one of always, interval, never, not 'sometimes'"),
        ("audit_fail_open: maybe", "audit_fail_open must be true or false"),
        ("handshake_timeout_seconds: 0", "must be a number of seconds above 0"),
        ("handshake_timeout_seconds: -3", "must be a number of seconds"),
        ("handshake_timeout_seconds: .inf", "must be a number of seconds"),
        ("handshake_timeout_seconds: .nan", "must be a number of seconds"),
        ("handshake_timeout_seconds: soon", "must be a number of seconds"),
        ("rate_limit_per_node: 0", "must be a whole number of at least 1"),
        ("legacy_exec: none", "must be one of guarded, raw"),
        ('audit_log_path: ""', "must be the path of a file"),
        ("audit_log_path: ~no-such-user-here/x", "must be the path of a file"),
        ("control_listen: 7001", "must be HOST:PORT"),
        ("control_listen: ::1:7001", "must be HOST:PORT"),
        ("control_listen: localhost:70000", "must be HOST:PORT"),
        ("trusted_proxies: [10.0.0.0/33]", "must be IP addresses or networks"),
        ("trusted_proxies: [[10.0.0.1]]", "must be a single value"),
        ("trusted_proxies: {10.0.0.1: x}", "must be a single value"),
        ("tls_cert_path: /c.pem", "tls_cert_path is set, but tls_key_path is not"),
        ("tls_key_path: /k.pem", "tls_key_path is set, but tls_cert_path is not"),
        ("hots: x", "there is no setting 'hots' | did you mean host?"),
        ("rate_limit: 5", "did you mean rate_limit_per_node?"),
        ("zzz: 5", "the settings are host, port"),
        ("[a]: 5", "there is no setting"),
        ("host: a\nhost: b", "host is set a second time, after line 2"),
        ("max_retries: 1\nmax_retries: 2", "max_retries is set a second time"),
        ("host: 'a", "this is not YAML"),
        ("a: b: c", "this is not YAML"),
        ("host: *nobody", "this is not YAML"),
        ("--- {}\n--- {}", "this is not YAML"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(
    environ: dict[str, str], write: FileMaker, row: str, said: str
) -> None:
    path = write(f"# line one\n{row}\n")
    explained = explain(environ)
    assert said in explained
    assert explained.startswith(f"{path} line ")
    assert "Traceback" not in explained


def test_the_line_is_the_right_one(environ: dict[str, str], write: FileMaker) -> None:
    path = write("host: localhost\n\n# more\nport: many\n")
    assert explain(environ).startswith(f"{path} line 4: port must be")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("just words", "must hold settings, one `key: value` a line"),
        ("- port\n- host\n", "must hold settings"),
        (b"port: \xff\xfe", "this is not YAML"),
        (b"host: a\x00b", "this is not YAML"),
        ("[" * 5000, "this is not YAML: nested too deep"),
    ],
)
def test_a_file_that_is_no_settings_file_is_one_clear_sentence(
    environ: dict[str, str], write: FileMaker, content: str | bytes, said: str
) -> None:
    path = write(content)
    explained = explain(environ)
    assert explained.startswith(str(path))
    assert said in explained
    assert "\n" not in explained


def test_a_file_that_can_not_be_read_is_one_clear_sentence(environ: dict[str, str], home: Path) -> None:
    (home / config.FILE_NAME).mkdir()
    assert "can't be read: Is a directory" in explain(environ)
    with pytest.raises(SettingsError, match="can't be read"):
        control_socket_path(environ)


def test_a_bad_variable_is_named(environ: dict[str, str]) -> None:
    environ["HERMES_NODES_RATE_LIMIT"] = "lots"
    assert explain(environ).startswith("HERMES_NODES_RATE_LIMIT must be a whole number")


def test_a_bad_flag_is_named_and_is_a_matter_of_usage(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"^--port must be a whole number from 0 to 65535, not '99999'$"):
        load({"port": 99999}, environ)
    with pytest.raises(UsageError, match=r"^--tls-cert is set, but tls_key_path is not$"):
        load({"tls_cert_path": "c.pem"}, environ)


def test_a_flag_that_is_no_setting_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="there is no setting 'prot'"):
        load({"prot": 1}, environ)


def test_tls_may_be_set_from_two_places(environ: dict[str, str], write: FileMaker) -> None:
    write("tls_cert_path: c.pem\n")
    assert load({"tls_key_path": "/k.pem"}, environ).tls_key_path == Path("/k.pem")


def test_a_key_put_where_its_name_belongs_is_not_shown(environ: dict[str, str], write: FileMaker) -> None:
    write("token_encryption_key_env: c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlYw==\n")
    explained = explain(environ)
    assert "must be the name of an environment variable" in explained
    assert "c2Vj" not in explained


def test_keys_of_the_older_system_give_one_warning(environ: dict[str, str], write: FileMaker) -> None:
    path = write("max_retries: 3\nport: 1\nconnect_host: [x]\n")
    settings = load(environ=environ)
    assert settings.port == 1
    (warning,) = settings.warnings
    assert all(word in warning for word in (str(path), "connect_host", "max_retries"))
    assert "retry_backoff_seconds" not in warning


# Durations and sizes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("10m", 600), ("2h", 7200), ("30d", 2_592_000), ("1.5h", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1w", "1 h", "1e3s", "99999999d", "٣s", "1h30m"])
def test_bad_durations_say_the_accepted_forms(text: str) -> None:
    with pytest.raises(ValueError, match="500ms, 30s, 10m, 2h or 30d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("17", 17), ("64K", 65536), ("10M", 10 << 20), ("2g", 2 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5M", "1X", "1 M", "1MB", "9" * 30])
def test_bad_sizes_say_the_accepted_forms(text: str) -> None:
    with pytest.raises(ValueError, match="64K, 10M, 2G or a number of bytes"):
        parse_size(text)
