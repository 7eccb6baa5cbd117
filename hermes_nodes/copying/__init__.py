"""`cp` without a terminal: files and trees between this machine and nodes, and from node to node.

Blocking, and standard library only, like the client that it is made of.
"""
