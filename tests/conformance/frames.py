"""Frames that no honest node sends, drawn by hypothesis: from random bytes to nearly right messages."""

import json
import struct
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.gateway.support import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame, frame_header

PONG = 0xA
MIB = 1024 * 1024


class Stage(Enum):
    """How far a conversation has got when the frames come."""

    TCP = "before the upgrade"
    HELLO = "before hello"
    AUTH = "before auth"
    PLAIN = "in a plain session"
    ENC = "in an encrypted session"


class Hostile(NamedTuple):
    """One frame. What is to be sealed is sealed when it is sent, and framed as text."""

    kind: str
    data: bytes
    sealed: bool = False


class Conversation(NamedTuple):
    stage: Stage
    frames: list[Hostile]


# -- what a message may hold ----------------------------------------------------------------------

MESSAGES: list[dict[str, Any]] = [
    {"type": "hello", "protocol_version": "0.1.0", "node_name": "x", "capabilities": ["stream/1"]},
    {
        "type": "hello",
        "protocol_version": "0.1.0",
        "node_name": "x",
        "e2e": True,
        "ecdh_pub": "CQ" + "A" * 41,
    },
    {"type": "auth", "node_name": "x", "token": "hnt_x"},
    {"type": "auth", "node_name": "x", "proof": "A" * 43},
    {"type": "ping", "id": "x", "ts": "now"},
    {"type": "pong", "ts": "now", "echo_ts": "now"},
    {"type": "exec_result", "id": "x", "status": "ok", "exit_code": 0, "stdout": "", "duration_ms": 1},
    {"type": "exec_chunk", "id": "x", "seq": 1, "data": "eA==", "more": True},
    {"type": "read_result", "id": "x", "status": "ok", "content_b64": "eA==", "size_bytes": 1},
    {"type": "write_result", "id": "x", "status": "error", "error": "io_error", "error_detail": "no"},
    {"type": "error", "id": "x", "code": 5000, "reason": "internal_error", "detail": "no"},
    {"type": "window", "id": "x", "channel": 1, "bytes": 65536},
    {"type": "enc", "data": "A" * 60},
    {"type": "bye", "reason": "x"},
    {"type": "exec", "id": "x", "command": "id"},
    {"type": "rate_limit", "reason": "x", "code": 4004},
    {"type": "no_such_type", "id": "x"},
]
#: What a reader of JSON may stumble over; each stands as it is where a value belongs.
ODD_VALUES = [
    *(
        "null",
        "true",
        "0",
        "-1",
        "1.5",
        "-0",
        "1e308",
        "1e999",
        "NaN",
        "-Infinity",
        "9" * 400,
        "0.1" + "0" * 99,
    ),
    *(str(2**power + one) for power in (31, 32, 53, 63, 64) for one in (-1, 0, 1)),
    *('""', '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"' + "x" * 70 + '"', '"' + "x" * 70_000 + '"'),
    *("[]", "{}", "[null]", '{"type": "ping"}', "[" * 500 + "]" * 500, '{"a":' * 500 + "1" + "}" * 500),
    *("[" * 30_000 + "]" * 30_000, '"\\x"', "'x'", "undefined", "01", "+1", '"unended', "[1,]"),
]
odd_values = st.sampled_from(ODD_VALUES)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def altered_messages(draw: st.DrawFn) -> bytes:
    """A message of the protocol in which one field is odd, lost, doubled or new."""
    message = draw(st.sampled_from(MESSAGES))
    fields = {key: json.dumps(value) for key, value in message.items()}
    key = draw(st.sampled_from(sorted(fields)))
    act = draw(st.sampled_from(["odd", "any", "lost", "doubled", "new", "none"]))
    pairs = [
        (name, text) for name, text in fields.items() if name != key or act not in {"odd", "any", "lost"}
    ]
    if act in {"odd", "doubled"}:
        pairs.append((key, draw(odd_values)))
    elif act in {"any", "new"}:
        name = key if act == "any" else draw(st.text(max_size=8))
        pairs.append((name, json.dumps(draw(json_values))))
    return ("{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in pairs) + "}").encode()


@st.composite
def broken_messages(draw: st.DrawFn) -> bytes:
    """A message of the protocol of which some bytes are others."""
    raw = bytearray(json.dumps(draw(st.sampled_from(MESSAGES))).encode())
    for _ in range(draw(st.integers(1, 4))):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw[: draw(st.integers(0, len(raw)))] if draw(st.booleans()) else raw)


contents: dict[str, st.SearchStrategy[bytes]] = {
    "random bytes": st.binary(max_size=300),
    "random text": st.text(max_size=100).map(str.encode),
    "odd JSON": odd_values.map(lambda text: text.encode()),
    "any JSON": json_values.map(lambda value: json.dumps(value).encode()),
    "altered message": altered_messages(),
    "broken message": broken_messages(),
    "surrogates": st.text(st.characters(categories=["Cs"]), min_size=1, max_size=5).map(
        lambda text: b'{"type": "' + text.encode("utf-8", "surrogatepass") + b'"}'
    ),
    "other encodings": st.sampled_from(MESSAGES).map(lambda message: json.dumps(message).encode("utf-16")),
    "honest message": st.sampled_from(MESSAGES).map(lambda message: json.dumps(message).encode()),
}

