"""Who is connected: the session of each node by name, and the call rate of each pairing."""

from collections.abc import Iterator

from hermes_nodes.errors import RateLimited
from hermes_nodes.sessions import Session, SlidingSecond


class NodeRegistry:
    """The sessions of the nodes that are connected, by name, and the call rate of each pairing."""

    def __init__(self, rate_limit: int = 100) -> None:
        self.rate_limit = rate_limit
        #: How often a newer connection has taken a pairing's place; two machines with one token show.
        self.replaced: dict[str, int] = {}
        self._sessions: dict[str, Session] = {}
        self._call_rates: dict[str, SlidingSecond] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, name: str) -> Session | None:
        return self._sessions.get(name)

    def register(self, session: Session) -> Session | None:
        """Make this the session of its name; gives the one that it replaces, for the caller to close."""
        old = self._sessions.get(session.name)
        self._sessions[session.name] = session
        if old is not None:
            self.replaced[session.pairing_id] = self.replaced.get(session.pairing_id, 0) + 1
        return old

    def unregister(self, session: Session) -> None:
        """Forget a session, by identity: a newer one of the same name stays."""
        if self._sessions.get(session.name) is session:
            del self._sessions[session.name]

    def change_rate_limit(self, limit: int) -> None:
        """From now on, for whoever is connected as well."""
        self.rate_limit = limit
        for rate in self._call_rates.values():
            rate.limit = limit
        for session in self:
            session.limit_messages(limit)

    def admit_call(self, session: Session, now: float) -> None:
        """Count a call to a pairing; raises RateLimited."""
        rate = self._call_rates.setdefault(session.pairing_id, SlidingSecond(self.rate_limit))
        wait = rate.admit(now)
        if wait:
            raise RateLimited(session.name, self.rate_limit, int(wait * 1000) + 1)

    def sweep(self, now: float, *, ping_after: float, dead_after: float) -> None:
        """Look after silent sessions and forget call rates that have come to rest."""
        for session in self:
            session.check_life(now, ping_after=ping_after, dead_after=dead_after)
        self._call_rates = {key: rate for key, rate in self._call_rates.items() if not rate.empty(now)}
