"""Prints what a configuration resolves to, and which file each value comes from."""

from cankd.openmmlab.commands.print_config import main

if __name__ == "__main__":
    main()
