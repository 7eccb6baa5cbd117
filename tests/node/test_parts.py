"""Transfers that broke and go on: what is kept of them, for how long, and what no one can slip in."""

import hashlib
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from hermes_nodes.errors import CallFailed, FileMissing, HermesNodesError
from hermes_nodes.node.allowlist import Allowlist
from hermes_nodes.node.files import Writer
from hermes_nodes.node.parts import KEPT_SECONDS, Parts
from hermes_nodes.protocol.parts import TRAILER_BYTES, held_by
from tests.node.support import names
from tests.support import mode

CONTENT = bytes(range(256)) * 4096
PART = ".file.hermes-part"


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path / "own" / "parts")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "own" / "parts"


def break_off(allowlist: Allowlist, parts: Parts, size: int, content: bytes = CONTENT) -> None:
    """A write of ``file`` of which so many bytes come before its connection is lost."""
    with Writer.open(allowlist, "file", size_bytes=len(content), kept=parts) as writer:
        writer.feed(content[:size])
        writer.keep()


def go_on(
    allowlist: Allowlist, parts: Parts, offset: int, content: bytes = CONTENT, *, perm: int | None = None
) -> tuple[int, str]:
    with Writer.open(
        allowlist, "file", size_bytes=len(content), offset=offset, kept=parts, perm=perm
    ) as writer:
        while writer.recall():
            pass
        writer.feed(content[offset:])
        return writer.finish()


def test_a_broken_transfer_leaves_the_target_and_a_part_for_us_alone(
    allowlist: Allowlist, inside: Path, parts: Parts
) -> None:
    break_off(allowlist, parts, 1000)
    assert (inside / "file").read_text() == "inside"
    assert names(inside) == {"file", PART}
    assert mode(inside / PART) == 0o600
    content = (inside / PART).read_bytes()
    held = held_by(content[-TRAILER_BYTES:], len(content))
    assert held == (1000, hashlib.sha256(CONTENT[:1000]).hexdigest())


@pytest.mark.parametrize("size", [1, 1000, len(CONTENT)])
def test_it_goes_on_from_what_has_come(
    allowlist: Allowlist, inside: Path, parts: Parts, notes: Path, size: int
) -> None:
    (inside / "file").chmod(0o640)
    break_off(allowlist, parts, size)
    assert go_on(allowlist, parts, size) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert (inside / "file").read_bytes() == CONTENT
    assert mode(inside / "file") == 0o640
    assert names(inside) == {"file"}
    assert names(notes) == set()


def test_it_may_break_again_and_go_on_again(allowlist: Allowlist, inside: Path, parts: Parts) -> None:
    break_off(allowlist, parts, 1000)
    with Writer.open(allowlist, "file", size_bytes=len(CONTENT), offset=1000, kept=parts) as writer:
        while writer.recall():
            pass
        writer.feed(CONTENT[1000:5000])
        writer.keep()
    go_on(allowlist, parts, 5000)
    assert (inside / "file").read_bytes() == CONTENT


def test_less_than_all_of_it_can_be_taken(allowlist: Allowlist, inside: Path, parts: Parts) -> None:
    break_off(allowlist, parts, 1000)
    go_on(allowlist, parts, 600)
    assert (inside / "file").read_bytes() == CONTENT


def test_a_new_file_gets_its_permissions_though_its_part_has_others(
    allowlist: Allowlist, inside: Path, parts: Parts
) -> None:
    (inside / "file").unlink()
    break_off(allowlist, parts, 1000)
    go_on(allowlist, parts, 1000, perm=0o751)
    assert mode(inside / "file") == 0o751


@pytest.mark.parametrize("size", [0, 1000])
def test_nothing_is_kept_of_what_has_no_size_or_no_content(
    allowlist: Allowlist, inside: Path, parts: Parts, notes: Path, size: int
) -> None:
    with Writer.open(allowlist, "file", size_bytes=None if size else 5, kept=parts) as writer:
        writer.feed(CONTENT[:size])
        writer.keep()
    assert names(inside) == {"file"}
    assert not notes.exists() or names(notes) == set()


