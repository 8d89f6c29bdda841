"""Writes the configuration that distils any teacher into any student."""

from cankd.openmmlab.commands.make_config import main

if __name__ == "__main__":
    main()
