"""Which files are the trail's, and in which order."""

import json
import os
from pathlib import Path

from hermes_nodes.audit import AuditLog, Filter, tail
from tests.audit.support import SMALL, numbers, read, rotated, write


def test_other_files_beside_the_trail_are_no_part_of_it(path: Path) -> None:
    path.parent.mkdir()
    for name in ("gateway.log.1", "nodes-audit.log.journal", "nodes-audit.log.gz", "nodes-audit.1"):
        (path.parent / name).write_text('{"exit_code":99}\n')
    with AuditLog(path) as log:
        write(log, 0, 2)
    assert numbers(read(path)) == numbers(tail(path, 9).rows) == [0, 1]


def test_rows_of_the_older_system_stay_readable_and_come_first_by_age(path: Path) -> None:
    path.parent.mkdir()
    for age, name in enumerate((".2026-01-31", ".1", "")):
        file = path.with_name(path.name + name)
        file.write_text(json.dumps({"timestamp": "2026", "exit_code": age}) + "\n")
        os.utime(file, (2_000_000_000 + age, 2_000_000_000 + age))
    with AuditLog(path, max_bytes=SMALL) as log:
        write(log, 3, 20)
    assert numbers(read(path)) == [*range(20)]
    assert numbers(tail(path, 100).rows) == [*range(20)]
    assert numbers(tail(path, 100, match=Filter(since="2000")).rows) == [*range(3, 20)]


def test_a_clock_put_back_neither_overwrites_nor_reorders(path: Path) -> None:
    with AuditLog(path, max_bytes=SMALL) as log:
        write(log, 0, 4)
        [file] = rotated(path)
        file.rename(path.with_name(path.name + ".29991231T235959999999Z"))
        write(log, 4, 20)
    assert numbers(read(path)) == [*range(20)]
    assert rotated(path)[1].name == path.name + ".30000101T000000000000Z"
