"""What of a node's work outlives the connection that it began on."""

from pathlib import Path

from hermes_nodes.node.job_limits import JobLimits
from hermes_nodes.node.jobs import Jobs
from hermes_nodes.node.parts import Parts
from hermes_nodes.node.shells import ShellSessions
from hermes_nodes.node.spawning import Spawner


class Lasting:
    """Made once for a node; every connection's runner gets the same."""

    def __init__(self, folder: Path, job_limits: JobLimits | None = None) -> None:
        #: Where the node keeps its own files.
        self.folder = folder
        self.parts = Parts(folder / "parts")
        self.shells = ShellSessions()
        self.spawner = Spawner()
        self.jobs = Jobs(folder / "jobs", job_limits or JobLimits(), self.spawner)
