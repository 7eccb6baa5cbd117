"""A node's own settings: ``config.toml``, read, checked and written."""

import difflib
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from hermes_nodes.disk import write_atomically
from hermes_nodes.errors import AlreadyExists, SettingsError, UsageError
from hermes_nodes.node.job_limits import JobLimits, job_limits
from hermes_nodes.node.user import expand_home

#: http and https are what people copy from a browser; they mean the same server.
_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_NODES_PATH = "/ws/nodes"
_Check = Callable[[str], str]
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
#: PROTOCOL.md section 2, "Field limits": names and tokens, in characters.
_MAX_FIELD = 64
#: Seconds; a node that waits longer than a day before it dials again is a lost one.
_DAY = 86_400.0
_JOIN_HINT = "`hermes-nodes node join URL --name NAME` writes it"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """The checked settings of one node; times in seconds."""

    path: Path
    server_url: str
    name: str
    token: str = field(repr=False)
    #: Absolute, ``~`` expanded; empty allows no file at all.
    allowed_paths: tuple[str, ...] = ()
    #: False makes a node that only serves files.
    exec: bool = True
    log_path: Path | None = None
    log_level: str = "info"
    #: May hold a password.
    proxy_url: str | None = field(default=None, repr=False)
    backoff_initial: float = 1.0
    backoff_max: float = 60.0
    backoff_factor: float = 2.0
    #: Kept for files written for the older node; ``stream/1`` does not use it.
    chunk_size: int = 65536
    ca_cert: Path | None = None
    #: 64 lower-case hex digits.
    pinned_cert_sha256: str | None = None
    jobs: JobLimits = field(default_factory=JobLimits)
    #: One sentence for each key that nobody knows.
    warnings: tuple[str, ...] = ()


def config_path(environ: Mapping[str, str]) -> Path:
    """Where the settings are: ``$HERMES_NODE_CONFIG``, else ``~/.hermes-node/config.toml``."""
    if chosen := environ.get("HERMES_NODE_CONFIG"):
        return Path(os.path.expanduser(chosen))
    home = environ.get("HOME") or os.path.expanduser("~")
    return Path(home) / ".hermes-node" / "config.toml"


def load(path: Path) -> NodeConfig:
    """The settings in ``path``; SettingsError says what is wrong with them and what to do."""
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except FileNotFoundError:
        raise SettingsError(f"this machine has no node settings ({path})", _JOIN_HINT) from None
    except OSError as error:
        raise _unusable(path, "read", error) from error
    if mode & ~0o600:
        message = f"{path} has mode {mode:04o}, but it holds a secret token"
        raise SettingsError(message, f"run `chmod 600 {path}`")
    return _checked(_parse(content, path), path)


def write(
    path: Path,
    *,
    server_url: str,
    name: str,
    token: str,
    allowed_paths: Sequence[str] | None,
    ca_cert: str | Path | None = None,
    pinned_cert_sha256: str | None = None,
    replace: bool = False,
) -> None:
    """Write settings that ``load`` accepts, whole or not at all, readable by nobody else.

    With ``replace`` every key that is not set here (None) stays as it was, and the old file is
    kept beside the new one as ``config.toml.bak``. Raises AlreadyExists, UsageError, SettingsError.
    """
    # A settings file that is a symlink, as dotfile managers make it, stays one.
    real = Path(os.path.realpath(path))
    node: dict[str, Any] = {
        "server_url": normalise_server_url(server_url),
        "name": check_name(name),
        "token": check_token(token),
    }
    if allowed_paths is not None:
        node["allowed_paths"] = [check_allowed_path(entry) for entry in allowed_paths]
    server = {}
    if ca_cert is not None:
        # A relative path means relative to where the caller stands.
        server["ca_cert"] = os.path.abspath(expand_home(str(ca_cert)))
    if pinned_cert_sha256 is not None:
        server["pinned_cert_sha256"] = check_fingerprint(pinned_cert_sha256)
    try:
        _store(real, {"node": node, "server": server}, replace=replace)
    except UnicodeEncodeError as error:
        raise UsageError(f"{error.object!r} is not valid Unicode, which TOML needs") from error
    except ValueError as error:
        raise SettingsError(f"{real} can't be carried over: {error}", "mend or move that file") from error
    except OSError as error:
        raise _unusable(real, "write", error) from error


def normalise_server_url(text: str) -> str:
    """The WebSocket URL that ``text`` means, with ``/ws/nodes`` where it names no path."""
    if "://" not in text:
        hint = f"write wss://{text}, or ws://{text} where there is no TLS"
        raise UsageError(f"the URL {text!r} has no scheme", hint)
    parts = _split_url(text, _SCHEMES, "it looks like wss://hermes.example:7000")
    path = parts.path if parts.path not in {"", "/"} else _NODES_PATH
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, parts.query, ""))


