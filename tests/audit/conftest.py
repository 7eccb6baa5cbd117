"""Where these tests keep their trail."""

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "nodes-audit.log"
