"""The settings, frozen: flag > environment > file > default.

Every command imports this on its way, so what only some of them need (YAML, ipaddress, difflib) is
imported where it is used.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hermes_nodes.errors import HermesNodesError, SettingsError, UsageError
from hermes_nodes.older_store import stores

if TYPE_CHECKING:
    import yaml

FILE_NAME = "hermes-node.yaml"
_NULL = "tag:yaml.org,2002:null"

#: Keys of the system this one replaces: accepted, so that its file can stay as it is.
LEGACY_KEYS = ("connect_host", "max_retries", "retry_backoff_seconds")

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: A hundred years: what is added to a date must not run past the calendar's end.
_LONGEST_SECONDS = 36_500 * 86_400.0
_LAST_PORT = 65_535
#: A trail file smaller than a row or two would be rotated at every row.
_LEAST_SIZE = 1024
_SIZE = re.compile(r"([0-9]{1,15})([KMGT]?)", re.IGNORECASE)
_YES, _NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def parse_duration(text: str) -> float:
    """Seconds in ``500ms``, ``30s``, ``10m``, ``2h`` or ``30d``; ValueError says these forms."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else math.inf
    if seconds > _LONGEST_SECONDS:
        raise ValueError(
            f"{text[:60]!r} is not a duration: write 500ms, 30s, 10m, 2h or 30d, at most 36500d"
        )
    return seconds


def parse_size(text: str) -> int:
    """Bytes in ``64K``, ``10M``, ``2G`` (binary) or a plain number; ValueError says these forms."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:60]!r} is not a size: write 64K, 10M, 2G or a number of bytes")
    return int(match[1]) << 10 * " KMGT".index(match[2].upper() or " ")


# The table's parsers: text in; the ValueError goes on with a sentence that began with the source.


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    bounds = f"from {low} to {high}" if high is not None else f"of at least {low}"

    def parse(text: str) -> int:
        digits = re.fullmatch(r"[0-9]{1,12}", text.strip())
        number = int(digits[0]) if digits else -1
        if number < low or (high is not None and number > high):
            raise ValueError(f"must be a whole number {bounds}")
        return number

    return parse


def _seconds(text: str) -> float:
    with suppress(ValueError):
        seconds = parse_duration(f"{text.strip()}s" if text.strip()[-1:].isdigit() else text)
        if seconds > 0:
            return seconds
    raise ValueError("must be a number of seconds above 0, such as 30 or 30s")


def _size(text: str) -> int:
    with suppress(ValueError):
        size = parse_size(text)
        if size >= _LEAST_SIZE:
            return size
    raise ValueError("must be a size of at least 1K, such as 64K, 10M or 2G")


def _truth(text: str) -> bool:
    word = text.strip().lower()
    if word not in _YES + _NO:
        raise ValueError("must be true or false")
    return word in _YES


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return parse


def _path(text: str) -> Path:
    expanded = os.path.expanduser(text)
    if not text or "\0" in text or expanded.startswith("~"):
        raise ValueError("must be the path of a file")
    return Path(expanded)


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:%-]+", text) or text.isdigit():
        raise ValueError("must be an IP address or a host name")
    return text


def _listen(text: str) -> str:
    match = re.fullmatch(r"(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", text)
    if match is None or int(match[1]) > _LAST_PORT:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:7001 or [::1]:7001")
    return text


def _variable_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError("must be the name of an environment variable (not the key itself)")
    return text


def _networks(text: str) -> tuple[str, ...]:
    networks = tuple(item.strip() for item in text.split(",") if item.strip())
    if not networks:
        return ()
    import ipaddress  # noqa: PLC0415 - only few set this, and everyone waits for imports

    try:
        for network in networks:
            ipaddress.ip_network(network, strict=False)
    except ValueError:
        raise ValueError("must be IP addresses or networks, such as 10.0.0.0/8") from None
    return networks


class Key(NamedTuple):
    """One setting: how its text is understood, and its default as it would stand in the file."""

    parse: Callable[[str], object]
    default: str | None = None


KEYS: Mapping[str, Key] = {
    "host": Key(_host, "127.0.0.1"),
    "port": Key(_whole(0, _LAST_PORT), "7000"),
    "tls_cert_path": Key(_path),
    "tls_key_path": Key(_path),
    "token_store_path": Key(_path, "nodes/tokens.db"),
    "token_encryption_key_env": Key(_variable_name, "HERMES_NODES_TOKEN_KEY"),
    "audit_log_path": Key(_path, "logs/nodes-audit.log"),
    "audit_retention_days": Key(_whole(1, 36_500), "365"),
    "audit_max_bytes": Key(_size, "50M"),
    "audit_fsync": Key(_choice("always", "interval", "never"), "interval"),
    "audit_fail_open": Key(_truth, "false"),
    "audit_commands": Key(_choice("summary", "full", "none"), "summary"),
    "handshake_timeout_seconds": Key(_seconds, "10"),
    "heartbeat_stale_seconds": Key(_seconds, "60"),
    "heartbeat_sweep_interval_seconds": Key(_seconds, "30"),
    "rate_limit_per_node": Key(_whole(1), "100"),
    "legacy_streaming": Key(_truth, "false"),
    "legacy_exec": Key(_choice("guarded", "raw"), "guarded"),
    "control_socket": Key(_path, "nodes/gateway.sock"),
    "control_listen": Key(_listen),
    "max_connections": Key(_whole(1), "20000"),
    "max_connections_per_address": Key(_whole(1), "64"),
    "trusted_proxies": Key(_networks, ""),
}
_OTHER_VARIABLES = {"rate_limit_per_node": "HERMES_NODES_RATE_LIMIT"}
_OTHER_FLAGS = {"tls_cert_path": "--tls-cert", "tls_key_path": "--tls-key"}


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``load`` found; ``warnings`` are sentences for stderr.

    ``older_store_path`` is the older system's token store, where ``token_store_path`` was set to that.
    """

    home: Path
    host: str
    port: int
    tls_cert_path: Path | None
    tls_key_path: Path | None
    token_store_path: Path
    token_encryption_key_env: str
    audit_log_path: Path
    audit_retention_days: int
    audit_max_bytes: int
    audit_fsync: Literal["always", "interval", "never"]
    audit_fail_open: bool
    audit_commands: Literal["summary", "full", "none"]
    handshake_timeout_seconds: float
    heartbeat_stale_seconds: float
    heartbeat_sweep_interval_seconds: float
    rate_limit_per_node: int
    legacy_streaming: bool
    legacy_exec: Literal["guarded", "raw"]
    control_socket: Path
    control_listen: str | None
    max_connections: int
    max_connections_per_address: int
    trusted_proxies: tuple[str, ...]
    older_store_path: Path | None = None
    warnings: tuple[str, ...] = ()

    @property
    def nodes_dir(self) -> Path:
        return self.home / "nodes"

    @property
    def lock_path(self) -> Path:
        return self.nodes_dir / "lock"

    @property
    def env_path(self) -> Path:
        return self.home / ".env"


