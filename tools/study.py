"""Compares methods on the same data over several seeds."""

from cankd.openmmlab.commands.study import main

if __name__ == "__main__":
    main()
