"""Which rotated files of a chained trail have had their time, and what the chains come to without them."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from hermes_nodes.audit.chain import Chain, Chains, Place, is_signed, place_of
from hermes_nodes.audit.files import Rotated, lines_backwards, open_if_there, rotated_files, size_of
from hermes_nodes.clock import timestamp

#: Where the time stands in a row of a chain: behind `{"ts":"`.
_TS = slice(7, 31)


def expired(path: Path, chain: Chain, days: int) -> tuple[list[Path], Chains]:
    """The files, old to new, and the chains as they are to be remembered before these are deleted.

    A row's own time decides, which is signed; a file's can be changed by anyone who may write it.
    """
    limit = datetime.now(UTC) - timedelta(days=days)
    oldest = timestamp(limit)
    chains = _without_ended(chain.chains, oldest)
    found: list[Path] = []
    for file in rotated_files(path):
        last = _last_row(file, chain.key)
        if last is None:
            if file.status.st_mtime < limit.timestamp():
                found.append(file.path)
            continue
        ts, place = last
        if ts >= oldest:
            break
        found.append(file.path)
        chains = _without_rows(chains, str(path), ts, place)
    return found, chains


def _without_ended(chains: Chains, oldest: str) -> Chains:
    past = [chain for chain in chains.past if (chain.ended_at or "") >= oldest]
    return msgspec.structs.replace(chains, past=past)


def _last_row(file: Rotated, key: bytes) -> tuple[str, Place] | None:
    """The time and the place of the file's last row, if that is one of a chain of ours."""
    opened = open_if_there(file.path)
    if opened is None:
        return None
    with opened:
        for line in lines_backwards(opened, size_of(opened)):
            place = place_of(line + b"\n")
            if place is not None and is_signed(key, line + b"\n", place):
                return line[_TS].decode(), place
    return None


def _without_rows(chains: Chains, path: str, ts: str, last: Place) -> Chains:
    """The chains when every row up to this one is deleted."""
    ended = [one for one in chains.past if one.path == path and (one.ended_at or "") < ts]
    past = [one for one in chains.past if one not in ended]
    first = {"first_seq": last.seq + 1, "first_prev": last.hash.hex()}
    for index, one in enumerate(past):
        if one.path == path:
            past[index] = msgspec.structs.replace(one, **first)
            return Chains(current=chains.current, past=past)
    return Chains(current=msgspec.structs.replace(chains.current, **first), past=past)


def delete(files: list[Path]) -> None:
    """One that can't be deleted is no reason to refuse anything; the next time it is tried again."""
    for path in files:
        try:
            os.unlink(path)
        except OSError:
            continue
