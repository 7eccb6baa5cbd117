"""What nodes and gateways say to each other: messages, handshake, keys, framings, streams. No I/O."""
