"""The object that `exec --json` prints for each node, whatever became of its call."""

from hermes_nodes.call_connection import Json
from hermes_nodes.cli.output import bytes_fields
from hermes_nodes.client import Kept, exec_result
from hermes_nodes.errors import HermesNodesError

#: After a second Ctrl-C, which waits for nothing.
LEFT_HINT = "the gateway ends the call on the node; that it has ended is not known here"


def answered(answer: Json, kept: Kept) -> Json:
    """For a call that was answered."""
    result = exec_result(answer, kept)
    return {
        "node": result.node,
        "request_id": result.request_id,
        "status": result.status,
        "exit_code": result.exit_code,
        "signal": result.signal,
        **bytes_fields("stdout", result.stdout_bytes),
        **bytes_fields("stderr", result.stderr_bytes),
        "duration_ms": result.duration_ms,
        "truncated": result.truncated,
        "error": result.error,
    }


def failed(node: str, kept: Kept, error: HermesNodesError) -> Json:
    """For a call that something kept from an answer."""
    return {
        "node": node,
        "request_id": error.request_id,
        "status": error.call_status,
        "exit_code": None,
        "signal": None,
        **bytes_fields("stdout", kept.stdout),
        **bytes_fields("stderr", kept.stderr),
        "duration_ms": None,
        "truncated": kept.truncated,
        "error": error.to_wire(),
    }