# -- how it is framed -----------------------------------------------------------------------------


def _framed(kind: str, build: Callable[[bytes], bytes]) -> st.SearchStrategy[Hostile]:
    """Some content in a frame that is wrong, or that is not the usual one."""
    return st.one_of(*contents.values()).map(lambda content: Hostile(kind, build(content)))


def _text(kind: str, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[Hostile]:
    return content.map(lambda data: Hostile(kind, frame(TEXT, data)))


def _sealed(kind: str, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[Hostile]:
    return content.map(lambda data: Hostile(f"sealed {kind}", data, sealed=True))


_short = st.binary(max_size=125)
websocket_frames: list[st.SearchStrategy[Hostile]] = [
    _framed("binary", lambda content: frame(BINARY, content)),
    _framed(
        "in two frames",
        lambda content: frame(TEXT, content[:7], last=False) + frame(CONTINUATION, content[7:]),
    ),
    _framed("begun and left", lambda content: frame(TEXT, content, last=False)),
    _framed("continues nothing", lambda content: frame(CONTINUATION, content)),
    _framed("begun twice", lambda content: frame(TEXT, content, last=False) + frame(TEXT, content)),
    _framed(
        "without mask", lambda content: struct.pack("!BBH", 0x81, 126, len(content) & 0xFFFF) + content
    ),
    _framed("no frame at all", lambda content: content),
    _framed(
        "around a ping", lambda c: frame(TEXT, c, last=False) + frame(PING, b"") + frame(CONTINUATION, b"")
    ),
    st.tuples(st.integers(0x3, 0x7) | st.integers(0xB, 0xF), _short).map(
        lambda drawn: Hostile("reserved opcode", frame(*drawn))
    ),
    st.tuples(st.sampled_from([0x10, 0x20, 0x40, 0x70]), _short).map(
        lambda drawn: Hostile("reserved bits", bytes([0x81 | drawn[0]]) + frame(TEXT, drawn[1])[1:])
    ),
    st.tuples(st.sampled_from([PING, PONG]), _short).map(lambda drawn: Hostile("control", frame(*drawn))),
    st.tuples(st.sampled_from([PING, PONG, CLOSE]), st.binary(min_size=126, max_size=400)).map(
        lambda drawn: Hostile("long control", frame(*drawn))
    ),
    st.tuples(st.sampled_from([PING, CLOSE]), _short).map(
        lambda drawn: Hostile("control in parts", frame(*drawn, last=False))
    ),
    _short.map(lambda content: Hostile("close", frame(CLOSE, content))),
    st.sampled_from(
        [64 * 1024 + 1, 512 * 1024 + 1, 48 * MIB, 48 * MIB + 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
    ).map(lambda size: Hostile("announced and not sent", frame_header(TEXT, size))),
    st.integers(60_000, 70_000).map(lambda size: Hostile("about 64 KiB", frame(TEXT, b" " * size))),
]
text_frames = st.one_of(*(_text(kind, content) for kind, content in contents.items()))
sealed_frames = st.one_of(*(_sealed(kind, content) for kind, content in contents.items()))
raw_bytes = st.one_of(
    st.binary(max_size=400).map(lambda data: Hostile("raw bytes", data)),
    st.binary(max_size=200).map(
        lambda data: Hostile("raw header", b"GET /ws/nodes HTTP/1.1\r\nX: " + data + b"\r\n\r\n")
    ),
    st.integers(1000, 40_000).map(lambda size: Hostile("long header", b"GET /" + b"a" * size)),
    st.sampled_from([b"GET", b"POST", b"PRI", b"\x16\x03\x01"]).map(
        lambda method: Hostile(
            "other methods", method + b" / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"
        )
    ),
)


#: What a connection gets in each stage, most often text, and now and then a frame that is broken itself.
_broken = st.one_of(*websocket_frames)
_KINDS: dict[Stage, list[st.SearchStrategy[Hostile]]] = {
    Stage.TCP: [raw_bytes],
    Stage.HELLO: [text_frames, text_frames, text_frames, _broken],
    Stage.AUTH: [text_frames, text_frames, text_frames, _broken],
    Stage.PLAIN: [text_frames, text_frames, text_frames, _broken],
    Stage.ENC: [sealed_frames, sealed_frames, sealed_frames, text_frames, _broken],
}
_STAGES = [Stage.TCP, *[Stage.HELLO] * 3, *[Stage.AUTH] * 3, *[Stage.PLAIN] * 5, *[Stage.ENC] * 5]


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    stage = draw(st.sampled_from(_STAGES))
    # Few, as what follows the first fatal frame is hardly looked at.
    count = draw(st.integers(1, 4))
    return Conversation(stage, [draw(draw(st.sampled_from(_KINDS[stage]))) for _ in range(count)])


def drawn(number: int, count: int) -> list[Conversation]:
    """About ``count`` conversations, the same for the same number."""
    made: list[Conversation] = []

    @seed(number)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(conversations())
    def keep(one: Conversation) -> None:
        made.append(one)

    keep()
    return made
