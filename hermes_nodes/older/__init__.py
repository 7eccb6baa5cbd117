"""Nodes without `stream/1`: their sessions, their calls, and what they can't do."""