class _Given(NamedTuple):
    """A value as someone wrote it; ``source`` begins the sentence if it is a bad one."""

    text: str
    source: str
    #: What a relative path starts from; the empty one is the working directory.
    base: Path = Path()
    error: type[HermesNodesError] = SettingsError


def hermes_home(environ: Mapping[str, str] = os.environ) -> Path:
    """``$HERMES_HOME``, else ``~/.hermes``; always absolute."""
    try:
        return _path(environ.get("HERMES_HOME") or "~/.hermes").absolute()
    except ValueError:
        raise SettingsError("HERMES_HOME must be the path of a directory") from None


def load(flags: Mapping[str, object] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """All settings; SettingsError (for a flag: UsageError) names the place of a bad one.

    ``flags`` are keyed like the settings; None stands for "not given".
    """
    home = hermes_home(environ)
    warnings: list[str] = []
    given = {
        **_defaults(home),
        **_from_file(home / FILE_NAME, warnings),
        **_from_environment(environ),
        **_from_flags(flags or {}),
    }
    _check_tls(given)
    values: dict[str, Any] = dict.fromkeys(KEYS)
    values |= {key: _value(key, one) for key, one in given.items()}
    values["token_store_path"], older = stores(values["token_store_path"])
    return Settings(home=home, older_store_path=older, warnings=tuple(warnings), **values)


def control_socket_path(environ: Mapping[str, str] = os.environ) -> str:
    """Where the gateway listens, without the time it takes to load all settings."""
    home, key = hermes_home(environ), "control_socket"
    given = _from_environment(environ).get(key)
    if given is None and key.encode() in _content(home / FILE_NAME):
        given = _from_file(home / FILE_NAME, []).get(key)
    return str(_value(key, given or _defaults(home)[key]))


def variable(key: str) -> str:
    """The environment variable that sets this key."""
    return f"HERMES_NODES_{key.upper()}"


def _defaults(home: Path) -> dict[str, _Given]:
    return {name: _Given(key.default, name, home) for name, key in KEYS.items() if key.default is not None}


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    """What is exported; an empty variable counts as not set, as is usual in shells and CI."""
    given = {}
    for key in KEYS:
        for name in (_OTHER_VARIABLES.get(key, variable(key)), variable(key)):
            if environ.get(name):
                given[key] = _Given(environ[name], name)
    return given


def _from_flags(flags: Mapping[str, object]) -> dict[str, _Given]:
    given = {}
    for key, value in flags.items():
        flag = _OTHER_FLAGS.get(key, "--" + key.replace("_", "-"))
        if key not in KEYS:
            raise _unknown_key(key, flag)
        if value is not None:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            given[key] = _Given(text, flag, error=UsageError)
    return given


def _from_file(path: Path, warnings: list[str]) -> dict[str, _Given]:
    """What the file sets; a key without a value (YAML's null) is left out."""
    given, lines = {}, dict[str, int]()
    for key, line, node in _rows(path):
        where = f"{path} line {line}"
        if key in lines:
            raise SettingsError(f"{where}: {key} is set a second time, after line {lines[key]}")
        if key not in KEYS and key not in LEGACY_KEYS:
            raise _unknown_key(key, where)
        lines[key] = line
        text = _node_text(key, node, where) if key in KEYS else None
        if text is not None:
            given[key] = _Given(text, f"{where}: {key}", path.parent)
    if legacy := [key for key in LEGACY_KEYS if key in lines]:
        warnings.append(f"{path}: {', '.join(legacy)} without effect here; you can remove that")
    return given


def _rows(path: Path) -> Iterator[tuple[str, int, "yaml.Node"]]:
    """Each key of the file with its line and what stands behind it.

    The node tree, not the loaded values: it still has lines and duplicates, and ``0777`` or
    ``1:30`` in it is text, not the number that YAML 1.1 sees there.
    """
    content = _content(path)
    if not content:
        return
    import yaml  # noqa: PLC0415 - most clients never read the file

    try:
        root = yaml.compose(content, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path} line {mark.line + 1}" if mark else str(path)
        why = getattr(error, "problem", None) or getattr(error, "reason", None) or "nested too deep"
        raise SettingsError(f"{where}: this is not YAML: {why}") from None
    if root is None or root.tag == _NULL:
        return
    if not isinstance(root, yaml.MappingNode):
        raise SettingsError(f"{path} must hold settings, one `key: value` a line")
    for key, node in root.value:
        yield str(key.value), key.start_mark.line + 1, node


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}") from None


