"""The client's requests about pairings, operators, the key and the trail. Standard library only."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from urllib.parse import quote, urlencode

from hermes_nodes.call_connection import Json
from hermes_nodes.errors import MAX_SHOWN, GatewayLost, UnknownNode, UnknownOperator

#: Characters of a TARGET; the head of an HTTP request has room for no more.
MAX_TARGET = 2000


class AdminCalls(ABC):
    """What changes and shows everything but the nodes' own machines, on top of ``_request``."""

    @abstractmethod
    def _request(self, method: str, path: str, body: Json | None = None) -> Json:
        """One request to its JSON answer; raises the error that it carries."""

    @abstractmethod
    def _lines(self, path: str) -> Iterator[Json]:
        """The objects of an answer that has one a line, as they come."""

    # -- pairings --

    def pair(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        expires_in: float | None = None,
        first_use_within: float | None = None,
        force: bool = False,
    ) -> Json:
        """A new pairing with its token, which is shown this once; durations in seconds."""
        body: Json = {
            "name": name,
            "labels": dict(labels or {}),
            "expires_in": expires_in,
            "first_use_within": first_use_within,
            "force": force,
        }
        return self._request("POST", "/v1/pairings", body)

    def revoke(self, name: str) -> Json:
        """End a pairing: its session is closed and its token is never admitted again."""
        return self._request("DELETE", _pairing(name))

    def rotate(self, name: str, *, grace: float | None = None) -> Json:
        """A new token for a pairing, shown this once; the old one dies when the new one is used.

        At the latest after ``grace`` seconds, a day if not given. Again within the grace, it replaces only
        the new one.
        """
        return self._request("POST", f"{_pairing(name)}/rotate", {} if grace is None else {"grace": grace})

    def label(self, name: str, changes: Mapping[str, str | None]) -> Json:
        """Set labels of a pairing, and drop those whose value is None; gives all that it has then."""
        return self._request("PATCH", _pairing(name), {"labels": dict(changes)})

    # -- operators and key --

    def operators(self) -> list[Json]:
        """The operators: name, verbs, nodes, until when."""
        operators = self._request("GET", "/v1/operators").get("operators")
        return operators if isinstance(operators, list) else []

    def add_operator(
        self,
        name: str,
        *,
        allow: Sequence[str] | None = None,
        nodes: str | None = None,
        expires_in: float | None = None,
    ) -> Json:
        """A new operator with its token, which is shown this once; by default it may list all nodes."""
        verbs = None if allow is None else list(allow)
        given: Json = {"name": name, "allow": verbs, "nodes": nodes, "expires_in": expires_in}
        body = {key: value for key, value in given.items() if value is not None}
        return self._request("POST", "/v1/operators", body)

    def remove_operator(self, name: str) -> Json:
        """End an operator, and its running calls."""
        if len(name) > MAX_SHOWN:
            raise UnknownOperator(name)
        return self._request("DELETE", f"/v1/operators/{_quoted(name)}")

    def rotate_key(self) -> list[str]:
        """Seal the gateway's store anew under a new key; sentences about what is to be done with that."""
        notes = self._request("POST", "/v1/key/rotate").get("notes")
        return [str(note) for note in notes] if isinstance(notes, list) else []

    # -- the trail --

    def audit_rows(
        self, count: int = 10, *, follow: bool = False, since: str | None = None, **match: str | None
    ) -> Iterator[Json]:
        """The last rows of the trail, then with ``follow`` those that come.

        ``match`` are node, action and status; ``since`` is a time in RFC 3339, UTC.
        """
        query = {"n": str(count), "follow": "1" if follow else None, "since": since, **match}
        yield from self._lines(f"/v1/audit?{query_of(query)}")
        if follow:  # which does not end by itself
            raise GatewayLost

    def audit_export(self, *, since: str | None = None, **match: str | None) -> Generator[Json, None, int]:
        """Every row of the trail, old to new; at last how many lines on the way could not be read.

        Each has ``chained`` besides: False is a row from before the chain, or a line that somebody added.
        Raises GatewayLost where they end before the last one.
        """
        for line in self._lines(f"/v1/audit/export?{query_of({'since': since, **match})}"):
            row, end = line.get("row"), line.get("end")
            if isinstance(row, dict):
                yield {**row, "chained": line.get("chained")}
            elif isinstance(end, dict):
                return int(end["unreadable"])
        raise GatewayLost


def query_of(values: Mapping[str, str | None]) -> str:
    """A query of those that have a value."""
    given = {key: value for key, value in values.items() if value is not None}
    return urlencode(given, errors="surrogateescape")


def _pairing(name: str) -> str:
    """A pairing's path; UnknownNode for a name longer than any, which HTTP would not take either."""
    if len(name) > MAX_SHOWN:
        raise UnknownNode(name)
    return f"/v1/pairings/{_quoted(name)}"


def _quoted(name: str) -> str:
    return quote(name, safe="", errors="surrogateescape")
