"""A whole `cp`: several sources, directories and all that is in them, each failure on its own."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

from hermes_nodes.copying.files import Copied, from_node, to_node
from hermes_nodes.copying.folders import Folder, LocalFolder, NodeFolder, check_name
from hermes_nodes.copying.local import LocalSource, LocalTarget, facts_of
from hermes_nodes.copying.nodes import Nodes
from hermes_nodes.copying.remote import NodeSource, NodeTarget
from hermes_nodes.copying.spots import Spot, parse
from hermes_nodes.errors import (
    CallCancelled,
    CallFailed,
    FileMissing,
    ForeignUser,
    GatewayLost,
    GatewayNotRunning,
    HermesNodesError,
    NodeDisconnected,
    NodeNotConnected,
    PathNotAllowed,
    UnknownNode,
    UsageError,
)
from hermes_nodes.file_calls import DirectoryEntry, FileFacts
from hermes_nodes.node.allowlist import telling

#: Directories within directories. Each holds a descriptor; a node could send them without an end.
MAX_DEPTH = 200
#: After these nothing else is tried.
_BROKEN_OFF = (CallCancelled, GatewayLost, GatewayNotRunning, NodeDisconnected)
#: After these the rest of a tree would fail in the same way; another source may be on another node.
_LOST = (*_BROKEN_OFF, ForeignUser, NodeNotConnected, UnknownNode)


class Outcome(NamedTuple):
    """What became of one file, or of one directory that could not be copied."""

    source: str
    target: str
    copied: Copied | None
    error: HermesNodesError | None


class Copier:
    """Copies as ``cp`` does; each outcome goes to ``report`` as it comes."""

    def __init__(
        self, nodes: Nodes, report: Callable[[Outcome], object], *, recursive: bool, resume: bool
    ) -> None:
        self._nodes = nodes
        self._report = report
        self._recursive = recursive
        self._resume = resume
        self._failures = 0
        # What this copy writes to: to read from there as well would have no end.
        self._targets: set[str] = set()

    def run(self, sources: Sequence[str], target: str) -> int:
        """The exit status: 0, 1, or that of a failure which is the only source's or the target's.

        Raises UsageError.
        """
        spots, goal = [parse(source) for source in sources], parse(target)
        for spot in spots:
            if spot.node is None and goal.node is None:
                raise UsageError(
                    f"neither {str(spot)!r} nor {str(goal)!r} is on a node",
                    "write NODE:PATH for one of them",
                )
        try:
            into = self._target_folder(goal, several=len(spots) > 1)
        except HermesNodesError as error:
            for spot in spots:
                self._fail(spot, goal, error)
            return error.exit_status
        status = 0
        for spot in spots:
            try:
                self._copy(spot, goal, into)
            except HermesNodesError as error:
                self._fail(spot, goal, error)
                status = error.exit_status
                if isinstance(error, _BROKEN_OFF):
                    break
        is_own = len(spots) == 1 or status == CallCancelled.exit_status
        return status if status and is_own else min(self._failures, 1)

    # -- what was typed --

    def _target_folder(self, goal: Spot, *, several: bool) -> Folder | None:
        """The directory to copy into, if that is what the target is."""
        if goal.node is not None and not self._nodes.has_fs(goal.node):
            if several or goal.asks_for_directory or self._recursive:
                self._nodes.need_fs(goal.node, "tell a directory from a file: name one file as the target")
            return None
        facts = self._facts(goal)
        if facts is not None and facts.kind == "dir":
            return self._folder(goal, facts)
        if several or (goal.asks_for_directory and not self._recursive):
            what = "is not a directory" if facts else "is not there"
            raise (CallFailed if facts else FileMissing)(f"the target {str(goal)!r} {what}")
        return None

    def _facts(self, spot: Spot) -> FileFacts | None:
        """What is at a place, symlinks followed; None for nothing."""
        try:
            if spot.node is not None:
                return self._nodes.stat(spot.node, spot.path)
            with telling(spot.path):
                return facts_of(os.stat(spot.path))
        except FileMissing:
            return None

    def _folder(self, spot: Spot, facts: FileFacts | None) -> Folder:
        identity = facts.identity if facts else None
        return LocalFolder.open(spot) if spot.node is None else NodeFolder(self._nodes, spot, identity)

    def _parent(self, goal: Spot) -> Folder:
        try:
            facts = self._facts(goal.parent)
        except PathNotAllowed:  # what is allowed is the directory that is to be made
            facts = None
        return self._folder(goal.parent, facts)

    def _copy(self, spot: Spot, goal: Spot, into: Folder | None) -> None:
        if spot.node is not None and not self._nodes.has_fs(spot.node):
            if self._recursive or not spot.name:
                self._nodes.need_fs(spot.node, "list directories")
            facts = None
        else:
            facts = self._facts(spot)
            if facts is None:
                raise FileMissing(f"{str(spot)!r}: there is no such file")
        if facts is not None and facts.kind == "dir":
            self._copy_folder(spot, goal, into, facts)
        elif facts is not None and facts.kind != "file":
            raise CallFailed(f"{str(spot)!r} is neither a file nor a directory")
        else:
            self._copy_file(spot, goal, into, facts)

    def _copy_file(self, spot: Spot, goal: Spot, into: Folder | None, facts: FileFacts | None) -> None:
        source = (
            LocalSource.open(spot.path, spot.path)
            if spot.node is None
            else NodeSource(self._nodes, spot, facts)
        )
        with closing(source):
            if into is not None:
                self._transfer(source, into.target(spot.name))
            elif goal.node is not None:
                self._transfer(source, NodeTarget(self._nodes, goal))
            else:
                # As cp does: what a link leads to is replaced, and not the link.
                real = Spot(None, os.path.realpath(goal.path))
                with closing(LocalFolder.open(real.parent)) as folder:
                    self._transfer(source, folder.target(real.name))

    def _copy_folder(self, spot: Spot, goal: Spot, into: Folder | None, facts: FileFacts) -> None:
        if not self._recursive:
            raise CallFailed(f"{str(spot)!r} is a directory", "directories are copied with -r")
        if spot.node == goal.node and goal.is_within(spot):
            raise _into_itself(spot)
        self._targets = set()
        with closing(self._folder(spot, facts)) as source:
            if into is not None:
                self._write_to(into, source)
                if spot.name:
                    self._copy_tree(source, into, spot.name, facts.perm, 0)
                else:
                    self._copy_entries(source, source.entries(), into, 0)
            else:
                with closing(self._parent(goal)) as parent:
                    self._write_to(parent, source)
                    self._copy_tree(source, parent, goal.name, facts.perm, 0)

    def _write_to(self, target: Folder, source: Folder) -> None:
        """Raises CallFailed where ``source`` is one of those directories that are written to."""
        if target.identity is not None:
            self._targets.add(target.identity)
        if source.identity in self._targets:
            raise _into_itself(source.spot)

    # -- trees --

    def _copy_tree(self, source: Folder, into: Folder, name: str, perm: int, depth: int) -> None:
        if source.identity in self._targets:
            raise _into_itself(source.spot)
        if depth > MAX_DEPTH:
            raise CallFailed(f"{str(source.spot)!r}: more than {MAX_DEPTH} directories within each other")
        # Before its copy is there, which may be inside it.
        entries = source.entries()
        with closing(into.make(name, perm)) as copy:
            try:
                self._write_to(copy, source)
                self._copy_entries(source, entries, copy, depth)
            finally:
                if copy.is_new:
                    copy.settle(perm)

    def _copy_entries(
        self, source: Folder, entries: list[DirectoryEntry], copy: Folder, depth: int
    ) -> None:
        for entry in entries:
            self._nodes.check_interrupt()
            try:
                check_name(source.spot, entry.name)
                self._copy_entry(source, entry, copy, depth)
            except _LOST:
                raise
            except HermesNodesError as error:
                self._fail(source.spot.below(entry.name), copy.spot.below(entry.name), error)

    def _copy_entry(self, source: Folder, entry: DirectoryEntry, copy: Folder, depth: int) -> None:
        match entry.facts.kind:
            case "dir":
                with closing(source.enter(entry)) as below:
                    self._copy_tree(below, copy, entry.name, entry.facts.perm, depth + 1)
            case "file":
                with closing(source.source(entry)) as content:
                    self._transfer(content, copy.target(entry.name))
            case kind:
                what = "a symbolic link" if kind == "link" else "neither a file nor a directory"
                raise CallFailed(f"{str(source.spot.below(entry.name))!r} is {what}, and left out")

    # -- one file --

    def _transfer(self, source: LocalSource | NodeSource, target: LocalTarget | NodeTarget) -> None:
        if isinstance(target, NodeTarget):
            copied = to_node(self._nodes, source, target, resume=self._resume)
        elif isinstance(source, NodeSource):
            copied = from_node(self._nodes, source, target, resume=self._resume)
        else:
            raise UsageError(f"{source.shown!r} and {target.shown!r} are both on this machine")
        self._report(Outcome(source.shown, target.shown, copied, None))

    def _fail(self, source: Spot, target: Spot, error: HermesNodesError) -> None:
        self._failures += 1
        self._report(Outcome(str(source), str(target), None, error))


def _into_itself(spot: Spot) -> CallFailed:
    return CallFailed(f"{str(spot)!r} can't be copied into itself")
