"""The trail as a gateway keeps it: rows of calls, what happens when none can be written, start and stop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from hermes_nodes.audit import AuditUnwritable, CallLog, Entry
from hermes_nodes.books import Books
from hermes_nodes.config import KEYS, Settings
from hermes_nodes.operations import local_actor

log = logging.getLogger(__name__)


class Recording:
    """While no row can be written, calls are refused; with `audit_fail_open` they run without.

    Made in a thread: it reads what an earlier gateway has left. Raises AuditUnwritable.
    """

    def __init__(self, books: Books, settings: Settings) -> None:
        #: Replaced when the settings are read again.
        self.settings = settings
        self._books = books
        self._trail = books.trail
        self._calls = CallLog(books.trail, books.chain, lenient=settings.audit_fail_open)
        self._unwritable: AuditUnwritable | None = None
        #: Rows that were never written, under `audit_fail_open`.
        self._lost = 0
        with self._failing_open():
            self._calls.pay()
            self._calls.recover_elsewhere()
            self._calls.sync()

    # -- calls --

    async def begin(self, **known: object) -> Entry | None:
        """Note a call that is about to be sent; where this raises AuditUnwritable it must not be."""
        entry = None
        with self._failing_open():
            entry = self._calls.begin(**known)
            self._written_again()
            if self.settings.audit_fsync == "always":
                await asyncio.to_thread(self._calls.sync_begun)
        return entry

    async def end(self, entry: Entry | None, **fields: object) -> None:
        """Write a call's one row; raises AuditUnwritable for one that has never begun."""
        with self._failing_open():
            if entry is not None:
                self._calls.end(entry, **fields)
            else:
                self._append_or_count(fields)
            if self.settings.audit_fsync == "always":
                await asyncio.to_thread(self._calls.sync)

    def _append_or_count(self, fields: dict[str, object]) -> None:
        try:
            self._trail.append(**fields)
        except AuditUnwritable:
            self._lost += self.settings.audit_fail_open
            raise

    # -- the gateway's own rows --

    def started(self) -> None:
        with self._failing_open():
            self._trail.append(action="start", status="ok", actor=local_actor())

    def stopped(self) -> None:
        """The last row; a stop is a stop, whether it can be written or not."""
        try:
            self._calls.pay()
            self._trail.append(action="stop", status="ok", actor=local_actor())
            self._calls.sync()
        except AuditUnwritable as error:
            log.error("%s", error.message)  # noqa: TRY400 - the sentence is enough
        self._calls.close()

    def change(self, settings: Settings) -> None:
        """Take other settings, and note which keys have changed: their values may be nobody's business."""
        changed = [key for key in KEYS if getattr(settings, key) != getattr(self.settings, key)]
        before, self.settings = self.settings, settings
        try:
            with self._failing_open():
                command = ", ".join(changed) or None
                self._trail.append(action="settings", status="ok", actor=local_actor(), command=command)
        except AuditUnwritable:
            self.settings = before
            raise
        self._trail.fsync = settings.audit_fsync

    # -- while it runs --

    async def look_after(self, in_store: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        """Write what is owed, put it on the disk, and have the chain's head put in the store."""
        try:
            self._calls.pay()
            if self._unwritable is not None:
                self._trail.check()
                self._written_again()
            await asyncio.to_thread(self._calls.sync)
        except AuditUnwritable as error:
            self._say(error)
            return
        await in_store(self._books.save)

    @contextmanager
    def _failing_open(self) -> Iterator[None]:
        try:
            yield
        except AuditUnwritable as error:
            self._say(error)
            if not self.settings.audit_fail_open:
                raise

    def _say(self, error: AuditUnwritable) -> None:
        """An error for each change, not for each call."""
        if self._unwritable is None:
            then = "run without a row" if self.settings.audit_fail_open else "are refused"
            log.error("%s; calls %s until it can be", error.message, then)
        self._unwritable = error

    def _written_again(self) -> None:
        if self._unwritable is None:
            return
        if self._lost:
            sentence = f"audit_fail_open: {self._lost} rows before this one could not be written"
            self._trail.append(action="settings", status="error", actor=local_actor(), command=sentence)
        self._unwritable, self._lost = None, 0
        log.error("the audit trail %s can be written again", self._trail.path)


def close(books: Books) -> None:
    """The last step of a stop."""
    try:
        books.close()
    except AuditUnwritable as error:
        log.error("%s", error.message)  # noqa: TRY400 - as above
