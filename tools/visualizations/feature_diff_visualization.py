"""Draws where the maps of two models differ for images."""

from cankd.openmmlab.commands.show_features import difference

if __name__ == "__main__":
    difference()