def check_name(text: str) -> str:
    """``text`` if the wire allows it as a node's name (PROTOCOL.md section 2), stripped."""
    name = text.strip()
    letters = name.isascii() and name.isprintable() and 1 <= len(name) <= _MAX_FIELD
    if not letters or any(bad in name for bad in ("/", "\\", "..")):
        hint = f"a name has 1 to {_MAX_FIELD} printable ASCII characters, and no /, \\ or .."
        raise UsageError(f"{text!r} can't be a node's name", hint)
    return name


#: What a token of ours looks like: its beginning, and how long it is. The older system's are others.
_OURS, _OUR_LENGTH = "hnt_", 47


def check_token(text: str) -> str:
    """``text`` if it can be a pairing token, stripped; the error never shows it."""
    token = text.strip()
    if not re.fullmatch(f"[!-~]{{1,{_MAX_FIELD}}}", token):
        raise UsageError("that is not a pairing token", "`hermes-nodes pair NAME` makes one")
    if token.startswith(_OURS) and len(token) != _OUR_LENGTH:
        raise UsageError(
            f"the token has {len(token)} characters, not {_OUR_LENGTH}",
            "copy all of what `pair` has printed",
        )
    return token


def check_allowed_path(text: str) -> str:
    """``text`` as an absolute path, ``~`` expanded."""
    path = expand_home(text)
    if not os.path.isabs(path) or "\0" in path:
        hint = "write the whole path, such as /srv/data or ~/data"
        raise UsageError(f"{text!r} is not an absolute path", hint)
    return path


def check_fingerprint(text: str) -> str:
    """``text`` as 64 lower-case hex digits, colons taken out."""
    digits = text.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        hint = "`openssl x509 -in CERT -noout -fingerprint -sha256` shows it: 64 hex digits"
        raise UsageError(f"{text!r} is not a SHA-256 fingerprint", hint)
    return digits


def to_toml(document: Mapping[str, Any]) -> str:
    """``document`` as TOML: values first, then a section for each table, deeper ones inline."""
    plain = {key: value for key, value in document.items() if not isinstance(value, dict)}
    sections = [_lines(plain)] if plain else []
    for key, value in document.items():
        if isinstance(value, dict):
            sections.append(f"[{_key(key)}]\n{_lines(value)}")
    return "\n".join(sections)


class _Table:
    """One table of the file, taken key by key; what is left in the end is unknown."""

    def __init__(self, path: Path, name: str, document: Mapping[str, Any]) -> None:
        values = document.get(name, {})
        if not isinstance(values, dict):
            raise SettingsError(f"{path}: `{name}` is not a table", f"write it as [{name}]")
        self.path = path
        self._name = name
        self._left = dict(values)
        self._known: list[str] = []

    def wrong(self, key: str, what: str, hint: str) -> SettingsError:
        return SettingsError(f"{self.path}: `{key}` in [{self._name}]: {what}", hint)

    def required(self, key: str, check: _Check) -> str:
        if value := self.optional(key, check):
            return value
        raise self.wrong(key, "this key is missing", _JOIN_HINT)

    def optional(self, key: str, check: _Check) -> str | None:
        """None also for an empty text, which some older files have for "not set"."""
        text = self._take(key, "", (str,), f'a text: write {key} = "…"').strip()
        return self._passed(key, check, text) if text else None

    def texts(self, key: str, check: _Check) -> list[str]:
        needed = f'a list of texts: write {key} = ["…", "…"]'
        values = self._take(key, [], (list,), needed)
        if any(not isinstance(value, str) for value in values):
            raise self.wrong(key, "an entry is of the wrong kind", f"it must be {needed}")
        return [self._passed(key, check, value) for value in values]

    def file(self, key: str) -> Path | None:
        """A relative path is beside the settings, as a service's own directory is anybody's."""
        text = self.optional(key, expand_home)
        if text and "\0" in text:
            raise self.wrong(key, "it holds a NUL character", "take it out")
        return self.path.parent / text if text else None

    def flag(self, key: str, *, default: bool) -> bool:
        return bool(self._take(key, default, (bool,), "true or false, without quotes"))

    def number(self, key: str, default: float, least: float, most: float) -> float:
        value = self._take(key, default, (int, float), f"a number: write {key} = {default}")
        # One comparison also turns away nan, inf and integers that no float can hold.
        if not least <= value <= most:
            raise self.wrong(key, "the number is out of range", f"it is from {least} to {most}")
        return float(value)

    def unknown(self) -> list[str]:
        """A warning for each key that was never taken."""
        return _unknown(self.path, f" in [{self._name}]", self._left, self._known)

    def _passed(self, key: str, check: _Check, text: str) -> str:
        try:
            return check(text)
        except UsageError as error:
            raise self.wrong(key, error.message, error.hint) from error

    def _take(self, key: str, default: Any, kinds: tuple[type, ...], needed: str) -> Any:
        self._known.append(key)
        if key not in self._left:
            return default
        value = self._left.pop(key)
        # By exact type, because TOML's true is an int to isinstance.
        if type(value) not in kinds:
            raise self.wrong(key, "the value is of the wrong kind", f"it must be {needed}")
        return value