def test_a_cancelled_or_failed_transfer_leaves_nothing(
    allowlist: Allowlist, inside: Path, parts: Parts, notes: Path
) -> None:
    with Writer.open(allowlist, "file", size_bytes=5, kept=parts) as writer:
        writer.feed(b"four")
    with (
        pytest.raises(CallFailed, match="5 bytes were announced"),
        Writer.open(allowlist, "file", size_bytes=5, kept=parts) as writer,
    ):
        writer.feed(b"more than that")
    assert names(inside) == {"file"}
    assert names(notes) == set()


def test_a_fresh_write_drops_what_an_earlier_one_left(
    allowlist: Allowlist, inside: Path, parts: Parts, notes: Path
) -> None:
    break_off(allowlist, parts, 1000)
    with Writer.open(allowlist, "file", size_bytes=3, kept=parts) as writer:
        assert PART not in names(inside)
        writer.feed(b"new")
        writer.finish()
    assert names(inside) == {"file"}
    assert names(notes) == set()


def test_there_must_be_something_to_go_on_from(allowlist: Allowlist, inside: Path, parts: Parts) -> None:
    with pytest.raises(FileMissing, match="go on from"):
        go_on(allowlist, parts, 10)
    break_off(allowlist, parts, 1000)
    with pytest.raises(CallFailed, match="1000 bytes are there to go on from, not 1001"):
        go_on(allowlist, parts, 1001)
    with pytest.raises(CallFailed, match="append"):
        Writer.open(allowlist, "file", "append", offset=10, kept=parts)
    assert names(inside) == {"file"}
    assert (inside / "file").read_text() == "inside"


def test_a_part_that_was_altered_is_not_gone_on_from(
    allowlist: Allowlist, inside: Path, parts: Parts
) -> None:
    break_off(allowlist, parts, 1000)
    with (inside / PART).open("r+b") as file:
        file.write(b"XYZ")
    with pytest.raises(CallFailed, match="altered"):
        go_on(allowlist, parts, 1000)
    assert (inside / "file").read_text() == "inside"


def test_what_others_could_have_written_is_no_part(
    allowlist: Allowlist, inside: Path, outside: Path, parts: Parts
) -> None:
    break_off(allowlist, parts, 1000)
    whole = (inside / PART).read_bytes()
    (outside / "bait").write_bytes(whole)
    (outside / "bait").chmod(0o600)
    part = inside / PART

    def symlink() -> None:
        part.symlink_to(outside / "bait")

    def hard_link() -> None:
        part.hardlink_to(outside / "bait")

    def open_to_others() -> None:
        part.write_bytes(whole)
        part.chmod(0o666)

    for put in (symlink, hard_link, open_to_others):
        part.unlink()
        put()
        with pytest.raises(FileMissing):
            go_on(allowlist, parts, 1000)
    assert (outside / "bait").read_bytes() == whole
    assert (inside / "file").read_text() == "inside"


def test_only_one_can_go_on_from_a_part(allowlist: Allowlist, inside: Path, parts: Parts) -> None:
    break_off(allowlist, parts, 1000)
    with Writer.open(allowlist, "file", size_bytes=len(CONTENT), offset=1000, kept=parts) as writer:
        with pytest.raises(FileMissing):
            go_on(allowlist, parts, 1000)
        while writer.recall():
            pass
        writer.feed(CONTENT[1000:])
        writer.finish()
    assert (inside / "file").read_bytes() == CONTENT


def test_the_last_of_two_whole_transfers_wins(allowlist: Allowlist, inside: Path, parts: Parts) -> None:
    with (
        Writer.open(allowlist, "file", size_bytes=4, kept=parts) as first,
        Writer.open(allowlist, "file", size_bytes=4, kept=parts) as second,
    ):
        first.feed(b"11")
        second.feed(b"2222")
        first.feed(b"11")
        second.finish()
        assert (inside / "file").read_text() == "2222"
        first.finish()
    assert (inside / "file").read_text() == "1111"
    assert names(inside) == {"file"}


# -- tidying --------------------------------------------------------------------------------------


def test_a_part_is_swept_after_a_day_and_not_before(
    allowlist: Allowlist, inside: Path, parts: Parts, notes: Path
) -> None:
    break_off(allowlist, parts, 1000)
    parts.tidy(now=time.time() + KEPT_SECONDS - 60)
    assert names(inside) == {"file", PART}
    parts.tidy(now=time.time() + KEPT_SECONDS + 60)
    assert names(inside) == {"file"}
    assert names(notes) == set()


