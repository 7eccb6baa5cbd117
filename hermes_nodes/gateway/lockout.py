"""Who has failed to log in too often: by address and by claimed name.

It decides only how a failure is answered and noted, never whether a right token is let in.
"""

import time
from collections import OrderedDict, deque

#: This many failures within this many seconds lock an address or a name out.
MOST_FAILURES = 10
WITHIN_SECONDS = 60.0
#: Addresses and names remembered; an attacker who uses more pushes out its own oldest.
_MOST_KEYS = 10_000


class Lockout:
    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def failed(self, address: str, name: str | None, now: float | None = None) -> bool:
        """Count a failure; whether its address or name had already failed too often."""
        now = time.monotonic() if now is None else now
        locked = [self._count(f"address {address}", now)]
        if name is not None:
            locked.append(self._count(f"name {name}", now))
        return any(locked)

    def _count(self, key: str, now: float) -> bool:
        times = self._failures.setdefault(key, deque(maxlen=MOST_FAILURES))
        self._failures.move_to_end(key)
        if len(self._failures) > _MOST_KEYS:
            self._failures.popitem(last=False)
        locked = len(times) == MOST_FAILURES and now - times[0] < WITHIN_SECONDS
        times.append(now)
        return locked
