"""The trail on real files while it is written: private, whole, and rotated in time."""

import json
import os
import threading
from pathlib import Path

import pytest

from hermes_nodes.audit import AuditLog, AuditUnwritable, Filter, tail
from tests.audit.support import SMALL, numbers, read, rotated, write
from tests.support import PATIENCE, files_limited_to, in_background, mode

# The file


def test_the_file_and_every_new_folder_are_private_whatever_the_umask(
    no_umask: None, tmp_path: Path
) -> None:
    path = tmp_path / "home" / "logs" / "nodes-audit.log"
    with AuditLog(path, max_bytes=SMALL) as log:
        write(log, 0, 10)
    assert {mode(folder) for folder in (path.parent, path.parent.parent)} == {0o700}
    assert len(rotated(path)) > 1
    assert {mode(file) for file in path.parent.iterdir()} == {0o600}


def test_an_open_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    path.parent.mkdir()
    path.touch(0o644)
    AuditLog(path).close()
    assert mode(path) == 0o600


def test_half_a_last_line_is_kept_and_the_next_row_has_a_line_of_its_own(path: Path) -> None:
    with AuditLog(path) as log:
        write(log, 0, 2)
    with path.open("ab") as file:
        file.write(b'{"ts":"2026-')
    with AuditLog(path) as log:
        write(log, 2, 4)
    assert path.read_bytes().split(b"\n")[2] == b'{"ts":"2026-'
    found = tail(path, 10)
    assert numbers(found.rows) == [0, 1, 2, 3]
    assert found.unreadable == 1


def test_a_row_that_could_be_written_half_way_only_is_taken_back(path: Path) -> None:
    with AuditLog(path) as log:
        write(log, 0, 2)
        with (
            files_limited_to(path.stat().st_size + 20),
            pytest.raises(AuditUnwritable, match="File too large"),
        ):
            write(log, 2, 3)
        assert path.read_bytes().endswith(b"\n")
        write(log, 3, 5)
    found = tail(path, 10)
    assert numbers(found.rows) == [0, 1, 3, 4]
    assert found.unreadable == 0


def test_a_folder_that_cannot_be_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(AuditUnwritable) as caught:
        AuditLog(tmp_path / "logs" / "nodes-audit.log")
    assert str(tmp_path / "logs" / "nodes-audit.log") in caught.value.message
    assert caught.value.message.endswith(": File exists")
    assert caught.value.hint
    assert (caught.value.code, caught.value.exit_status) == ("audit_unwritable", 69)


def test_a_full_disk_refuses_the_row(tmp_path: Path) -> None:
    path = tmp_path / "nodes-audit.log"
    path.symlink_to("/dev/full")
    before = mode(path)
    with AuditLog(path) as log, pytest.raises(AuditUnwritable, match="No space left on device"):
        log.append(action="start", status="ok")
    assert mode(path) == before


def test_a_closed_log_refuses_rows(path: Path) -> None:
    log = AuditLog(path)
    log.close()
    log.close()
    with pytest.raises(AuditUnwritable, match="closed"):
        log.append(action="stop", status="ok")


@pytest.mark.parametrize("removed", [True, False])
def test_a_file_moved_away_by_someone_else_is_begun_anew(path: Path, removed: bool) -> None:
    with AuditLog(path) as log:
        write(log, 0, 1)
        if removed:
            path.unlink()
        else:
            path.rename(path.parent / "nodes-audit.log.1")
        write(log, 1, 2)
    assert numbers(read(path)) == ([1] if removed else [0, 1])


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_syncing_in_one_thread_does_not_disturb_appends_and_rotations(path: Path, fsync: str) -> None:
    with AuditLog(path, max_bytes=SMALL, fsync=fsync) as log, in_background(log.sync):  # type: ignore[arg-type]
        write(log, 0, 200)
    log.sync()
    assert numbers(read(path)) == [*range(200)]


def test_rows_of_four_threads_are_all_there_whole_and_in_each_threads_order(path: Path) -> None:
    def work(node: str) -> None:
        for number in range(250):
            log.append(action="exec", status="ok", node=node, exit_code=number, command="x" * 90)

    with AuditLog(path, max_bytes=50 * SMALL) as log:
        threads = [threading.Thread(target=work, args=(f"web-{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert len(rotated(path)) > 2
    for n in range(4):
        found = tail(path, 2000, match=Filter(node=f"web-{n}"))
        assert numbers(found.rows) == [*range(250)]
        assert found.unreadable == 0


# Rotation


def test_rotation_keeps_every_row_in_order_and_every_file_within_its_size(path: Path) -> None:
    with AuditLog(path, max_bytes=SMALL) as log:
        write(log, 0, 100)
    files = [*rotated(path), path]
    assert len(files) > 20
    assert all(file.stat().st_size <= SMALL for file in files)
    lines = b"".join(file.read_bytes() for file in files).splitlines()
    assert [json.loads(line)["exit_code"] for line in lines] == [*range(100)]
    assert numbers(read(path)) == [*range(100)]


def test_a_row_bigger_than_a_file_gets_a_file_of_its_own(path: Path) -> None:
    with AuditLog(path, max_bytes=SMALL) as log:
        for size in (10, 5000, 10):
            log.append(action="exec", status="ok", command="x" * size)
    assert len(rotated(path)) == 2
    assert [len(str(row["command"])) for row in read(path)] == [10, 5000, 10]


def test_a_log_opened_again_goes_on_in_its_file_and_counts_what_is_there(path: Path) -> None:
    for number in range(10):
        with AuditLog(path, max_bytes=SMALL) as log:
            write(log, number, number + 1)
    assert all(file.stat().st_size <= SMALL for file in path.parent.iterdir())
    assert numbers(read(path)) == [*range(10)]


def test_files_past_their_time_are_deleted_at_open_and_at_rotation(path: Path) -> None:
    with AuditLog(path, max_bytes=SMALL, retention_days=30) as log:
        write(log, 0, 15)
        older, old, *kept = rotated(path)
        os.utime(older, (0, 0))
        write(log, 15, 20)
        assert not older.exists()
    os.utime(old, (0, 0))
    for name in ("nodes-audit.log.1", "nodes-audit.log.2026-01-31", "nodes-audit.log.journal"):
        (path.parent / name).touch()
        os.utime(path.parent / name, (0, 0))
    AuditLog(path, retention_days=30).close()
    assert set(kept) < set(rotated(path))
    assert not old.exists()
    assert [file for file in rotated(path) if file.stat().st_mtime == 0] == [
        path.parent / "nodes-audit.log.journal"
    ]
