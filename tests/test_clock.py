"""How a moment is written."""

from datetime import UTC, datetime, timedelta, timezone

from hermes_nodes.clock import timestamp


def test_timestamps_are_utc_with_milliseconds() -> None:
    moment = datetime(2030, 1, 1, 12, 0, 0, 123999, tzinfo=timezone(timedelta(hours=5)))
    assert timestamp(moment) == "2030-01-01T07:00:00.123Z"
    assert datetime.fromisoformat(timestamp()) <= datetime.now(UTC)
