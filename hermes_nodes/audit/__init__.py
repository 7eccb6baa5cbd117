"""The audit trail: rows of JSON, one a line, in a file that is only ever appended to, and its reader."""

from hermes_nodes.audit.call_log import CallLog
from hermes_nodes.audit.journal import Entry
from hermes_nodes.audit.log import AuditLog
from hermes_nodes.audit.rows import Filter, PairingsFilter, Row, Tail, summarise_command
from hermes_nodes.audit.trail import Trail, follow, tail
from hermes_nodes.errors import AuditUnwritable

__all__ = [
    "AuditLog",
    "AuditUnwritable",
    "CallLog",
    "Entry",
    "Filter",
    "PairingsFilter",
    "Row",
    "Tail",
    "Trail",
    "follow",
    "summarise_command",
    "tail",
]
