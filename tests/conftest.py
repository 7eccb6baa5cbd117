"""What tests of several parts start from."""

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


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)
