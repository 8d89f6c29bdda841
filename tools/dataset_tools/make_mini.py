"""Writes a few generated images in the layout of a real data set."""

from cankd.openmmlab.commands.make_mini import main

if __name__ == "__main__":
    main()
