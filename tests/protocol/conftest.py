"""The shells that the guard has to bear."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.protocol.guarded_support import Guarded, guarded


@pytest.fixture(params=["bash", "sh"])
async def shell(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(request.param, tmp_path) as opened:
        yield opened
