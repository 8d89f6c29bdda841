"""Generates the quickstart's detection data in COCO layout."""

from cankd.openmmlab.commands.make_quickstart_data import main

if __name__ == "__main__":
    main()
