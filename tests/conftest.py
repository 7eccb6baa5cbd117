"""What tests of several parts start from."""

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

#: For a longer look than a suite has time for; DEVELOPMENT.md says when.
settings.register_profile("many", max_examples=2_500)

#: What a background job or `nohup` has made this process ignore, and its commands would after it.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of collected tests stay until the end: no search for garbage goes through them."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)
