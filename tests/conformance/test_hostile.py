"""A small attack of the kind that `hostile.py` makes at length."""

from pathlib import Path

from tests.conformance.hostile import NO_LIMIT, attack
from tests.conformance.target import our_target
from tests.harness import Home


async def test_a_gateway_serves_on_after_frames_that_no_node_sends(home: Home, tmp_path: Path) -> None:
    with our_target(tmp_path, rate_limit=NO_LIMIT, handshake_seconds=2.0) as target:
        report = await attack(target, frames=1500, seed=0)
    assert report.findings == []
    assert report.frames.total() >= 1500
