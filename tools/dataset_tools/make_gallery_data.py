"""Generates the data behind some pictures of docs/visualization.md."""

from cankd.openmmlab.commands.make_gallery_data import main

if __name__ == "__main__":
    main()
