"""Draws the maps that a model's modules put out for images."""

from cankd.openmmlab.commands.show_features import main

if __name__ == "__main__":
    main()
