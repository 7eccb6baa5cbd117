"""Every call's way into the trail: into the journal before it is sent, then one row, whatever happens."""

import logging
import re
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from hermes_nodes.audit.chain import Chain, is_signed, place_of
from hermes_nodes.audit.files import files_of, rows_backwards
from hermes_nodes.audit.journal import Entry, Journal
from hermes_nodes.audit.log import AuditLog
from hermes_nodes.audit.rows import Row
from hermes_nodes.clock import timestamp
from hermes_nodes.errors import AuditUnwritable

log = logging.getLogger(__name__)

#: The `error` of a call whose gateway was ended before the call was.
GATEWAY_ENDED = "gateway_ended"
#: What of a row is known only at the end of its call; errors are short names.
_END_KEYS = ("ts", "status", "exit_code", "duration_ms", "error", "bytes_in", "bytes_out")
_ERROR_CHARS = 100
_REQUEST_ID = re.compile(rb'"request_id":"([^"\\]{1,64})"')


class CallLog:
    """The rows of calls, for a gateway that holds the trail.

    A call that has begun gets its row: when it ends; or, where the trail takes none then, as soon as it
    does again; or at the next start, as ``unknown``. All but the two syncs
    belong to the event loop.
    """

    def __init__(self, trail: AuditLog, chain: Chain, *, lenient: bool = False) -> None:
        self._trail = trail
        self._chain = chain
        self._journal = Journal(journal_path(trail.path), chain.key, lenient=lenient)
        self._lock = threading.Lock()
        self._owed: deque[Entry] = deque()
        self._written: list[Entry] = []  # with rows that may not be on the disk yet

    def begin(self, **known: object) -> Entry:
        """Note a call that is about to be sent; where this raises AuditUnwritable it must not be."""
        self.pay()
        self._trail.check()
        begun = {"ts": timestamp(), **known, "seq": self._chain.head.seq}
        return self._journal.begin(msgspec.json.encode(begun))

    def sync_begun(self) -> None:
        """Wait until what has begun is on the disk."""
        self._journal.sync()

    def end(self, entry: Entry, **fields: object) -> None:
        """Append the call's row, or keep it where it is safe until the trail takes it."""
        try:
            self._trail.append(**fields)
        except AuditUnwritable as error:
            log.error("a call's row is kept in the journal: %s", error.message)  # noqa: TRY400 - no fault
            self._keep(entry, fields)
            self._owed.append(entry)
        else:
            with self._lock:
                self._written.append(entry)

    def pay(self) -> None:
        """Append the rows that the trail has not taken so far; raises AuditUnwritable."""
        left = self._journal.left()
        if left:
            self._take_up(left)
        while self._owed:
            self._trail.append(**_fields(self._owed[0]))
            with self._lock:
                self._written.append(self._owed.popleft())

    def sync(self) -> None:
        """Put the rows on the disk, and then strike their calls out."""
        with self._lock:
            written, self._written = self._written, []
        try:
            self._trail.sync()
        except AuditUnwritable:
            with self._lock:
                self._written = written + self._written
            raise
        self._journal.strike(written)

    def close(self) -> None:
        self._journal.close()

    def recover_elsewhere(self) -> None:
        """Do the same for journals beside the trail's former paths."""
        for path in {Path(chain.path) for chain in self._chain.chains.past} - {self._trail.path}:
            if journal_path(path).is_file():
                self._recover_from(path)

    def _take_up(self, left: list[Entry]) -> None:
        found = _with_rows(self._chain, self._trail.path, left, min(map(_seq, left)))
        self._owed.extend(entry for entry in left if _request_id(entry) not in found)
        with self._lock:
            self._written += [entry for entry in left if _request_id(entry) in found]

    def _recover_from(self, path: Path) -> None:
        journal = Journal(journal_path(path), self._chain.key, lenient=True)
        left = journal.left()
        if left:
            found = _with_rows(self._chain, path, left, min(map(_seq, left)))
            found |= _with_rows(self._chain, self._trail.path, left, 0)
            for entry in left:
                if _request_id(entry) not in found:
                    self._trail.append(**_fields(entry))
            self._trail.sync()
        journal.strike(left)
        journal.close()

    def _keep(self, entry: Entry, fields: dict[str, Any]) -> None:
        ended = {key: fields.get(key) for key in _END_KEYS}
        ended |= {"ts": timestamp(), "error": (fields.get("error") or "")[:_ERROR_CHARS] or None}
        try:
            self._journal.end(entry, msgspec.json.encode(ended))
        except AuditUnwritable as error:
            # It stays in memory; a kill now leaves it as `unknown`.
            log.error("nor can the journal: %s", error.message)  # noqa: TRY400 - no fault of ours


def journal_path(trail: Path) -> Path:
    return trail.with_name(f"{trail.name}.journal")


def _fields(entry: Entry) -> dict[str, Any]:
    """The row of a call: what was known, and how it ended, if that is."""
    begun, ended = _decoded(entry.begun), _decoded(entry.ended or b"{}")
    fields = {"status": "unknown", "error": GATEWAY_ENDED} | begun | ended
    return {key: value for key, value in fields.items() if key in Row.__struct_fields__}


def _decoded(part: bytes) -> dict[str, Any]:
    return msgspec.json.decode(part, type=dict[str, Any])


def _seq(entry: Entry) -> int:
    return int(_decoded(entry.begun)["seq"])


def _request_id(entry: Entry) -> str:
    return str(_decoded(entry.begun)["request_id"])


def _with_rows(chain: Chain, path: Path, entries: Iterable[Entry], since: int) -> set[str]:
    """Which of these calls have a row in the trail behind that one; a row that is not signed is none."""
    wanted = set(map(_request_id, entries))
    found: set[str] = set()
    for _, _, line in rows_backwards(files_of(path)):
        place = place_of(line)
        if place is None or not is_signed(chain.key, line, place):
            continue
        if place.seq <= since:
            break
        request_id = _REQUEST_ID.search(line)
        if request_id and request_id[1].decode() in wanted:
            found.add(request_id[1].decode())
    return found
