"""The token key, which seals the store's secrets: found, checked, made and saved.

``cryptography`` is imported where a key is used: most commands need none.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hermes_nodes.config import Settings
from hermes_nodes.disk import write_atomically
from hermes_nodes.errors import BadKey, SettingsError, Unavailable

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

_MAKE_KEY = (
    'make one with: python -c "from cryptography.fernet import Fernet; '
    'print(Fernet.generate_key().decode())"'
)


def make_cipher(keys: Sequence[bytes | str]) -> "MultiFernet":
    """What seals with the first key and opens with any of them; BadKey if one is none."""
    from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415 - see the file's head

    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError:
        raise BadKey("the token key is not a valid one", _MAKE_KEY) from None


def find_key(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """The token key: exported, else in the home's ``.env``; BadKey if that is not one."""
    name = settings.token_encryption_key_env
    key, source = environ.get(name, "").strip(), f"the exported {name}"
    if not key:
        key, source = _key_in_file(settings.env_path, name), f"{name} in {settings.env_path}"
    if not key:
        return None
    try:
        make_cipher([key])
    except BadKey as error:
        hint = f"put back the one that this home's store was made with; for a new home, {error.hint}"
        raise BadKey(f"{source} is not a valid token key", hint) from None
    return key


def ensure_key(
    settings: Settings, environ: Mapping[str, str], older: Path | None = None
) -> tuple[str, bool]:
    """The token key, and whether it was made just now; the caller holds the home's lock.

    BadKey where a store is there already, or an ``older`` system's: a new key could not open it.
    """
    from cryptography.fernet import Fernet  # noqa: PLC0415 - see the file's head

    key = find_key(settings, environ)
    if key is not None:
        return key, False
    name, store = settings.token_encryption_key_env, settings.token_store_path
    try:
        is_made = is_store(store)
    except OSError as error:
        raise store_unusable(store, error.strerror or str(error)) from error
    if is_made or older is not None:
        raise BadKey(
            f"there is no key for the token store {store if is_made else older}",
            f"export {name}, or put its line back into {settings.env_path}",
        )
    key = Fernet.generate_key().decode()
    try:
        _append_line(settings.env_path, f"{name}={key}\n".encode())
    except OSError as error:
        raise Unavailable(
            f"the new token key can't be saved in {settings.env_path}: {error.strerror}",
            f"make that possible, or export a key of your own as {name}; {_MAKE_KEY}",
        ) from None
    return key, True


def is_store(path: Path) -> bool:
    """Whether a store is there; an empty file is what a kill in the making leaves."""
    return path.exists() and path.stat().st_size > 0


def store_unusable(path: Path, why: str) -> SettingsError:
    """What to say of a store that the system does not let us open."""
    hint = "check token_store_path, and who owns it"
    return SettingsError(f"the token store {path} can't be opened: {why}", hint)


def _key_in_file(path: Path, name: str) -> str:
    """The last value of that name; whatever else the file holds is not ours to judge."""
    try:
        lines = path.read_bytes().decode("utf-8-sig", "replace").split("\n")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise BadKey(f"{path} can't be read: {error.strerror}", f"export {name} instead") from None
    ours = re.compile(rf"\s*(?:export\s+)?{re.escape(name)}\s*=\s*(.*)")
    values = [match[1] for match in map(ours.match, lines) if match]
    # In quotes, up to the closing one; else up to the first blank: a comment may follow.
    value = re.match(r"\"([^\"]*)|'([^']*)|(\S*)", values[-1]) if values else None
    return value[value.lastindex or 0].strip() if value else ""


def _append_line(path: Path, line: bytes) -> None:
    """Add a line so that a crash leaves the old file or the new one; a link stays a link."""
    path = path.resolve()
    old = path.read_bytes() if path.exists() else b""
    gap = b"" if old.endswith(b"\n") or not old else b"\n"
    write_atomically(path, old + gap + line)
