"""The one way a moment is written: on the wire, in the store and in the trail."""

from datetime import UTC, datetime


def timestamp(moment: datetime | None = None) -> str:
    """A moment (now, if not given) in RFC 3339: UTC, milliseconds, ``Z``; as text these sort as in time."""
    moment = (moment or datetime.now(UTC)).astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