def _node_text(key: str, node: "yaml.Node", where: str) -> str | None:
    """A scalar's text; a list of them as text with commas, as in an environment variable."""
    if node.tag == _NULL:
        return None
    is_list = isinstance(node.value, list) and KEYS[key].parse is _networks
    items = [getattr(item, "value", None) for item in node.value] if is_list else [node.value]
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) < len(items):
        raise SettingsError(f"{where}: {key} must be a single value")
    return ",".join(texts)


def _unknown_key(key: str, where: str) -> SettingsError:
    import difflib  # noqa: PLC0415 - only for a failure

    near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(KEYS)}"
    return SettingsError(f"{where}: there is no setting {key[:60]!r}", hint)


def _check_tls(given: Mapping[str, _Given]) -> None:
    for one, other in (("tls_cert_path", "tls_key_path"), ("tls_key_path", "tls_cert_path")):
        if one in given and other not in given:
            hint = "set both for TLS here, or neither to leave TLS to a proxy"
            raise given[one].error(f"{given[one].source} is set, but {other} is not", hint)


def _value(key: str, given: _Given) -> object:
    try:
        value = KEYS[key].parse(given.text)
    except ValueError as error:
        # Someone may have put the token key where its variable's name belongs.
        shown = "" if key == "token_encryption_key_env" else f", not {given.text[:60]!r}"
        raise given.error(f"{given.source} {error}{shown}") from None
    return (given.base / value).absolute() if isinstance(value, Path) else value
