"""Messages: what is decoded, ignored, left out and refused, whatever a peer sends."""

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hermes_nodes.errors import ProtocolViolation
from hermes_nodes.protocol import codec, messages, stream
from hermes_nodes.protocol.messages import (
    FROM_GATEWAY,
    FROM_NODE,
    HANDSHAKE_REPLY,
    HELLO_OR_AUTH,
    SEALED,
    Bye,
    Cancel,
    Close,
    Enc,
    Error,
    Exec,
    ExecChunk,
    ExecResult,
    FromGateway,
    FromNode,
    JobList,
    JobRead,
    ListDir,
    MakeDir,
    Message,
    Ping,
    Pong,
    Pty,
    RateLimit,
    Read,
    ReadResult,
    Request,
    Resize,
    SessionList,
    SessionReset,
    Stat,
    StatResult,
    Unknown,
    Vocabulary,
    Window,
    Write,
    WriteResult,
    encode,
    needed_capabilities,
    new_call_id,
)

ID = new_call_id()
VOCABULARIES: list[Vocabulary[Any]] = [FROM_NODE, FROM_GATEWAY, HELLO_OR_AUTH, HANDSHAKE_REPLY, SEALED]
#: `--hypothesis-profile=many` tries more of them.
EXAMPLES = 4 * settings().max_examples
BOTH_WAYS = {Ping, Pong, Bye, Window}
ONLY_NODE = [kind for kind in get_args(FromNode) if kind not in BOTH_WAYS]
ONLY_GATEWAY = [kind for kind in get_args(FromGateway) if kind not in BOTH_WAYS]


def tag(kind: type[Message]) -> str:
    name = kind.__struct_config__.tag
    assert isinstance(name, str)
    return name


def raw(**fields: object) -> bytes:
    return json.dumps(fields).encode()


# What is ignored


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_message_of_an_unknown_type_is_told_from_a_malformed_one(vocabulary: Vocabulary[Any]) -> None:
    assert vocabulary.decode(raw(type="salut")) == Unknown("salut")
    assert vocabulary.decode(raw(type="salut", id=ID, id2=5, nested=[{}])) == Unknown("salut", ID)


@pytest.mark.parametrize("kind", ONLY_NODE, ids=tag)
def test_a_node_does_not_understand_what_only_a_node_may_send(kind: type[Message]) -> None:
    assert FROM_GATEWAY.decode(raw(type=tag(kind), id=ID)) == Unknown(tag(kind), ID)


@pytest.mark.parametrize("kind", ONLY_GATEWAY, ids=tag)
def test_a_gateway_does_not_understand_what_only_a_gateway_may_send(kind: type[Message]) -> None:
    assert FROM_NODE.decode(raw(type=tag(kind), id=ID)) == Unknown(tag(kind), ID)


@pytest.mark.parametrize("kind", ["hello", "hello_ack", "hello_err", "auth", "auth_ok", "auth_err", "enc"])
def test_messages_of_the_handshake_mean_nothing_after_it(kind: str) -> None:
    for vocabulary in (FROM_NODE, FROM_GATEWAY):
        assert vocabulary.decode(raw(type=kind)) == Unknown(kind)


def test_either_side_may_ping_say_bye_and_widen_a_window() -> None:
    for message in (Ping(ts="now"), Pong(echo_ts="now"), Bye(reason="home"), Window(id=ID, bytes=5)):
        assert FROM_NODE.decode(encode(message)) == FROM_GATEWAY.decode(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Exec(id=ID, argv=["a"], env={"A": "b"}, pty=Pty(80, 24), timeout_ms=5),
        Read(id=ID, path="/etc/hosts", length=5),
        Write(id=ID, path="/tmp/x", mode="create", perm=0o600),
        Ping(ts="now"),
        RateLimit(reason="r", code=4004, node_name="web-1", limit_per_second=100),
    ],
    ids=lambda message: tag(type(message)),
)
def test_unknown_fields_are_ignored(message: Message) -> None:
    fields = json.loads(encode(message)) | {"colour": "red", "nested": {"list": [1, None, 2.5e300]}}
    assert FROM_GATEWAY.decode(raw(**fields)) == message


def _optional_fields(kind: type[Message]) -> list[str]:
    fields = msgspec.structs.fields(kind)
    return [field.name for field in fields if not field.required and field.default is None]


@pytest.mark.parametrize(
    "message",
    [
        Exec(id=ID),
        Read(id=ID, path="p"),
        Write(id=ID, path="p"),
        MakeDir(id=ID, path="p"),
        ExecResult(status="ok", id=ID),
        ExecChunk(id=ID),
        ReadResult(status="ok", id=ID),
        WriteResult(status="ok", id=ID),
        StatResult(status="ok", id=ID),
        Error(),
        Ping(),
        Pong(),
        Bye(),
    ],
    ids=lambda message: tag(type(message)),
)
def test_optional_fields_may_be_null(message: Message) -> None:
    optional = _optional_fields(type(message))
    assert "ts" in optional
    fields = json.loads(encode(message)) | dict.fromkeys(optional)
    decoded = (FROM_NODE if type(message) in get_args(FromNode) else FROM_GATEWAY).decode(raw(**fields))
    assert decoded == message


