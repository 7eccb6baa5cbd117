"""A gateway that is killed keeps what it has promised; `python -m tests.e2e.kills` tries it more often."""

import json
from pathlib import Path

from tests.e2e.kills import run
from tests.harness import Home


def test_a_gateway_killed_at_random_instants_keeps_its_promises(tmp_path: Path) -> None:
    promises = run(tmp_path, 6, seed=6)
    assert promises.calls
    assert promises.pairings


def test_a_call_that_ran_when_its_gateway_was_killed_is_in_the_trail_once(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.gateway() as gateway, home.node(gateway, "laptop"):
        with home.start("exec", "laptop", "echo $HERMES_NODES_CALL; exec sleep 60") as running:
            request_id = running.line().strip()
            gateway.process.kill()
            assert running.end()[0] == 75
        for _ in range(2):
            with home.gateway():
                shown = home.ok("audit", "tail", "-n", "99", "--status", "unknown", "--json").splitlines()
        (row,) = map(json.loads, shown)
        assert home.ok("audit", "verify").endswith(" rows in 1 files are as they were written\n")
    assert (row["request_id"], row["node"], row["action"]) == (request_id, "laptop", "exec")
    assert row["command"] == "echo $HERMES_NODES_CALL; exec sleep 60"
    assert str(row["actor"]).startswith("local:")
    assert (row["exit_code"], row["duration_ms"], row["error"]) == (None, None, "gateway_ended")
