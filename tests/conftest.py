"""What tests of several parts start from."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)
