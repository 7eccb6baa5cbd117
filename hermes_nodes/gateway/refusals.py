"""Refused logins, in the log and the trail: each one, and under attack their number."""

import logging
import time
from collections import Counter, deque

from hermes_nodes.audit import AuditLog
from hermes_nodes.errors import AuditUnwritable
from hermes_nodes.gateway.addresses import network_of
from hermes_nodes.gateway.lockout import Lockout

log = logging.getLogger(__name__)

#: Seconds between two rows that say how many more there were.
COUNT_EVERY = 60.0
#: Rows of single refusals in such a time, over all addresses; there are too many of those to trust in the
#: lockout of each alone.
MOST_ROWS = 100
#: Addresses that are counted apart; those beyond are counted together.
MOST_ADDRESSES = 100
_OTHERS = "other addresses"


class Refusals:
    """Whoever attacks must not be able to fill the trail: who is locked out is counted, not listed."""

    def __init__(self, trail: AuditLog) -> None:
        self._trail = trail
        self._lockout = Lockout()
        self._uncounted: Counter[str] = Counter()
        self._next_count = 0.0
        self._rows: deque[float] = deque(maxlen=MOST_ROWS)

    def refused(self, reason: str, name: str | None, address: str, now: float | None = None) -> bool:
        """Note a refusal, with its true reason; whether its address or name is locked out."""
        now = time.monotonic() if now is None else now
        locked_out = self._lockout.failed(network_of(address), name, now)
        if locked_out or not self._has_room(now):
            known = address in self._uncounted or len(self._uncounted) < MOST_ADDRESSES
            self._uncounted[address if known else _OTHERS] += 1
            return locked_out
        log.warning("refused %s as %r: %s", address, name, reason)
        self._rows.append(now)
        self._append(node=name, remote_addr=address, error=reason)
        return False

    def _has_room(self, now: float) -> bool:
        return len(self._rows) < MOST_ROWS or now - self._rows[0] >= COUNT_EVERY

    def write_counts(self, now: float | None = None, *, all_of_them: bool = False) -> None:
        """The rows that say how many were not listed, once a minute at most, and at the end."""
        now = time.monotonic() if now is None else now
        if not self._uncounted or (now < self._next_count and not all_of_them):
            return
        self._next_count = now + COUNT_EVERY
        counts, self._uncounted = self._uncounted, Counter()
        for address, count in counts.items():
            log.warning("refused %s %d times more", address, count)
            self._append(remote_addr=address, error="locked_out", command=f"{count} more refused")

    def _append(self, **fields: object) -> None:
        try:
            self._trail.append(action="auth", status="denied", **fields)
        except AuditUnwritable as unwritable:
            # A stranger's failure is nobody's act: the log says what the trail can't.
            log.error("%s", unwritable.message)  # noqa: TRY400 - the sentence is enough
