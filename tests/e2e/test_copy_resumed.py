"""`cp --resume`: what there is to go on from, and what only has the name of that."""

import os
from pathlib import Path

import pytest

from tests.harness import GatewayProcess, Home, NodeProcess, until


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


async def test_of_a_copy_between_nodes_the_target_keeps_what_has_come_when_the_source_is_lost(
    home: Home, gateway: GatewayProcess, folder: Path
) -> None:
    (folder / "large").touch()
    os.truncate(folder / "large", 8 << 30)

    def has_begun() -> bool:
        return any(path.stat().st_size for path in folder.glob(".hermes-*"))

    with (
        home.node(gateway, "lost-source", allow=[home.folder]) as lost,
        home.start("cp", f"lost-source:{folder}/large", f"laptop:{folder}/target") as running,
    ):
        await until(has_begun)
        lost.process.kill()
        code, _, stderr = running.end()
    assert code == 75
    assert b"`cp --resume` goes on from what has arrived" in stderr
    await until((folder / ".target.hermes-part").exists)
    assert not has_begun()
