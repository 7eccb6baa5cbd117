"""What the trail costs: a gateway's CPU for the row of one call with its journal, and `audit verify`.

    python -m tests.benchmarks.audit [ROWS]

in the checkout, in an environment where the package is installed. A row with `audit_fsync: interval` must
take less than 60 microseconds of CPU; a million rows must verify in less than 20 seconds. Each is shown
beside a floor of the same run: the same line, encoded and written and no more; the same files, read line by
line and hashed.
"""

import hashlib
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from hermes_nodes.acts import act
from hermes_nodes.audit import AuditLog, CallLog
from hermes_nodes.audit.chain import Chain, ChainRecord, Chains
from hermes_nodes.audit.lines import Lines
from hermes_nodes.audit.rows import encode, make_row
from hermes_nodes.audit.verify import verify
from hermes_nodes.protocol.messages import Exec

#: Between two syncs, which a gateway does once a second.
CALLS, CALLS_A_SECOND = 50_000, 500
MOST_ROW, MOST_VERIFY = 60e-6, 20.0
COMMAND = "cd /srv/app && git pull --ff-only && make -j8 build && systemctl restart app"


def main() -> int:
    rows = int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(prefix="hn-") as folder:
        row = cpu_of_calls(Path(folder) / "calls")
        floor = cpu_of_lines(Path(folder) / "lines")
        limit = MOST_ROW * 1e6
        print(f"a call's row   {row * 1e6:6.1f} us of CPU, at most {limit:.0f}; floor {floor * 1e6:.1f}")
        seconds, floor = seconds_of_verify(Path(folder) / "verify", rows)
        limit = MOST_VERIFY * rows / 1e6
        print(f"{rows} rows   {seconds:6.1f} s to verify, at most {limit:.0f}; floor {floor:.1f}")
    return int(row > MOST_ROW or seconds > limit)


def new_chain(path: Path) -> Chain:
    return Chain(os.urandom(32), Chains(current=ChainRecord(path=str(path))), is_new=True)


def cpu_of_calls(folder: Path) -> float:
    """CPU seconds of a call's way through journal and trail, with its share of the syncs."""
    path = folder / "trail.log"
    chain = new_chain(path)
    with AuditLog(path, chain=chain) as trail:
        calls = CallLog(trail, chain)
        started = time.process_time()
        for _ in range(CALLS // CALLS_A_SECOND):
            for _ in range(CALLS_A_SECOND):
                one_call(calls)
            calls.sync()
        taken = time.process_time() - started
        calls.close()
    return taken / CALLS


def one_call(calls: CallLog) -> None:
    request = Exec(id=str(uuid.uuid4()), command=COMMAND)
    done = act(request, "summary")
    known: dict[str, object] = {
        "action": done.action,
        "node": "web-1",
        "pairing_id": "30d357f4-067f-42c8-adbb-5c6fc82c213f",
        "request_id": request.id,
        "session_id": "71ec012f-1368-4d15-96fd-860b41e0c1d9",
        "actor": "local:ada",
        "remote_addr": None,
        "command": done.command,
        "path": done.path,
    }
    entry = calls.begin(**known)
    calls.end(
        entry, **known, status="ok", exit_code=0, duration_ms=12, error=None, bytes_in=0, bytes_out=345
    )


def cpu_of_lines(folder: Path) -> float:
    folder.mkdir()
    row = make_row(
        {"action": "exec", "status": "ok", "node": "web-1", "command": COMMAND, "prev": "0" * 64}
    )
    fd = os.open(folder / "lines", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    started = time.process_time()
    for _ in range(CALLS):
        os.write(fd, encode(row))
    taken = time.process_time() - started
    os.close(fd)
    return taken / CALLS


def seconds_of_verify(folder: Path, rows: int) -> tuple[float, float]:
    path = folder / "trail.log"
    chain = new_chain(path)
    with AuditLog(path, chain=chain, fsync="never") as trail:
        for number in range(rows):
            trail.append(action="exec", status="ok", node="web-1", exit_code=number % 256, command=COMMAND)
    record = chain.record(chain.head)

    def check() -> None:
        report = verify(path, chain.key, [record])
        assert report.ok, report.damage
        assert report.rows == rows

    def read() -> None:
        for spot in Lines(path):
            hashlib.sha256(spot.line).digest()

    read()  # so that both find the files in memory
    return seconds_of(check), seconds_of(read)


def seconds_of(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
