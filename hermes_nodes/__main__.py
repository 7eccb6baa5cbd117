"""`python -m hermes_nodes` is the command `hermes-nodes`."""

from hermes_nodes.cli import main

if __name__ == "__main__":
    main()
