"""Draws confusion matrices: of one model, or of two with their difference."""

from cankd.openmmlab.commands.confusion_matrix import main

if __name__ == "__main__":
    main()
