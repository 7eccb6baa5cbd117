"""Refused logins, in the log and the trail: each one, and under attack their number."""

import logging
import time
from collections import Counter

from hermes_nodes.audit import AuditLog
from hermes_nodes.errors import AuditUnwritable
from hermes_nodes.gateway.lockout import Lockout

log = logging.getLogger(__name__)

#: Seconds between two rows that say how many more there were.
COUNT_EVERY = 60.0
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

    def refused(self, reason: str, name: str | None, address: str) -> bool:
        """Note a refusal, with its true reason; whether its address or name is locked out."""
        log.warning("refused %s as %r: %s", address, name, reason)
        if self._lockout.failed(address, name):
            known = address in self._uncounted or len(self._uncounted) < MOST_ADDRESSES
            self._uncounted[address if known else _OTHERS] += 1
            return True
        self._append(node=name, remote_addr=address, error=reason)
        return False

    def write_counts(self, now: float | None = None, *, all_of_them: bool = False) -> None:
        """The rows that say how many were not listed, once a minute at most, and at the end."""
        now = time.monotonic() if now is None else now
        if not self._uncounted or (now < self._next_count and not all_of_them):
            return
        self._next_count = now + COUNT_EVERY
        counts, self._uncounted = self._uncounted, Counter()
        for address, count in counts.items():
            self._append(remote_addr=address, error="locked_out", command=f"{count} more refused")

    def _append(self, **fields: object) -> None:
        try:
            self._trail.append(action="auth", status="denied", **fields)
        except AuditUnwritable as unwritable:
            # A stranger's failure is nobody's act: the log says what the trail can't.
            log.error("%s", unwritable.message)  # noqa: TRY400 - the sentence is enough