@pytest.mark.parametrize("size", [4, None])
def test_what_is_being_written_is_left_alone(
    allowlist: Allowlist, inside: Path, parts: Parts, size: int | None
) -> None:
    with Writer.open(allowlist, "file", size_bytes=size, kept=parts) as writer:
        writer.feed(b"half")
        parts.tidy(now=time.time() + 2 * KEPT_SECONDS)
        writer.finish()
    assert (inside / "file").read_text() == "half"


KILLED = """
    import os, pathlib, signal, sys
    from hermes_nodes.node.allowlist import Allowlist
    from hermes_nodes.node.files import Writer
    from hermes_nodes.node.parts import Parts
    folder, own, mode, size = sys.argv[1:]
    kept, size_bytes = Parts(pathlib.Path(own)), int(size) or None
    writer = Writer.open(Allowlist([folder]), folder + "/file", mode, size_bytes=size_bytes, kept=kept)
    writer.feed(b"seven b")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(inside: Path, notes: Path, write_mode: str, size: int) -> None:
    """A node that is killed in a write; 0 is no size."""
    script = [sys.executable, "-c", textwrap.dedent(KILLED), str(inside), str(notes), write_mode, str(size)]
    assert subprocess.run(script, check=False).returncode < 0
    assert len(names(inside)) == 2


@pytest.mark.parametrize(("write_mode", "size"), [("overwrite", 0), ("append", 0), ("append", 10)])
def test_what_nobody_can_go_on_from_is_gone_when_a_killed_node_is_back(
    inside: Path, parts: Parts, notes: Path, write_mode: str, size: int
) -> None:
    killed(inside, notes, write_mode, size)
    parts.tidy()
    assert names(inside) == {"file"}
    assert names(notes) == set()


def test_what_a_killed_node_had_is_a_part_when_it_is_back(
    allowlist: Allowlist, inside: Path, parts: Parts, notes: Path
) -> None:
    killed(inside, notes, "overwrite", 10)
    parts.tidy()
    assert names(inside) == {"file", PART}
    assert go_on(allowlist, parts, 7, b"seven bytes"[:10])[0] == 10
    assert (inside / "file").read_text() == "seven byte"
    assert names(notes) == set()


def test_nothing_is_removed_through_a_directory_that_leads_elsewhere(
    allowlist: Allowlist, inside: Path, outside: Path, parts: Parts, notes: Path
) -> None:
    break_off(allowlist, parts, 1000)
    (inside / PART).rename(outside / PART)
    inside.rename(inside.with_name("moved"))
    inside.symlink_to(outside)
    parts.tidy(now=time.time() + 2 * KEPT_SECONDS)
    assert PART in names(outside)
    assert names(notes) == set()


def test_damaged_notes_do_no_harm(parts: Parts, notes: Path) -> None:
    notes.mkdir(parents=True)
    for number, text in enumerate(["", "{", "[]", '{"directory": 1}', '{"a": "b"}', "null"]):
        (notes / str(number)).write_text(text)
    (notes / "folder").mkdir()
    parts.tidy()


def test_names_of_any_bytes_are_kept_and_swept(allowlist: Allowlist, inside: Path, parts: Parts) -> None:
    name = os.fsdecode(b"\xff\n'")
    with Writer.open(allowlist, name, size_bytes=9, kept=parts) as writer:
        writer.feed(b"x")
        writer.keep()
    assert len(names(inside)) == 2
    parts.tidy(now=time.time() + 2 * KEPT_SECONDS)
    assert names(inside) == {"file"}


def test_a_folder_that_can_not_be_written_only_means_that_nothing_is_kept(
    allowlist: Allowlist, inside: Path
) -> None:
    nowhere = Parts(inside / "file" / "parts")
    with Writer.open(allowlist, "new", size_bytes=9, kept=nowhere) as writer:
        writer.feed(b"x")
        writer.keep()
    nowhere.tidy()
    assert names(inside) == {"file"}


def test_a_failure_on_the_way_is_no_reason_to_keep(
    allowlist: Allowlist, inside: Path, parts: Parts
) -> None:
    writer = Writer.open(allowlist, "file", size_bytes=2, kept=parts)
    with pytest.raises(HermesNodesError):
        writer.feed(b"three")
    writer.keep()
    assert names(inside) == {"file"}