# What is left out


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (ExecResult(status="ok", id=ID), {"type": "exec_result", "id": ID, "status": "ok"}),
        (
            ExecResult(id=ID, status="error", exit_code=1, truncated=True),
            {"type": "exec_result", "id": ID, "status": "error", "exit_code": 1, "truncated": True},
        ),
        (Exec(id=ID, command="", stdin=False), {"type": "exec", "id": ID, "command": ""}),
        (Read(id=ID, path="p", offset=0), {"type": "read", "id": ID, "path": "p"}),
        (ReadResult(status="ok", id=ID, size_bytes=0), {"type": "read_result", "id": ID, "status": "ok"}),
        (Write(id=ID, path="p", mode="append"), {"type": "write", "id": ID, "path": "p", "mode": "append"}),
        (Window(id=ID, channel=0, bytes=1), {"type": "window", "id": ID, "bytes": 1}),
        (Cancel(id=ID), {"type": "cancel", "id": ID}),
        (Ping(), {"type": "ping"}),
        (Bye(), {"type": "bye"}),
    ],
    ids=lambda case: tag(type(case)) if isinstance(case, Message) else "",
)
def test_what_is_zero_false_or_empty_is_left_out(message: Message, wire: dict[str, object]) -> None:
    assert json.loads(encode(message)) == wire


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (
            {"type": "exec_result", "id": ID, "status": "ok"},
            ExecResult(id=ID, status="ok", exit_code=0, stdout=""),
        ),
        ({"type": "write", "id": ID, "path": "p"}, Write(id=ID, path="p", mode="overwrite")),
        ({"type": "window", "id": ID}, Window(id=ID, channel=0, bytes=0)),
        ({"type": "error"}, Error(code=0)),
    ],
    ids=lambda case: case["type"] if isinstance(case, dict) else "",
)
def test_what_was_left_out_means_zero_false_or_empty(wire: dict[str, object], message: Message) -> None:
    vocabulary = FROM_NODE if type(message) in get_args(FromNode) else FROM_GATEWAY
    assert vocabulary.decode(raw(**wire)) == message


# What is refused


MALFORMED: dict[str, dict[str, object]] = {
    "a call without an id": {"type": "exec", "command": "true"},
    "a call whose id is null": {"type": "exec", "id": None},
    "a call whose id is empty": {"type": "exec", "id": ""},
    "a call whose id is a number": {"type": "exec", "id": 5},
    "a call id of 65 characters": {"type": "exec", "id": "a" * 65},
    "a ts of 65 characters": {"type": "ping", "ts": "a" * 65},
    "a command that is a list": {"type": "exec", "id": ID, "command": ["true"]},
    "an environment with a number": {"type": "exec", "id": ID, "env": {"A": 1}},
    "a terminal without rows": {"type": "exec", "id": ID, "pty": {"cols": 80}},
    "a read without a path": {"type": "read", "id": ID},
    "a negative offset": {"type": "read", "id": ID, "path": "p", "offset": -1},
    "an unknown mode": {"type": "write", "id": ID, "path": "p", "mode": "truncate"},
    "a negative window": {"type": "window", "id": ID, "bytes": -1},
    "a window of a fraction": {"type": "window", "id": ID, "bytes": 0.5},
    "a window beyond 64 bits": {"type": "window", "id": ID, "bytes": 2**70},
    "a window of a channel that is not": {"type": "window", "id": ID, "channel": 3},
    "a window of a negative channel": {"type": "window", "id": ID, "channel": -1},
}
MALFORMED_ANSWERS: dict[str, dict[str, object]] = {
    "an answer without an id": {"type": "exec_result", "exit_code": 0},
    "an unknown status": {"type": "exec_result", "id": ID, "status": "fine"},
    "an exit code that is a string": {"type": "exec_result", "id": ID, "exit_code": "0"},
    "an exit code that no process has": {"type": "exec_result", "id": ID, "exit_code": 2**32},
    "a size beyond 63 bits": {"type": "read_result", "id": ID, "size_bytes": 2**63},
    "a negative duration": {"type": "exec_result", "id": ID, "duration_ms": -1},
    "a negative size": {"type": "read_result", "id": ID, "size_bytes": -1},
    "an unknown kind of file": {"type": "stat_result", "id": ID, "kind": "socket"},
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_node_refuses(fields: dict[str, object]) -> None:
    with pytest.raises(ProtocolViolation):
        FROM_GATEWAY.decode(raw(**fields))


@pytest.mark.parametrize("fields", MALFORMED_ANSWERS.values(), ids=MALFORMED_ANSWERS.keys())
def test_a_gateway_refuses(fields: dict[str, object]) -> None:
    with pytest.raises(ProtocolViolation):
        FROM_NODE.decode(raw(**fields))


def test_a_refusal_does_not_quote_the_peer() -> None:
    with pytest.raises(ProtocolViolation) as refusal:
        FROM_NODE.decode(raw(type="exec_result", id=ID, status="\x1b[2J", **{"\x1b]0;evil": 1}))
    assert "\x1b" not in refusal.value.message + refusal.value.hint


_tags = st.sampled_from(
    sorted(
        {tag(kind) for kind in (*get_args(FromNode), *get_args(FromGateway), Enc)} | {"hello", "auth", "?"}
    )
)
_names = st.sampled_from(
    [
        field.name
        for kind in (*get_args(FromNode), *get_args(FromGateway))
        for field in msgspec.structs.fields(kind)
    ]
)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=70)
    | st.just(ID),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | _names, inner, max_size=3)
    ),
    max_leaves=6,
)
_messages = st.builds(
    lambda name, fields: json.dumps({"type": name, **fields}).encode(),
    _tags,
    st.dictionaries(_names, _values, max_size=6),
)
_damaged = st.builds(
    lambda message, at, byte: message[: at % len(message)] + byte + message[at % len(message) + 1 :],
    _messages,
    st.integers(0, 500),
    st.binary(max_size=2),
)
_deep = st.builds(
    lambda opening, depth: b'{"type":"ping","x":' + opening * depth,
    st.sampled_from([b"[", b'{"a":']),
    st.integers(0, 100_000),
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=100) | _values.map(lambda v: json.dumps(v).encode()) | _messages | _damaged | _deep
)
def test_whatever_a_peer_sends_is_a_message_unknown_or_a_violation(hostile: bytes) -> None:
    for vocabulary in VOCABULARIES:
        try:
            decoded = vocabulary.decode(hostile)
        except ProtocolViolation:
            continue
        assert isinstance(decoded, Message | Unknown)


