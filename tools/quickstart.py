"""Distils a small detector on the spot and shows what it gained."""

from cankd.openmmlab.commands.quickstart import main

if __name__ == "__main__":
    main()
