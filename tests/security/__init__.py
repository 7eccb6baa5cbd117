"""Each failure that this program must hold against, as a test that bears its name."""
