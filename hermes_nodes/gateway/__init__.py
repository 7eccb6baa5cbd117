"""The gateway: nodes dial in, operators call through it. `async with Gateway(settings) as gateway:`."""

from hermes_nodes.gateway.app import Gateway

__all__ = ["Gateway"]
