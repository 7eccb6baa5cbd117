"""Taking over the older system's pairings: its file found, opened with the key, and every record checked.

The file is one Fernet token around a JSON document. It is read and left as it is. All of it is good, or
nothing of it is taken over.
"""

import base64
import errno
import os
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from hermes_nodes.audit.files import open_if_there
from hermes_nodes.clock import timestamp
from hermes_nodes.config import Settings
from hermes_nodes.database import RESTORE
from hermes_nodes.errors import BadKey, ProtocolViolation, SettingsError, StoreDamaged
from hermes_nodes.keys import is_store, make_cipher
from hermes_nodes.older_store import FERNET_HEAD, left_behind
from hermes_nodes.protocol.handshake import clean_name
from hermes_nodes.records import Pairing, Secret
from hermes_nodes.tokens import TokenStore

#: Some two hundred thousand records; what is larger is some other file.
MAX_BYTES = 64 * 1024 * 1024
#: The one version of the document that there is.
_VERSION = 1
# https://github.com/fernet/spec: version (1), time (8), initial vector (16), AES-CBC blocks, HMAC (32).
_VECTOR, _FIRST_BLOCK, _BLOCK = slice(9, 25), slice(25, 41), 16
_LEAST_BYTES = 1 + 8 + 16 + 16 + 32
_T = TypeVar("_T")
#: RFC 3339, whose offset may be missing; or seconds since the epoch.
_Moment = str | float


class Record(msgspec.Struct, frozen=True):
    """One pairing as the older system writes it; what else a record holds is passed over."""

    name: str
    token_hash: str
    created_at: _Moment
    revoked: bool
    last_used_at: _Moment | None = None


class _Document(msgspec.Struct, frozen=True):
    version: int
    records: msgspec.Raw = msgspec.Raw(b"null")


def pending(settings: Settings) -> Path | None:
    """The older system's file that is yet to be taken over; SettingsError if there are two of them."""
    found = left_behind(settings.older_store_path, settings.home)
    if not found:
        return None
    with TokenStore.read_only(settings.token_store_path) as store:
        if store.taken_over() is not None:
            return None
    if len(found) > 1:
        raise SettingsError(
            f"the older system has left two token stores: {' and '.join(map(str, found))}",
            "set token_store_path to the one whose pairings are to be taken over",
        )
    return found[0]


def is_missing(settings: Settings) -> bool:
    """Whether the settings name a file of the older system's that is not there, nor was taken over."""
    return settings.older_store_path is not None and is_untouched(settings)


def is_untouched(settings: Settings) -> bool:
    """Whether nothing was ever paired in this home, neither by us nor by the older system."""
    return not is_store(settings.token_store_path) and pending(settings) is None


def read(path: Path, key: str) -> list[tuple[Pairing, Secret]]:
    """What the older system's file holds, as our store takes it.

    Raises SettingsError if it can't be read, BadKey if it was made with another key, else StoreDamaged.
    """
    now = timestamp()
    document = _decoded(path, _opened(path, _content(path), key), _Document, "the document")
    if document.version != _VERSION:
        raise StoreDamaged(
            f"{path} is of version {document.version}, and only version {_VERSION} can be taken over",
            "let the system that wrote it write that version, or move it away and pair the nodes again",
        )
    raws = _decoded(path, document.records, list[msgspec.Raw], "the list of records")
    found = [_pairing(path, number, raw, now) for number, raw in enumerate(raws, 1)]
    _check_names(path, (pairing for pairing, _ in found))
    return found


def _content(path: Path) -> bytes:
    try:
        file = open_if_there(path)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        with file:
            content = file.read(MAX_BYTES + 1).strip()
    except OSError as error:
        raise SettingsError(
            f"the older system's token store {path} can't be read: {error.strerror}",
            "check token_store_path, and who owns it",
        ) from error
    if len(content) > MAX_BYTES:
        raise _damaged(path, f"it is larger than {MAX_BYTES} bytes")
    return content


def _opened(path: Path, content: bytes, key: str) -> bytes:
    from cryptography.fernet import InvalidToken  # noqa: PLC0415 - to list names needs no key

    raw = _unwrapped(path, content)
    try:
        return make_cipher([key]).decrypt(content)
    except InvalidToken:
        if _fits(key, raw):
            raise _damaged(path, "its signature does not fit its content") from None
    raise BadKey(
        f"the older system's token store {path} was made with another key",
        "export the key it was made with, or put it back into .env in the home; "
        "to go on without its pairings, move it away",
    )


def _unwrapped(path: Path, content: bytes) -> bytes:
    """The bytes of a Fernet token, which the key has not been tried on yet."""
    if not content.startswith(FERNET_HEAD):
        raise _damaged(path, "it is not a Fernet token")
    try:
        raw = base64.b64decode(content, altchars=b"-_", validate=True)
    except ValueError:
        raise _damaged(path, "it is cut off, or not base64") from None
    if len(raw) < _LEAST_BYTES or (len(raw) - _LEAST_BYTES) % _BLOCK:
        raise _damaged(path, "it is cut off")
    return raw


def _fits(key: str, raw: bytes) -> bool:
    """Whether a token that does not open was made with this key all the same, and damaged since.

    Its first block can be read without the rest. It decides which error to raise, and is used for nothing.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415 - as above

    encryption_key = base64.urlsafe_b64decode(key)[16:]
    cipher = Cipher(algorithms.AES(encryption_key), modes.CBC(raw[_VECTOR]))
    first = cipher.decryptor().update(raw[_FIRST_BLOCK]).lstrip()
    return first.startswith(b"{") and first.isascii()


def _decoded(path: Path, content: bytes | msgspec.Raw, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _damaged(path, f"{what} can't be understood: {error}") from None


def _pairing(path: Path, number: int, raw: msgspec.Raw, now: str) -> tuple[Pairing, Secret]:
    """A record, checked; ``number`` counts from 1."""
    record = _decoded(path, raw, Record, f"record {number}")
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", record.token_hash):
        raise _damaged(path, f"record {number} has a token_hash that is not a SHA-256 in hex")
    try:
        name = clean_name(record.name)
        created_at = _moment(record.created_at)
        last_used_at = _moment(record.last_used_at) if record.last_used_at else None
    except ProtocolViolation:
        raise _damaged(path, f"record {number} has a name that no node can have") from None
    except (ValueError, OverflowError, OSError):
        raise _damaged(path, f"record {number} has a time that is none") from None
    pairing = Pairing(
        str(uuid.uuid4()),
        name,
        {},
        created_at,
        first_used_at=last_used_at,
        last_seen_at=last_used_at,
        revoked_at=now if record.revoked else None,
        hash_only=not record.revoked,
    )
    return pairing, Secret("sha256", record.token_hash.lower())


def _moment(value: _Moment) -> str:
    """A time in our form; ValueError, OverflowError or OSError if it is none."""
    if isinstance(value, float):
        return timestamp(datetime.fromtimestamp(value, UTC))
    moment = datetime.fromisoformat(value.strip().upper())
    return timestamp(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _check_names(path: Path, pairings: Iterable[Pairing]) -> None:
    live: dict[str, int] = {}
    for number, pairing in enumerate(pairings, 1):
        if pairing.revoked_at is None:
            first = live.setdefault(pairing.name, number)
            if first != number:
                raise _damaged(path, f"records {first} and {number} both pair {pairing.name!r}")


def _damaged(path: Path, why: str) -> StoreDamaged:
    return StoreDamaged(f"the older system's token store {path} is damaged: {why}", RESTORE)
