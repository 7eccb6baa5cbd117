"""Directories that a node's allowlist holds, and others."""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hermes_nodes.node.allowlist import Allowlist
from tests.node.calls_support import Calls, calls_in


def folder_with_file(path: Path) -> Path:
    path.mkdir()
    (path / "file").write_text(path.name)
    return path


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    return folder_with_file(tmp_path / "inside")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return folder_with_file(tmp_path / "outside")


@pytest.fixture
def allowlist(inside: Path) -> Allowlist:
    return Allowlist([str(inside)], home=str(inside))


@pytest.fixture
def other_user() -> Iterator[Path]:
    """A directory of root's that everybody may enter; the test goes on as somebody else."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        os.seteuid(0)


@pytest.fixture
async def calls(tmp_path: Path) -> AsyncIterator[Calls]:
    async with calls_in(tmp_path) as running:
        yield running
