"""Measurements, run by hand: they judge by ratios to floors of the same run, and exit 1 over a limit."""
