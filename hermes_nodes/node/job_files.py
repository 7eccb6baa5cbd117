"""A detached job on the node's disk: its record and what it has printed, in a folder of its own.

Blocking; the folders are 0700, the files 0600.
"""

import logging
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from hermes_nodes.clock import timestamp
from hermes_nodes.disk import make_directory, sync_directory, write_atomically

log = logging.getLogger(__name__)

StreamName = Literal["stdout", "stderr"]
#: ``lost``: nobody saw its end, as the node itself was stopped or died.
JobStatus = Literal["running", "ok", "error", "timeout", "cancelled", "lost"]
STREAMS: tuple[StreamName, StreamName] = ("stdout", "stderr")
_RECORD = "job.json"
#: Takes up room that the last record needs when the disk is full by then.
_RESERVE = "reserve"
_RESERVE_BYTES = 16 * 1024
#: A record takes 1 KiB; whatever is longer is none.
_MAX_RECORD = 64 * 1024
#: RFC 9562 section 5.4: UUID version 4, as the gateway writes the ids of its calls.
_JOB_ID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down of a job; times as RFC 3339 in UTC.

    ``exit_code`` is 128+n where ``signal`` ended it, None where there is none or it isn't known.
    """

    id: str
    command: str
    status: JobStatus = "running"
    started_at: str
    #: Its first process, and when that was born: together they name one process for good.
    pid: int | None = None
    birth: str | None = None
    ended_at: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    duration_ms: int | None = None
    #: Some of its output was not kept.
    truncated: bool = False
    #: What went wrong beside the command itself, in a sentence.
    error: str | None = None


def is_job_id(text: str) -> bool:
    """Whether a job can have this id; nothing else ever becomes part of a path."""
    return _JOB_ID.fullmatch(text) is not None


class JobFolder:
    """The files of one job under ``jobs``; every method raises OSError."""

    def __init__(self, jobs: Path, job_id: str) -> None:
        self.path = jobs / job_id

    def create(self, record: Record) -> None:
        """Make the folder with empty streams and a first record, whole or not at all."""
        make_directory(self.path.parent)
        self.path.mkdir(0o700)
        try:
            for name in STREAMS:
                os.close(os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            fd = os.open(self.path / _RESERVE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(fd, "wb") as reserve:
                reserve.write(bytes(_RESERVE_BYTES))
            self.write(record)
            sync_directory(self.path.parent)
        except OSError:
            self.remove()
            raise

    def write(self, record: Record) -> None:
        write_atomically(self.path / _RECORD, msgspec.json.encode(record))

    def finish(self, record: Record) -> None:
        """The last record, behind the output it speaks of; the reserve makes room for it."""
        for name in STREAMS:
            with suppress(FileNotFoundError), open(self.path / name, "rb") as stream:
                os.fsync(stream.fileno())
        with suppress(FileNotFoundError):
            os.unlink(self.path / _RESERVE)
        self.write(record)

    def open_stream(self, name: StreamName, flags: int) -> int:
        """A descriptor of one stream's file."""
        return os.open(self.path / name, flags | os.O_NOFOLLOW | os.O_CLOEXEC)

    def size(self, name: StreamName) -> int:
        """Bytes that are kept of a stream; 0 where its file is gone."""
        with suppress(FileNotFoundError):
            return os.stat(self.path / name, follow_symlinks=False).st_size
        return 0

    def remove(self) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)

    def read(self) -> Record | None:
        """The record; None where there is none, which means that the job was never started."""
        try:
            with open(self.path / _RECORD, "rb") as file:
                raw = file.read(_MAX_RECORD)
        except FileNotFoundError:
            return None
        try:
            return msgspec.structs.replace(msgspec.json.decode(raw, type=Record), id=self.path.name)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            log.warning("the record %s is damaged", self.path / _RECORD)
            now = timestamp()
            error = "its record is damaged"
            return Record(
                id=self.path.name, command="", status="lost", started_at=now, ended_at=now, error=error
            )


def stored_jobs(jobs: Path) -> list[tuple[JobFolder, Record]]:
    """The jobs on disk, oldest first; what was begun and never became one is removed."""
    found = []
    try:
        names = os.listdir(jobs)
    except FileNotFoundError:
        return []
    for name in filter(is_job_id, names):
        folder = JobFolder(jobs, name)
        try:
            record = folder.read()
            if record is None:
                folder.remove()
            else:
                found.append((folder, record))
        except OSError as error:
            log.warning("the job %s can't be read: %s", folder.path, error)
    return sorted(found, key=lambda one: one[1].started_at)
