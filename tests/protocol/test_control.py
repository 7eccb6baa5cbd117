"""The frames between client and gateway: whole again however the connection cut them."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_nodes.protocol import control
from hermes_nodes.protocol.control import ControlFrame, FrameReader, FrameTooLargeError

FRAMES = [
    (control.DATA, 0, b"some input"),
    (control.END, 0, b""),
    (control.WINDOW, 1, (5).to_bytes(4, "big")),
    (control.ALIVE, 0, b""),
    (control.DATA, 2, bytes(range(256))),
    (control.ANSWER, 0, b'{"exit_code":0}'),
]
WIRE = b"".join(control.frame(kind, payload, channel) for kind, channel, payload in FRAMES)


def plain(frames: list[ControlFrame]) -> list[tuple[int, int, bytes]]:
    return [(frame.kind, frame.channel, bytes(frame.payload)) for frame in frames]


def test_a_frame_is_length_kind_and_channel_and_then_its_payload() -> None:
    assert control.frame(control.DATA, b"abc", 2) == b"\x00\x00\x00\x03\x01\x02abc"
    assert control.header(control.DATA, 3, 2) + b"abc" == control.frame(control.DATA, b"abc", 2)
    assert control.frame(control.ALIVE) == b"\x00\x00\x00\x00\x06\x00"


def test_frames_that_come_at_once_are_told_apart() -> None:
    assert plain(list(FrameReader().feed(WIRE))) == FRAMES


@pytest.mark.parametrize("at", range(len(WIRE) + 1))
def test_frames_are_whole_wherever_the_connection_cut_them(at: int) -> None:
    reader = FrameReader()
    assert plain([*reader.feed(WIRE[:at]), *reader.feed(WIRE[at:])]) == FRAMES


def test_frames_are_whole_when_they_come_byte_by_byte() -> None:
    reader = FrameReader()
    assert plain([frame for byte in WIRE for frame in reader.feed(bytes([byte]))]) == FRAMES


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=50))), st.data())
def test_any_frames_cut_in_any_way_come_out_as_they_went_in(
    frames: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    wire = b"".join(control.frame(kind, payload, channel) for kind, channel, payload in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    reader = FrameReader()
    assert plain([frame for piece in pieces for frame in reader.feed(piece)]) == frames


def test_a_frame_comes_out_as_soon_as_it_is_whole() -> None:
    reader = FrameReader()
    assert list(reader.feed(WIRE[:15])) == []
    assert plain(list(reader.feed(WIRE[15:16]))) == FRAMES[:1]


def test_payloads_stay_valid_while_more_comes() -> None:
    reader = FrameReader()
    kept: list[ControlFrame] = []
    for start in range(0, len(WIRE), 7):
        kept += reader.feed(WIRE[start : start + 7])
    list(reader.feed(b"\xff\x00" * 2))
    assert plain(kept) == FRAMES


def test_the_largest_frame_passes() -> None:
    payload = bytes(control.MAX_FRAME)
    assert plain(list(FrameReader().feed(control.frame(control.DATA, payload)))) == [(1, 0, payload)]


@pytest.mark.parametrize("size", [control.MAX_FRAME + 1, 2**32 - 1])
def test_a_frame_that_is_too_large_is_refused_at_its_header(size: int) -> None:
    header = struct.pack(">IBB", size, control.DATA, 0)
    with pytest.raises(FrameTooLargeError):
        list(FrameReader().feed(header))


def test_what_came_whole_before_a_frame_that_is_too_large_still_comes_out() -> None:
    frames = FrameReader().feed(control.frame(control.END) + struct.pack(">IBB", 2**31, control.DATA, 0))
    assert next(frames).kind == control.END
    with pytest.raises(FrameTooLargeError):
        next(frames)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_window_carries_any_count_of_four_bytes(size: int) -> None:
    (frame,) = FrameReader().feed(control.window(1, size))
    assert (frame.kind, frame.channel, control.window_size(frame.payload)) == (control.WINDOW, 1, size)


@pytest.mark.parametrize("payload", [b"", b"\0" * 3, b"\0" * 5])
def test_a_window_of_a_wrong_length_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="wrong length"):
        control.window_size(memoryview(payload))
