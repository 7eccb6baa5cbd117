"""What a path was when it was checked is what is opened."""

from pathlib import Path

import pytest

from hermes_nodes.node.allowlist import Allowlist
from tests.node.conftest import folder_with_file
from tests.node.support import names, read, write
from tests.node.test_allowlist import outcome, swapping
from tests.support import attempts


@pytest.mark.parametrize("kind", ["a directory", "the file"])
def test_check_then_open_on_a_path(tmp_path: Path, kind: str) -> None:
    """Whoever swaps a link in, at whatever moment, gets nothing of outside, and puts nothing there."""
    inside, outside = (folder_with_file(tmp_path / name) for name in ("inside", "outside"))
    allowlist = Allowlist([str(inside)], home=str(inside))
    (inside / "door").mkdir()
    (inside / "door/file").write_text("inside")
    real, target = (
        (inside / "door", outside) if kind == "a directory" else (inside / "door/file", outside / "file")
    )
    fake = real.with_name("fake")
    fake.symlink_to(target)
    seen: set[bytes] = set()
    with swapping(real, fake):
        for _ in attempts(1000, until=lambda: b"inside" in seen):
            seen.add(outcome(lambda: read(allowlist, "door/file")))
        seen |= {outcome(lambda: write(allowlist, "door/file", b"inside")) for _ in range(300)}
    assert b"inside" in seen, "there was something to be had"
    assert b"outside" not in seen
    assert (outside / "file").read_text() == "outside"
    assert names(outside) == {"file"}
