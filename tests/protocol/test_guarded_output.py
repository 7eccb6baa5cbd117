"""How the output of a guarded command is taken apart."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_nodes.errors import ProtocolViolation
from hermes_nodes.protocol.guarded import KEEP_BYTES, DamagedOutput, Ended, GuardedOutput
from tests.protocol.guard_output import MARKER, TAG, a_line, in_lines, notes, writes


def taken_apart(*pieces: bytes) -> tuple[bytes, Ended]:
    output = GuardedOutput(MARKER)
    stdout = b"".join([output.feed(piece) for piece in pieces])
    return stdout, output.end()


contents = st.binary(max_size=40) | st.integers(700, 2300).map(bytes)


@given(contents, contents, st.integers(0, 255), st.lists(st.integers(0, 6000)))
def test_output_may_come_in_any_pieces(
    stdout: bytes, stderr: bytes, exit_code: int, cuts: list[int]
) -> None:
    printed = b"".join(writes(stdout, stderr, exit_code))
    bounds = [0, *sorted(cuts), len(printed)]
    pieces = [printed[start:end] for start, end in itertools.pairwise(bounds)]
    expected = stdout, Ended(exit_code, is_late=False, is_denied=False, stderr=stderr, truncated=False)
    assert taken_apart(*pieces) == expected
    assert taken_apart(*[printed[at : at + 1] for at in range(len(printed))]) == expected


@given(st.data(), contents, contents)
def test_a_time_out_may_be_noted_between_any_two_writes(
    data: st.DataObject, out: bytes, err: bytes
) -> None:
    pieces = writes(out, err, 143)
    pieces.insert(data.draw(st.integers(2, len(pieces))), b";")
    expected = out, Ended(143, is_late=True, is_denied=False, stderr=err, truncated=False)
    assert taken_apart(b"".join(pieces)) == expected


@given(st.integers(0, 684 + len(TAG)))
def test_a_time_out_may_be_noted_amid_a_line(at: int) -> None:
    stdout = bytes(range(256)) * 2
    before, line, *rest = writes(stdout, b"")[1:]
    taken, ended = taken_apart(before, line[:at] + b";" + line[at:], *rest)
    assert (taken, ended.is_late, ended.exit_code) == (stdout, True, 0)


@given(st.data(), contents, st.binary(min_size=1, max_size=2300))
def test_notes_may_stand_anywhere_in_stderr(data: st.DataObject, out: bytes, err: bytes) -> None:
    said = notes(5, in_lines(out))
    pieces = writes(out, err, 5)
    del pieces[pieces.index(said)]
    first = len(in_lines(out)) + 4
    last = first + len(in_lines(err))
    printed = b"".join(pieces[first:last])
    at = data.draw(st.integers(0, len(printed)))
    taken, ended = taken_apart(*pieces[:first], printed[:at] + said + printed[at:], *pieces[last:])
    assert (taken, ended.stderr, ended.exit_code, ended.truncated) == (out, err, 5, False)


@given(st.integers(0, 60))
def test_stderr_may_be_cut_at_any_byte_even_in_a_note(at: int) -> None:
    some, more = (a_line(part).rstrip() for part in (b"some word", b"some more"))
    printed = writes(b"out", b"")
    tail = some + b":0:" + b"\n" + more + notes(0, printed[2:3]) + b"\n" + a_line(b"end")
    before, after = printed[:5], [b"\n", f"{MARKER}end 0\n".encode()]
    stdout, ended = taken_apart(*before, tail[:at], *after)
    assert (stdout, ended.exit_code) == (b"out", 0)
    assert b"some wordsome moreend".startswith(ended.stderr)


# What something else prints meanwhile

STRAY = [
    b"tick",
    b"QUJD",
    b"(5) left",
    b":5: is up",
    b"done; next",
    b" " + TAG + b"QUJD",
    bytes(range(128, 256)),
]
OUT, ERR = b"out" * 600, b"err" * 600


@pytest.mark.parametrize("line", STRAY, ids=repr)
def test_whole_lines_of_others_are_dropped_wherever_they_fall(line: bytes) -> None:
    pieces = writes(OUT, ERR, 3)
    expected = OUT, Ended(3, is_late=False, is_denied=False, stderr=ERR, truncated=False)
    begins = [at for at in range(len(pieces) + 1) if b"".join(pieces[:at]).endswith((b"", b"\n")[at > 0])]
    for at in begins:
        assert taken_apart(*pieces[:at], line + b"\n", *pieces[at:]) == expected, at


@pytest.mark.parametrize("stray", [b"tick\n", b"QUJD\n", b"QUJD", b"\n", b"no base64\n"], ids=repr)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_others_print_into_a_line_is_damage_and_never_wrong_bytes(stream: str, stray: bytes) -> None:
    pieces = writes(OUT, ERR)
    at = 2 if stream == "stdout" else pieces.index(in_lines(ERR)[0])
    # A count is no checksum: what is as long as the end that it cuts off takes its place unseen.
    unseen = len(pieces[at]) - len(stray)
    for cut in set(range(1, len(pieces[at]))) - {unseen}:
        damaged = pieces[at][:cut] + stray + pieces[at][cut:]
        try:
            stdout, ended = taken_apart(*pieces[:at], damaged, *pieces[at + 1 :])
        except DamagedOutput:
            continue
        assert (stdout, ended.stderr) == (OUT, ERR), cut


@pytest.mark.parametrize("line", [b"\n", b"tick\n", a_line(b"")], ids=["empty", "others'", "the guard's"])
def test_two_hundred_thousand_lines_are_damage(line: bytes) -> None:
    begun = time.process_time()
    with pytest.raises(DamagedOutput):
        taken_apart(f"{MARKER}out\n".encode(), *[line * 1000] * 1000)
    with pytest.raises(DamagedOutput):
        taken_apart(f"{MARKER}out\n".encode() + line * 1_000_000)
    assert time.process_time() - begun < 2.0


@pytest.mark.parametrize("size", [64 * 1024 + 1, 10_000_000])
def test_a_line_that_does_not_end_is_damage(size: int) -> None:
    with pytest.raises(DamagedOutput):
        taken_apart(f"{MARKER}out\n".encode(), b"x" * size)


@pytest.mark.parametrize("line", ["Q*JD", "QUJDQ===", "=UJD", "QQ==QUJD", "QUJ\xff", "no base64"])
@pytest.mark.parametrize("place", [2, 4], ids=["stdout", "stderr"])
def test_damaged_output_is_a_violation(line: str, place: int) -> None:
    pieces = writes(b"", b"")
    pieces.insert(place, a_line(line))
    with pytest.raises(ProtocolViolation, match="damaged"):
        taken_apart(*pieces)


@pytest.mark.parametrize("size", [0, 13, 15, 2**31])
def test_stdout_of_another_size_than_its_note_says_is_damage(size: int) -> None:
    pieces = writes(b"out", b"")
    pieces[5] = f":0:({size})".encode()
    with pytest.raises(DamagedOutput):
        taken_apart(*pieces)


# How it ends


@pytest.mark.parametrize("code", ["", "x", "-1", "1.5", "4294967296", "9" * 5000])
def test_an_exit_code_that_no_shell_gives_is_a_violation(code: str) -> None:
    with pytest.raises(ProtocolViolation):
        taken_apart(*writes(b"", b"")[:-2], f"{MARKER}end {code}\n".encode())


@pytest.mark.parametrize("printed", [b"", b"\n", b"no marker\n", b"bash: command not found\nQUJD\n"])
def test_output_without_markers_tells_no_exit_code(printed: bytes) -> None:
    assert taken_apart(printed) == (
        b"",
        Ended(None, is_late=False, is_denied=False, stderr=b"", truncated=False),
    )


@pytest.mark.parametrize(("pieces", "stderr"), [(3, b""), (5, b""), (6, b""), (7, b"err")])
def test_output_that_breaks_off_keeps_what_there_was(pieces: int, stderr: bytes) -> None:
    stdout, ended = taken_apart(*writes(b"out", b"err")[:pieces])
    assert (stdout, ended.stderr, ended.exit_code) == (b"out", stderr, None)


def test_a_denied_command_is_told_by_its_marker_alone() -> None:
    assert taken_apart(f"{MARKER}denied\n".encode())[1].is_denied
    assert not taken_apart(f"x{MARKER}denied\n".encode())[1].is_denied


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_of_each_stream_seven_megabytes_are_kept(stream: str, over: int) -> None:
    content = bytes(KEEP_BYTES + over)
    stdout, ended = taken_apart(*(writes(content, b"") if stream == "stdout" else writes(b"", content)))
    assert len(stdout + ended.stderr) == KEEP_BYTES
    assert ended.truncated is bool(over)
