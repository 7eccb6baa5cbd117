"""`demo`: the whole product in one command."""

import re
from pathlib import Path

from tests.harness import Home


def test_the_demo_runs_and_prints_no_whole_token(tmp_path: Path) -> None:
    said = Home(tmp_path).ok("demo")
    assert "hello from" in said
    assert re.search(r"echo hnt_\S{4}… \| hermes-nodes node join", said)
    assert not re.search(r"hnt_[A-Za-z0-9_-]{5}", said)
