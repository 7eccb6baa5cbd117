"""Who has failed to log in too often, and for how long."""

from hermes_nodes.gateway.lockout import (
    FIRST_SECONDS,
    LONGEST_SECONDS,
    MOST_FAILURES,
    MOST_KEYS,
    WITHIN_SECONDS,
    Lockout,
)

START = 10_000.0


def fail(lockout: Lockout, times: int, now: float, *, address: str = "a", name: str | None = None) -> bool:
    """Whether the last of so many failures at once finds its address or name locked out."""
    return [lockout.failed(address, name, now) for _ in range(times)][-1]


def test_one_failure_too_many_locks_an_address_out() -> None:
    lockout = Lockout()
    assert not fail(lockout, MOST_FAILURES, START)
    assert fail(lockout, 1, START)
    assert not fail(lockout, 1, START, address="b")


def test_a_name_is_locked_out_whatever_the_addresses() -> None:
    lockout = Lockout()
    for number in range(MOST_FAILURES):
        assert not lockout.failed(f"address-{number}", "laptop", START)
    assert lockout.failed("another", "laptop", START)
    assert not lockout.failed("another", "desktop", START)


def test_an_address_and_a_name_that_read_alike_are_two() -> None:
    lockout = Lockout()
    fail(lockout, MOST_FAILURES, START, address="same")
    assert not lockout.failed("other", "same", START)


def test_failures_that_are_spread_out_lock_nobody_out() -> None:
    lockout = Lockout()
    step = WITHIN_SECONDS / MOST_FAILURES
    assert not any(lockout.failed("a", None, START + number * step) for number in range(100))


def test_a_lockout_ends() -> None:
    lockout = Lockout()
    fail(lockout, MOST_FAILURES + 1, START)
    assert fail(lockout, 1, START + FIRST_SECONDS - 1)
    assert not fail(lockout, 1, START + FIRST_SECONDS + WITHIN_SECONDS)


def lengths(lockout: Lockout, count: int) -> list[float]:
    """The lengths of lockouts that follow on each other."""
    found, now = [], START
    for _ in range(count):
        fail(lockout, MOST_FAILURES + 1, now)
        seconds = 0.0
        while fail(lockout, 1, now + seconds):
            seconds += FIRST_SECONDS / 2
        found.append(seconds)
        now += seconds
    return found


def test_each_lockout_that_follows_on_is_twice_as_long_up_to_the_longest() -> None:
    found = lengths(Lockout(), 9)
    assert found[0] == FIRST_SECONDS
    assert found == sorted(found)
    assert max(found) == LONGEST_SECONDS


def test_after_a_long_quiet_time_it_begins_anew() -> None:
    lockout = Lockout()
    lengths(lockout, 4)
    later = START + 100 * LONGEST_SECONDS
    fail(lockout, MOST_FAILURES + 1, later)
    assert not fail(lockout, 1, later + FIRST_SECONDS)


def test_its_memory_is_bounded_and_the_newest_stay() -> None:
    lockout = Lockout()
    for number in range(MOST_KEYS + 100):
        lockout.failed(str(number), None, START)
    assert len(lockout) == MOST_KEYS
