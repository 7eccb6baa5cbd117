"""`cp --resume` where what has the name of a part is none: the copy begins anew."""

import os
from pathlib import Path

import pytest

from tests.harness import Home, NodeProcess


@pytest.fixture
def folder(home: Home, node: NodeProcess) -> Path:
    """A folder that the node allows, with a file to copy that a directory might pass for a part of."""
    path = home.folder / "resumed" / os.urandom(4).hex()
    path.mkdir(parents=True)
    (path / "source").write_bytes(bytes(1 << 20))
    return path


def test_a_directory_by_the_name_of_a_part_is_left_alone(home: Home, folder: Path) -> None:
    (folder / ".target.hermes-part").mkdir()
    (folder / ".target.hermes-part" / "file").touch()
    home.ok("cp", "--resume", f"{folder}/source", f"laptop:{folder}/target")
    assert (folder / "target").read_bytes() == bytes(1 << 20)
    assert (folder / ".target.hermes-part" / "file").exists()
