"""The chain of rows: each names the one before it, under a key that is not in the file. No I/O.

A row's hash is HMAC-SHA256 (RFC 2104) under the chain's key over the hash of the row before it and the
row's own bytes, as far as they stand before ``,"hash":``. So a row is checked by cutting its line up.
"""

import hmac
import re
from typing import NamedTuple

import msgspec
from msgspec.structs import force_setattr

from hermes_nodes.audit.rows import Row, encode
from hermes_nodes.clock import timestamp

KEY_BYTES = 32
#: What stands for the row before the first one of a home's first chain, in hex.
NOTHING = "0" * 64
_UNSIGNED = b',"hash":null}\n'
_HEX = rb"([0-9a-f]{64})"
_PLACE = re.compile(rb'\{"ts":"[^"\\]*","seq":([0-9]{1,18}),')
_LINKS = re.compile(rb',"prev":"' + _HEX + rb'","hash":"' + _HEX + rb'"\}\n')
#: Bytes of a line behind what is signed: `,"hash":"…"}` and the end of the line.
SEAL_BYTES = len(_UNSIGNED) - len(b"null") + 66
_LINKS_BYTES = SEAL_BYTES + len(b',"prev":""') + 64


class Head(NamedTuple):
    """The last row of a chain: how many there were, and its hash."""

    seq: int
    hash: bytes


class Place(NamedTuple):
    """What a line says of its own place, which is true only if the line is signed."""

    seq: int
    prev: bytes
    hash: bytes


class ChainRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A chain as the store remembers it; hashes in hex.

    ``first_seq`` and ``first_prev`` are those of the oldest row that retention has not deleted.
    """

    path: str
    seq: int = 0
    hash: str = NOTHING
    first_seq: int = 1
    first_prev: str = NOTHING
    ended_at: str | None = None
    #: What there was before its first row, as `before` has it; None where that is not known.
    before: list[str] | None = None

    @property
    def head(self) -> Head:
        return Head(self.seq, bytes.fromhex(self.hash))

    @property
    def start(self) -> Head:
        """The row before the first one that is to be there."""
        return Head(self.first_seq - 1, bytes.fromhex(self.first_prev))


class Chains(msgspec.Struct, frozen=True, kw_only=True):
    """All chains of a home: the one that is written, and those before it, old to new."""

    current: ChainRecord
    past: list[ChainRecord] = []

    def at(self, path: str) -> list[ChainRecord]:
        """The chains that were written there, old to new."""
        return [chain for chain in (*self.past, self.current) if chain.path == path]


class Chain:
    """The chain that is being written: its key, and its head as of the last row.

    ``is_new`` says that no row of it can be there yet.
    """

    def __init__(self, key: bytes, chains: Chains, *, is_new: bool = False) -> None:
        self.key = key
        self.chains = chains
        self.head = chains.current.head
        self.is_new = is_new

    def link(self, row: Row) -> tuple[bytes, Head]:
        """Put a new row in its place; its line, and the head that it makes once it is written."""
        seq, before = self.head.seq + 1, self.head.hash
        # Nobody has the row yet; to copy it at each of these would cost more than all the rest.
        force_setattr(row, "seq", seq)
        force_setattr(row, "prev", before.hex())
        force_setattr(row, "hash", None)
        body = encode(row)[: -len(_UNSIGNED)]
        signature = sign(self.key, before, body)
        force_setattr(row, "hash", signature.hex())
        return body + seal(signature), Head(seq, signature)

    def begin_anew(self, path: str) -> None:
        """Go on elsewhere: a chain of its own, whose first row names the last one of this."""
        old = self.record(self.head)
        new = ChainRecord(path=path, hash=old.hash, first_prev=old.hash)
        ended = msgspec.structs.replace(old, ended_at=timestamp())
        self.chains = Chains(current=new, past=[*self.chains.past, ended])
        self.head = new.head

    def move(self, path: str) -> None:
        """The same rows have another path now."""
        self.chains = self.with_current(path=path)

    def record(self, head: Head) -> ChainRecord:
        return msgspec.structs.replace(self.chains.current, seq=head.seq, hash=head.hash.hex())

    def with_current(self, **changes: object) -> Chains:
        current = msgspec.structs.replace(self.chains.current, **changes)
        return msgspec.structs.replace(self.chains, current=current)


def sign(key: bytes, before: bytes, body: bytes) -> bytes:
    return hmac.digest(key, before + body, "sha256")


def seal(signature: bytes) -> bytes:
    """What follows the signed part of a line."""
    return b',"hash":"%b"}\n' % signature.hex().encode()


def follows(key: bytes, head: Head, line: bytes) -> Head | None:
    """The head that a line makes, if it is the row after ``head``."""
    body = line[:-SEAL_BYTES]
    signature = hmac.digest(key, head.hash + body, "sha256")
    return Head(head.seq + 1, signature) if line[-SEAL_BYTES:] == seal(signature) else None


def place_of(line: bytes) -> Place | None:
    """What a line with its newline says of its place; None if it is no row of a chain."""
    start, links = _PLACE.match(line), _LINKS.fullmatch(line[-_LINKS_BYTES:])
    if start is None or links is None:
        return None
    return Place(int(start[1]), *(bytes.fromhex(value.decode()) for value in links.groups()))


def is_signed(key: bytes, line: bytes, place: Place) -> bool:
    """Whether the line is a row as it was written, wherever it stands now."""
    signature = sign(key, place.prev, line[:-SEAL_BYTES])
    return hmac.compare_digest(signature, place.hash)
