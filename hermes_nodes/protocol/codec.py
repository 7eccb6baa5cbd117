"""The three framings of a session after `auth_ok`: plain JSON, `enc` envelopes, sealed records.

A codec turns messages into WebSocket messages and back, for either side: ``vocabulary`` is what the
peer may send.
"""

from typing import Generic, NamedTuple, TypeVar

from hermes_nodes.errors import ProtocolViolation
from hermes_nodes.protocol.crypto import Opener, Sealer, open_enc, seal_enc
from hermes_nodes.protocol.messages import (
    SEALED,
    Enc,
    Message,
    Unknown,
    Vocabulary,
    encode,
    timestamp,
)

_Peer = TypeVar("_Peer")

JSON_RECORD = 0
DATA_RECORD = 1
#: kind, channel, call id.
DATA_HEADER_BYTES = 18
#: Most bytes in one data record. Past 128 KiB every buffer leaves the heap for fresh pages, and a
#: byte costs half as much again.
MAX_DATA = 126 * 1024


class Frame(NamedTuple):
    """One WebSocket message."""

    data: bytes
    binary: bool


class Data(NamedTuple):
    """One data record; without bytes it is the end of its channel."""

    call: bytes
    channel: int
    payload: memoryview


class PlainCodec(Generic[_Peer]):
    """One JSON object per text message."""

    def __init__(self, vocabulary: Vocabulary[_Peer]) -> None:
        self._vocabulary = vocabulary

    def encode(self, message: Message) -> Frame:
        return Frame(encode(message), binary=False)

    def decode(self, frame: Frame) -> _Peer | Unknown:
        if frame.binary:
            raise ProtocolViolation("a binary message in a text session")
        return self._vocabulary.decode(frame.data)


class EncCodec(Generic[_Peer]):
    """The same objects, each sealed in an `enc` envelope; anything else is refused."""

    def __init__(self, vocabulary: Vocabulary[_Peer], key: bytes) -> None:
        self._vocabulary = vocabulary
        self._key = key

    def encode(self, message: Message) -> Frame:
        sealed = Enc(ts=timestamp(), data=seal_enc(self._key, encode(message)))
        return Frame(encode(sealed), binary=False)

    def decode(self, frame: Frame) -> _Peer | Unknown:
        envelope = None if frame.binary else SEALED.decode(frame.data)
        if not isinstance(envelope, Enc):
            raise ProtocolViolation("a message in an encrypted session is not sealed")
        return self._vocabulary.decode(open_enc(self._key, envelope.data))


class RecordCodec(Generic[_Peer]):
    """Sealed binary records, JSON and raw data side by side."""

    def __init__(self, vocabulary: Vocabulary[_Peer], *, send_key: bytes, receive_key: bytes) -> None:
        self._vocabulary = vocabulary
        self._sealer = Sealer(send_key)
        self._opener = Opener(receive_key)

    def encode(self, message: Message) -> Frame:
        return Frame(self._sealer.seal(b"\x00" + encode(message)), binary=True)

    def encode_data(self, call: bytes, channel: int, payload: bytes | memoryview) -> Frame:
        """``call`` is the call id's 16 bytes; at most MAX_DATA bytes of ``payload``."""
        record = b"".join((b"\x01", channel.to_bytes(1, "big"), call, payload))
        return Frame(self._sealer.seal(record), binary=True)

    def decode(self, frame: Frame) -> _Peer | Unknown | Data:
        if not frame.binary:
            raise ProtocolViolation("a text message in a stream session")
        plain = memoryview(self._opener.open(frame.data))
        if plain and plain[0] == JSON_RECORD:
            return self._vocabulary.decode(plain[1:])
        return _data(plain)

    def rest(self) -> None:
        """Give back what only a busy session needs."""
        self._sealer.rest()
        self._opener.rest()


def _data(plain: memoryview) -> Data:
    if not DATA_HEADER_BYTES <= len(plain) <= DATA_HEADER_BYTES + MAX_DATA:
        raise ProtocolViolation("a record of a wrong length")
    if plain[0] != DATA_RECORD:
        raise ProtocolViolation("a record of an unknown kind")
    return Data(bytes(plain[2:DATA_HEADER_BYTES]), plain[1], plain[DATA_HEADER_BYTES:])
