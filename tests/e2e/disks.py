"""A gateway whose trail lies on a disk that is full, read-only, or gone; as root, which may mount one.

    python -m tests.e2e.disks

in the checkout, in an environment where the package is installed; Linux with mkfs.ext4 and loop devices.
The suite tries the same with limits and missing folders, which need no root.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.harness import Home

#: Room for the journal, and a few minutes of filling it.
SIZE = 8 * 1024 * 1024


def mount(image: Path, path: Path) -> None:
    subprocess.run(["mount", "-o", "loop", str(image), str(path)], check=True)


def new_disk(image: Path) -> None:
    image.write_bytes(bytes(SIZE))
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)


@contextmanager
def disk(image: Path, path: Path) -> Iterator[None]:
    new_disk(image)
    image.with_name("away").mkdir()
    path.mkdir()
    mount(image, path)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextmanager
def full(_: Path, path: Path) -> Iterator[None]:
    with (path / "filler").open("wb") as filler, contextlib.suppress(OSError):
        while True:
            os.write(filler.fileno(), bytes(4096))
    yield
    (path / "filler").unlink()


@contextmanager
def read_only(image: Path, path: Path) -> Iterator[None]:
    """As ext4 makes itself after a fault of its device, which an operator then replaces by another."""
    subprocess.run(["mount", "-o", "remount,abort", str(path)], check=False, stderr=subprocess.DEVNULL)
    yield
    replace(image, path)


@contextmanager
def missing(image: Path, path: Path) -> Iterator[None]:
    """As when the disk is not mounted, and nothing can be made in its place."""
    subprocess.run(["mount", "--move", str(path), str(image.with_name("away"))], check=True)
    path.rmdir()
    path.write_text("not a folder")
    yield
    path.unlink()
    path.mkdir()
    subprocess.run(["mount", "--move", str(image.with_name("away")), str(path)], check=True)


def replace(image: Path, path: Path) -> None:
    """Another disk with the same files."""
    other = image.with_name("other")
    new_disk(other)
    away = image.with_name("away")
    mount(other, away)
    shutil.copytree(path, away, dirs_exist_ok=True)
    subprocess.run(["umount", "-l", str(path)], check=True)
    subprocess.run(["umount", str(away)], check=True)
    mount(other, path)


def try_out(home: Home, name: str, trouble: AbstractContextManager[None]) -> None:
    before = home.trail()
    running = home.start("exec", "-i", "laptop", "echo up; cat")
    assert running.line() == "up\n"
    with trouble:
        done = home.run("exec", "laptop", "echo ran")
        print(f"{name:<10} exit {done.returncode}: {done.stderr.decode().splitlines()[0]}")
        assert running.end()[0] == 0  # a call that ends meanwhile keeps its end
        assert (done.returncode, done.stdout) == (69, b""), done
        assert home.run("status").returncode == 0
    assert home.ok("exec", "laptop", "echo ran") == "ran\n"
    after = home.trail()
    assert after[: len(before)] == before
    assert [row["status"] for row in after if row["command"] == "echo up; cat"][-1:] == ["ok"]
    print(f"{'':<10} {home.ok('audit', 'verify').strip()}")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="hn-") as folder:
        home = Home(Path(folder))
        image, path = home.folder / "disk", home.folder / "logs"
        with disk(image, path):
            home.environ["HERMES_NODES_AUDIT_LOG_PATH"] = str(path / "trail.log")
            with home.gateway() as gateway, home.node(gateway, "laptop"):
                for trouble in (full, read_only, missing):
                    try_out(home, trouble.__name__, trouble(image, path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
