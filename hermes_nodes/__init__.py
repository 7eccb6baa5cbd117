"""Run commands on machines behind NAT, from a shell, a script or an agent, with an audit trail.

The public names below are imported when they are first used, so that a short command does not pay
for the parts it never touches.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermes_nodes.audit import AuditLog
    from hermes_nodes.client import Client
    from hermes_nodes.gateway import Gateway
    from hermes_nodes.registry import NodeRegistry
    from hermes_nodes.tokens import TokenStore

__version__ = "0.1.0"
__all__ = ["AuditLog", "Client", "Gateway", "NodeRegistry", "TokenStore", "__version__"]

_HOMES = {
    "AuditLog": "audit",
    "Client": "client",
    "Gateway": "gateway",
    "NodeRegistry": "registry",
    "TokenStore": "tokens",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"hermes_nodes.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