# What a call needs


@pytest.mark.parametrize(
    ("request_", "needs"),
    [
        (Exec(id=ID, command="true", cwd="/", env={}, timeout_ms=5), []),
        (Exec(id=ID, stdin=True), ["stdin"]),
        (Exec(id=ID, pty=Pty(80, 24)), ["pty"]),
        (Exec(id=ID, session="s"), ["session"]),
        (Exec(id=ID, detach=True), ["jobs"]),
        (Exec(id=ID, stdin=True, pty=Pty(80, 24), session="s"), ["stdin", "pty", "session"]),
        (Read(id=ID, path="p"), []),
        (Write(id=ID, path="p"), []),
        (SessionList(id=ID), ["session"]),
        (SessionReset(id=ID, session="s"), ["session"]),
        (Stat(id=ID, path="p"), ["fs"]),
        (ListDir(id=ID, path="p"), ["fs"]),
        (MakeDir(id=ID, path="p"), ["fs"]),
        (JobList(id=ID), ["jobs"]),
        (JobRead(id=ID, job="j"), ["jobs"]),
        (messages.JobWait(id=ID, job="j"), ["jobs"]),
        (messages.JobKill(id=ID, job="j"), ["jobs"]),
    ],
)
def test_a_call_needs_the_capabilities_that_section_7_names(request_: Request, needs: list[str]) -> None:
    assert needed_capabilities(request_) == needs


def test_every_call_has_an_id_of_its_own_a_uuid_of_version_4() -> None:
    ids = {new_call_id() for _ in range(100)}
    assert len(ids) == 100
    assert {call_id[14] for call_id in ids} == {"4"}


# The numbers of PROTOCOL.md


def test_the_limits_and_codes_are_those_of_the_protocol() -> None:
    assert messages.PROTOCOL_VERSION == "0.1.0"
    assert messages.NODES_PATH == "/ws/nodes"
    assert messages.LIMIT_BEFORE_AUTH == 64 * 1024
    assert messages.LIMIT_STREAM == 512 * 1024
    assert messages.LIMIT_LEGACY == 48 * 1024 * 1024
    assert messages.MAX_CALLS == 64
    assert codec.MAX_DATA == 126 * 1024
    assert stream.INITIAL_WINDOW == 256 * 1024
    assert stream.MAX_WINDOW == 8 * 1024 * 1024
    assert sorted(Close) == [1000, 1009, 4001, 4002, 4003, 4004, 4005, 4006]


def test_the_close_codes_mean_what_the_protocol_says() -> None:
    meanings = {code.value: code.name for code in Close}
    assert meanings == {
        1000: "NORMAL",
        1009: "TOO_BIG",
        4001: "UNAUTHORISED",
        4002: "VERSION",
        4003: "PROTOCOL",
        4004: "LIMIT",
        4005: "SHUTDOWN",
        4006: "REVOKED",
    }


def test_the_error_codes_are_named_as_the_protocol_names_them() -> None:
    assert messages.ERROR_NAMES == {
        2001: "path_not_allowed",
        2002: "file_not_found",
        2003: "file_too_large",
        2004: "io_error",
        3001: "exec_timeout",
        3002: "exec_failed",
        4000: "bad_request",
        5000: "internal_error",
        5001: "unknown_message",
    }


@pytest.mark.parametrize("cols", [1, 80, 65535])
def test_a_terminal_may_change_its_size(cols: int) -> None:
    message = Resize(id=ID, cols=cols, rows=24)
    assert FROM_GATEWAY.decode(encode(message)) == message
