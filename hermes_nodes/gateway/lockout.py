"""Who has failed to log in too often: by address and by claimed name.

It decides only how a failure is answered and noted, never whether a right token is let in.
"""

import time
from collections import OrderedDict, deque

#: This many failures within this many seconds lock an address or a name out.
MOST_FAILURES = 10
WITHIN_SECONDS = 60.0
#: Seconds of a lockout, which doubles with each that follows on, up to the longest.
FIRST_SECONDS = 60.0
LONGEST_SECONDS = 3600.0
#: Addresses and names remembered; an attacker who uses more pushes out its own oldest.
MOST_KEYS = 10_000


class _Record:
    """The failures of one address or name."""

    __slots__ = ("seconds", "times", "until")

    def __init__(self) -> None:
        self.times: deque[float] = deque(maxlen=MOST_FAILURES)
        #: How long the last lockout was, and when it ends.
        self.seconds = 0.0
        self.until = 0.0

    def count(self, now: float) -> bool:
        locked = now < self.until
        if not locked:
            if now - self.until > LONGEST_SECONDS:
                self.seconds = 0.0  # quiet for long enough to begin anew
            locked = self._is_one_too_many(now)
        self.times.append(now)
        return locked

    def _is_one_too_many(self, now: float) -> bool:
        if len(self.times) < MOST_FAILURES or now - self.times[0] >= WITHIN_SECONDS:
            return False
        self.seconds = min(max(2 * self.seconds, FIRST_SECONDS), LONGEST_SECONDS)
        self.until = now + self.seconds
        return True


class Lockout:
    def __init__(self) -> None:
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def failed(self, address: str, name: str | None, now: float | None = None) -> bool:
        """Count a failure; whether its address or name had already failed too often."""
        now = time.monotonic() if now is None else now
        locked = [self._record(f"address {address}").count(now)]
        if name is not None:
            locked.append(self._record(f"name {name}").count(now))
        return any(locked)

    def __len__(self) -> int:
        return len(self._records)

    def _record(self, key: str) -> _Record:
        record = self._records.setdefault(key, _Record())
        self._records.move_to_end(key)
        if len(self._records) > MOST_KEYS:
            self._records.popitem(last=False)
        return record
