"""A node: it dials out to a gateway and runs what it is asked to on this machine."""
