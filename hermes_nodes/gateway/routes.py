"""The control API's routes: one table for the router, for `/v1/openapi.json` and for docs/API.md."""

from typing import Literal, NamedTuple

import msgspec

from hermes_nodes.administration import OperatorRequest
from hermes_nodes.audit.rows import ACTIONS, STATUSES
from hermes_nodes.gateway.bodies import VERBS as CALLS
from hermes_nodes.operations import LabelRequest, PairRequest, RotateRequest

Method = Literal["GET", "POST", "PATCH", "DELETE"]


class Query(NamedTuple):
    """One parameter of a route's query."""

    name: str
    what: str
    #: What it may be, where that is one of a few.
    choices: tuple[str, ...] = ()
    #: Its form otherwise, by its name in OpenAPI.
    form: str = ""


class Route(NamedTuple):
    """``verb`` is what an operator must be allowed to do; none where anyone may, or the call decides."""

    method: Method
    path: str
    #: The method of `ControlApi` that answers.
    handler: str
    what: str
    verb: str = ""
    body: type[msgspec.Struct] | None = None
    query: tuple[Query, ...] = ()
    status: int = 200
    #: Whether the answer is one JSON object a line.
    lines: bool = False
    #: Served to the local user alone.
    local: bool = False


_NODES = (
    Query("target", "names and globs with commas, `label:K=V`, or `all`"),
    Query("state", "connected, disconnected, never_seen, revoked or expired"),
    Query("all", "1: revoked ones too"),
)
_ROWS = (
    Query("node", "only rows of this node"),
    Query("action", "only rows of this action", choices=ACTIONS),
    Query("status", "only rows of this status", choices=STATUSES),
    Query(
        "since", "only rows from this time on, RFC 3339; of a date its beginning in UTC", form="date-time"
    ),
)
_AUDIT = (
    Query("n", "how many of the last rows; 10 if not given"),
    Query("follow", "1: go on with rows as they come"),
    *_ROWS,
)

ROUTES = (
    Route("GET", "/v1/status", "get_status", "The gateway: version, address, counts."),
    Route("GET", "/v1/openapi.json", "get_openapi", "These routes, as OpenAPI."),
    Route("GET", "/v1/nodes", "get_nodes", "The nodes and their state.", verb="list", query=_NODES),
    Route(
        "POST",
        "/v1/pairings",
        "post_pairing",
        "Pair a node; the answer has its token, this once.",
        verb="pair",
        body=PairRequest,
        status=201,
    ),
    Route("DELETE", "/v1/pairings/{name}", "delete_pairing", "Revoke a pairing.", verb="revoke"),
    Route(
        "PATCH",
        "/v1/pairings/{name}",
        "patch_pairing",
        "Set and drop labels.",
        verb="label",
        body=LabelRequest,
    ),
    Route(
        "POST",
        "/v1/pairings/{name}/rotate",
        "post_rotation",
        "A new token for a pairing; the old one dies when the new one is used, or after the grace.",
        verb="rotate",
        body=RotateRequest,
    ),
    Route("GET", "/v1/operators", "get_operators", "The operators.", verb="operate"),
    Route(
        "POST",
        "/v1/operators",
        "post_operator",
        "Add an operator; the answer has its token, this once.",
        verb="operate",
        body=OperatorRequest,
        status=201,
    ),
    Route("DELETE", "/v1/operators/{name}", "delete_operator", "Remove an operator.", verb="operate"),
    Route(
        "POST",
        "/v1/key/rotate",
        "post_key_rotation",
        "Seal the token store anew under a new key, which is saved in the gateway's home.",
        local=True,
    ),
    Route(
        "GET", "/v1/audit", "get_audit", "Rows of the audit trail.", verb="audit", query=_AUDIT, lines=True
    ),
    Route(
        "GET",
        "/v1/audit/export",
        "get_audit_export",
        "Every row of the audit trail, old to new.",
        verb="audit",
        query=_ROWS,
        lines=True,
    ),
    Route("POST", "/v1/call", "upgrade_call", "One call on a node, over an upgraded connection."),
    Route(
        "POST",
        f"/v1/nodes/{{name}}/{{call:{'|'.join(CALLS)}}}",
        "post_call",
        "One call on a node, for whoever has only an HTTP client.",
        lines=True,
    ),
)
