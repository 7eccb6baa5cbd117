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
    _save(settings, {name: key})
    return key, True


# -- rotation -------------------------------------------------------------------------------------
#
# The new key is in the file before anything is sealed with it, under a name of its own; when the store is
# sealed with it, it takes the old one's place. Whenever this is broken off, one of the two opens the store.

_NEXT = "_NEXT"


def announce_key(settings: Settings) -> str:
    """A new key, saved as the next one; raises Unavailable."""
    from cryptography.fernet import Fernet  # noqa: PLC0415 - see the file's head

    key = Fernet.generate_key().decode()
    _save(settings, {settings.token_encryption_key_env + _NEXT: key})
    return key


def withdraw_key(settings: Settings) -> None:
    """The store could not be sealed with the next key: there is none."""
    _save(settings, {settings.token_encryption_key_env + _NEXT: None})


def next_key(settings: Settings) -> list[str]:
    """The key that a rotation has announced, if one has not come to its end."""
    key = _key_in_file(settings.env_path, settings.token_encryption_key_env + _NEXT)
    return [key] if key else []


def finish_rotation(settings: Settings, environ: Mapping[str, str], key: bytes | str) -> list[str]:
    """Put the next key in its place, or drop it if the store is not sealed with it; says what it did."""
    announced = next_key(settings)
    if not announced:
        return []
    name = settings.token_encryption_key_env
    if key != announced[0]:
        _save(settings, {name + _NEXT: None})
        return []
    _save(settings, {name: announced[0], name + _NEXT: None})
    sentences = [f"the store's new key is {name} in {settings.env_path}; the old one opens nothing now"]
    if environ.get(name, "").strip() not in ("", announced[0]):
        sentences.append(
            f"{name} is exported with the old key: before the next `serve`, and before any command that "
            f"changes this home without a gateway, unset it, or export the one from {settings.env_path}"
        )
    return sentences


def end_rotation(settings: Settings, environ: Mapping[str, str], key: bytes | str) -> list[str]:
    """The same where it may wait: the store opens with the next key as long as that is saved as such."""
    try:
        return finish_rotation(settings, environ, key)
    except Unavailable as error:
        if key not in next_key(settings):
            return []
        name = f"{settings.token_encryption_key_env}{_NEXT}"
        return [f"warning: the store's new key is {name} in {settings.env_path} for now: {error.message}"]


def explain_wrong_key(settings: Settings, environ: Mapping[str, str], store: Path, error: BadKey) -> BadKey:
    """What to do about a store that does not open with the key that was found."""
    name = settings.token_encryption_key_env
    saved = _key_in_file(settings.env_path, name)
    exported = environ.get(name, "").strip()
    if not exported or not saved or exported == saved:
        return error
    return BadKey(
        f"the exported {name} is not the key of the token store {store}",
        f"another is in {settings.env_path}, where `key rotate` saves new ones: unset {name} to use it",
    )


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


def _save(settings: Settings, values: Mapping[str, str | None]) -> None:
    """Set variables in the home's ``.env``, None drops one; the other lines stay. Raises Unavailable."""
    path = settings.env_path
    names = "|".join(map(re.escape, values))
    ours = re.compile(rf"\s*(?:export\s+)?(?:{names})\s*=".encode())
    try:
        target = path.resolve()  # a link stays a link
        old = target.read_bytes().splitlines(keepends=True) if target.exists() else []
        kept = [line if line.endswith(b"\n") else line + b"\n" for line in old if not ours.match(line)]
        new = [f"{name}={value}\n".encode() for name, value in values.items() if value is not None]
        write_atomically(target, b"".join(kept + new))
    except OSError as error:
        raise Unavailable(
            f"the token key can't be saved in {path}: {error.strerror}",
            f"make that possible, or export a key of your own as {settings.token_encryption_key_env}; "
            f"{_MAKE_KEY}",
        ) from None
