"""The three framings: what goes through them in either direction, and what each refuses."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hermes_nodes.errors import ProtocolViolation
from hermes_nodes.protocol.codec import MAX_DATA, Data, EncCodec, Frame, PlainCodec, RecordCodec
from hermes_nodes.protocol.crypto import Sealer
from hermes_nodes.protocol.messages import (
    FROM_GATEWAY,
    FROM_NODE,
    LIMIT_STREAM,
    Cancel,
    Enc,
    Error,
    Exec,
    ExecResult,
    FromGateway,
    FromNode,
    Message,
    Ping,
    Unknown,
    encode,
    new_call_id,
)
from tests.protocol.ends import GATEWAY_KEY, NODE_KEY, record_codecs
from tests.protocol.support import said

KEY = bytes(32)
CALL = bytes(range(16))
ID = new_call_id()

GatewayCodec = PlainCodec[FromNode] | EncCodec[FromNode] | RecordCodec[FromNode]
NodeCodec = PlainCodec[FromGateway] | EncCodec[FromGateway] | RecordCodec[FromGateway]


class Ends(NamedTuple):
    """Both ends of a session."""

    gateway: GatewayCodec
    node: NodeCodec


def plain() -> Ends:
    return Ends(PlainCodec(FROM_NODE), PlainCodec(FROM_GATEWAY))


def enc() -> Ends:
    return Ends(EncCodec(FROM_NODE, KEY), EncCodec(FROM_GATEWAY, KEY))


def records() -> Ends:
    return Ends(*record_codecs())


framings = pytest.mark.parametrize("framing", [plain, enc, records], ids=["plain", "enc", "records"])
TO_NODE: list[Message] = [Exec(id=ID, command="é\n", env={"A": "\x00"}), Cancel(id=ID), Ping(ts="now")]
TO_GATEWAY: list[Message] = [
    ExecResult(status="ok", id=ID, exit_code=-1, stdout="é"),
    Error(code=5000),
    Ping(),
]


@framings
def test_messages_arrive_in_either_direction_as_they_were(framing: Callable[[], Ends]) -> None:
    gateway, node = framing()
    assert [node.decode(gateway.encode(message)) for message in TO_NODE] == TO_NODE
    assert [gateway.decode(node.encode(message)) for message in TO_GATEWAY] == TO_GATEWAY


@framings
def test_what_only_the_other_side_may_say_is_not_understood(framing: Callable[[], Ends]) -> None:
    gateway, node = framing()
    assert gateway.decode(node.encode(Cancel(id=ID))) == Unknown("cancel", ID)
    assert node.decode(gateway.encode(ExecResult(status="ok", id=ID))) == Unknown("exec_result", ID)


@framings
def test_only_records_are_binary(framing: Callable[[], Ends]) -> None:
    ends = framing()
    assert [end.encode(Ping()).binary for end in ends] == [framing is records] * 2


@framings
def test_a_message_of_the_other_kind_is_refused(framing: Callable[[], Ends]) -> None:
    gateway, node = framing()
    frame = gateway.encode(Ping())
    with pytest.raises(ProtocolViolation):
        node.decode(frame._replace(binary=not frame.binary))


@framings
def test_a_damaged_message_is_refused(framing: Callable[[], Ends]) -> None:
    gateway, node = framing()
    frame = gateway.encode(Exec(id=ID, command="true"))
    with pytest.raises(ProtocolViolation):
        node.decode(frame._replace(data=frame.data[:-1]))


# Envelopes


def test_an_envelope_hides_the_message_and_its_type() -> None:
    gateway, _ = enc()
    frame = gateway.encode(Exec(id=ID, command="secret"))
    assert said(frame)["type"] == "enc"
    assert said(frame).keys() == {"type", "ts", "data"}
    assert ID.encode() not in frame.data


UNSEALED: dict[str, bytes] = {
    "a plain message": encode(Ping()),
    "a plain message of an unknown type": b'{"type":"salut"}',
    "an envelope without data": b'{"type":"enc"}',
    "an envelope with null": b'{"type":"enc","data":null}',
    "an envelope with nothing in it": b'{"type":"enc","data":""}',
    "an envelope that is not base64url": b'{"type":"enc","data":"???"}',
    "an envelope of zeros": b'{"type":"enc","data":"' + b"A" * 80 + b'"}',
    "an array": b"[]",
    "no JSON": b"\xff",
}


@pytest.mark.parametrize("raw", UNSEALED.values(), ids=UNSEALED.keys())
def test_an_encrypted_session_never_falls_back_to(raw: bytes) -> None:
    for end in enc():
        with pytest.raises(ProtocolViolation):
            end.decode(Frame(raw, binary=False))


def test_an_envelope_of_another_session_is_refused() -> None:
    stranger = EncCodec(FROM_GATEWAY, NODE_KEY)
    with pytest.raises(ProtocolViolation):
        enc().gateway.decode(stranger.encode(Ping()))


def test_an_envelope_in_an_envelope_is_not_opened() -> None:
    gateway, node = enc()
    inner = Enc(data=said(node.encode(Ping()))["data"])
    assert gateway.decode(node.encode(inner)) == Unknown("enc")


# Records


def sealed(plaintext: bytes, key: bytes = GATEWAY_KEY) -> Frame:
    """The first record of a peer that puts in it what it likes."""
    return Frame(Sealer(key).seal(plaintext), binary=True)


@pytest.mark.parametrize("size", [0, 1, MAX_DATA], ids=["none", "one", "126 KiB"])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_bytes_arrive_in_either_direction_as_they_were(channel: int, size: int) -> None:
    gateway, node = record_codecs()
    payload = b"\xa5" * size
    for sender, receiver in ((gateway, node), (node, gateway)):
        frame = sender.encode_data(CALL, channel, memoryview(payload))
        assert frame.binary
        assert receiver.decode(frame) == Data(CALL, channel, memoryview(payload))


def test_the_largest_record_stays_below_the_limit_of_a_message() -> None:
    gateway, _ = record_codecs()
    assert MAX_DATA == 126 * 1024
    assert len(gateway.encode_data(CALL, 0, bytes(MAX_DATA)).data) == 18 + MAX_DATA + 16 < LIMIT_STREAM


def test_a_record_is_a_kind_byte_then_json_or_channel_call_and_bytes() -> None:
    gateway, _ = record_codecs()
    aead = AESGCM(GATEWAY_KEY)
    message = aead.decrypt(bytes(12), gateway.encode(Ping()).data, None)
    assert message == b'\x00{"type":"ping"}'
    data = aead.decrypt(bytes(11) + b"\x01", gateway.encode_data(CALL, 2, b"bytes").data, None)
    assert data == b"\x01\x02" + CALL + b"bytes"


BAD_RECORDS: dict[str, bytes] = {
    "126 KiB and a byte": b"\x01\x01" + CALL + bytes(MAX_DATA + 1),
    "a header that is cut short": b"\x01\x01" + CALL[:15],
    "a kind byte of data alone": b"\x01",
    "a kind byte of JSON alone": b"\x00",
    "nothing": b"",
    "an unknown kind": b"\x02\x01" + CALL + b"bytes",
    "the last kind": b"\xff\x01" + CALL,
    "JSON that is damaged": b'\x00{"type":"ping"',
    "JSON without a type": b"\x00{}",
}


@pytest.mark.parametrize("plaintext", BAD_RECORDS.values(), ids=BAD_RECORDS.keys())
def test_a_record_is_refused_that_holds(plaintext: bytes) -> None:
    _, node = record_codecs()
    with pytest.raises(ProtocolViolation):
        node.decode(sealed(plaintext))


def test_a_record_that_was_sent_back_is_refused() -> None:
    gateway, _ = record_codecs()
    with pytest.raises(ProtocolViolation):
        gateway.decode(gateway.encode(Ping()))


def test_payloads_stay_valid_after_more_was_decoded() -> None:
    gateway, node = record_codecs()
    frames = [gateway.encode_data(CALL, 0, bytes([number]) * 1000) for number in range(50)]
    decoded = [node.decode(frame) for frame in frames]
    for number, data in enumerate(decoded):
        assert isinstance(data, Data)
        assert data.payload == bytes([number]) * 1000


def test_a_session_goes_on_after_a_rest() -> None:
    gateway, node = record_codecs()
    for _ in range(3):
        assert node.decode(gateway.encode(Ping())) == Ping()
        gateway.rest()
        node.rest()