def _checked(document: Mapping[str, Any], path: Path) -> NodeConfig:
    node, server = _Table(path, "node", document), _Table(path, "server", document)
    tables = ["node", "server"]
    strangers = _unknown(path, "", [key for key in document if key not in tables], tables)
    initial = node.number("backoff_initial", 1.0, 0.001, _DAY)
    return NodeConfig(
        path=path,
        server_url=node.required("server_url", normalise_server_url),
        name=node.required("name", check_name),
        token=node.required("token", check_token),
        allowed_paths=tuple(node.texts("allowed_paths", check_allowed_path)),
        exec=node.flag("exec", default=True),
        log_path=node.file("log_path"),
        log_level=node.optional("log_level", _check_log_level) or "info",
        proxy_url=node.optional("proxy_url", _check_proxy_url),
        backoff_initial=initial,
        backoff_max=node.number("backoff_max", max(60.0, initial), initial, _DAY),
        backoff_factor=node.number("backoff_factor", 2.0, 1.0, 100.0),
        chunk_size=int(node.number("chunk_size", 65536, 1, 2**31)),
        ca_cert=_ca_cert(server),
        pinned_cert_sha256=server.optional("pinned_cert_sha256", check_fingerprint),
        jobs=job_limits(node.optional),
        # Last, because a key is unknown once everything known has been taken.
        warnings=(*strangers, *node.unknown(), *server.unknown()),
    )


def _check_log_level(text: str) -> str:
    level = {"warn": "warning"}.get(text.lower(), text.lower())
    if level not in _LOG_LEVELS:
        raise UsageError(f"there is no level {text!r}", f"it is one of {', '.join(_LOG_LEVELS)}")
    return level


def _check_proxy_url(text: str) -> str:
    _split_url(text, ("http", "https"), "it looks like http://proxy.example:3128")
    return text


def _split_url(text: str, schemes: Container[str], hint: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        reachable = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bad port or a bad IPv6 address
        reachable = False
    clean = text.isprintable() and " " not in text and "#" not in text
    if not reachable or not clean or parts.scheme not in schemes:
        # The text stays out of the message: it may hold a password.
        raise UsageError("that is not a URL which can be used here", hint)
    return parts


def _ca_cert(server: _Table) -> Path | None:
    path = server.file("ca_cert")
    if path is not None and not path.is_file():
        hint = "put the CA's certificate there, or take the key out"
        raise server.wrong("ca_cert", f"{path} is not a file", hint)
    return path


def _unknown(path: Path, where: str, keys: Iterable[str], known: Sequence[str]) -> list[str]:
    def near(key: str) -> str:
        matches = difflib.get_close_matches(key, known, n=1)
        return f"; did you mean `{matches[0]}`?" if matches else ""

    return [f"{path}: unknown key `{key}`{where} has no effect{near(key)}" for key in keys]


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, too long or too deep
        hint = "mend that line, or move the file away and run `hermes-nodes node join`"
        raise SettingsError(f"{path} is not a TOML file: {error}", hint) from error


def _store(path: Path, tables: Mapping[str, Mapping[str, Any]], *, replace: bool) -> None:
    old = _old_content(path, replace=replace)
    document = _parse(old, path) if old is not None else {}
    for name, values in tables.items():
        table = document.get(name, {})
        # What is there but not a table stays, for the check to complain about.
        if values and isinstance(table, dict):
            document[name] = {**table, **values}
    _checked(document, path)
    if old is not None:
        write_atomically(path.with_name(path.name + ".bak"), old)
    write_atomically(path, to_toml(document).encode())


def _old_content(path: Path, *, replace: bool) -> bytes | None:
    try:
        with open(path, "rb") as file:
            old = file.read()
    except FileNotFoundError:
        return None
    if not replace:
        hint = "`hermes-nodes node join --force` replaces them and keeps the old ones"
        raise AlreadyExists(f"this machine already has node settings ({path})", hint)
    return old


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in table.items())


def _key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _string(key)


def _string(text: str) -> str:
    # JSON's escapes are a part of TOML's; DEL is the one character that only TOML escapes.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case datetime() | date() | time():
            return value.isoformat()
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            return f"{{{', '.join(f'{_key(key)} = {_value(value[key])}' for key in value)}}}"
        case _:
            return repr(value)


def _unusable(path: Path, verb: str, error: OSError) -> SettingsError:
    hint = "look at the path and at who may use it, or choose another with HERMES_NODE_CONFIG"
    return SettingsError(f"can't {verb} {path}: {error.strerror}", hint)
