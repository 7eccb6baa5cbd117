"""The suite's node is a second implementation, so it may not lean on the first."""

import subprocess
import sys
from pathlib import Path

LOOK = """
import sys
import tests.conformance.node
sys.exit(any(name.partition(".")[0] == "hermes_nodes" for name in sys.modules))
"""


def test_the_node_shares_no_code_with_the_gateway() -> None:
    top = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", LOOK], cwd=top, check=False).returncode == 0
