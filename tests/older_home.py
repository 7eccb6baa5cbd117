"""A home as the older system left it."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

#: What sealed the file of `leave`.
KEY = "b2xkZXItc3lzdGVtJ3Mta2V5LTAxMjM0NTY3ODlhYmM="
VARIABLE = "HERMES_NODES_TOKEN_KEY"
CREATED, USED = "2025-11-02T08:15:30.123456+00:00", "2026-01-31T13:00:00+01:00"
#: Others read this file, too.
ENV = f"# services\nexport MAIL_HOST='mail example'\r\nPORT=\"25\" # of mail\n\n{VARIABLE}={KEY}\nLAST=1\n"
YAML = """\
host: 127.0.0.1
port: 7000
connect_host: gateway.example
max_retries: 5
retry_backoff_seconds: 2.5
token_encryption_key_env: HERMES_NODES_TOKEN_KEY
audit_retention_days: 90
rate_limit_per_node: 50
heartbeat_stale_seconds: 45
"""
AUDIT_ROWS: list[dict[str, object]] = [
    {"ts": CREATED, "action": "exec", "node": "web-1", "status": "ok"},
    {"ts": CREATED, "action": "exec", "node": "web-1", "status": "ok", "command": "uptime", "exit_code": 0},
    {"ts": USED, "action": "token_created", "status": "success", "node_name": "web-1", "extra": {"a": [1]}},
    {"event": "started"},
]


def token(name: str) -> str:
    return f"old-token-of-{name}"


def record(name: str, /, **changed: Any) -> dict[str, Any]:
    """A live record; a value of ... leaves its key out."""
    values = {
        "name": name,
        "token_hash": hashlib.sha256(token(name).encode()).hexdigest(),
        "created_at": CREATED,
        "revoked": False,
        "last_used_at": None,
        **changed,
    }
    return {key: value for key, value in values.items() if value is not ...}


def sealed(records: Iterable[object], /, *, key: str = KEY, **changed: object) -> bytes:
    """The file's content."""
    document = {"version": 1, "records": list(records), **changed}
    return Fernet(key).encrypt(json.dumps(document).encode())


#: A name that was paired anew twice, one that was never used, one that is revoked for good.
RECORDS = (
    record("web-1", revoked=True),
    record("web-1", revoked=True, last_used_at=USED),
    record("web-1", last_used_at=USED),
    record("build box", last_used_at=1_769_860_800.5),
    record("nas"),
    record("gone", revoked=True),
)


def leave(home: Path, *, store: str = "nodes/tokens.json", records: Iterable[object] = RECORDS) -> Path:
    """Everything the older system had in a home; the path of its token store."""
    path = home / store
    path.parent.mkdir(parents=True)
    path.write_bytes(sealed(records))
    (home / ".env").write_bytes(ENV.encode())
    (home / "hermes-node.yaml").write_text(YAML)
    logs = home / "logs"
    logs.mkdir()
    (logs / "nodes-audit.log").write_text("".join(json.dumps(row) + "\n" for row in AUDIT_ROWS))
    return path
