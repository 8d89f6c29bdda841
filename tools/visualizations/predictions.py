"""Draws what several detectors or segmenters predict for images, beside the ground truth."""

from cankd.openmmlab.commands.show_predictions import main

if __name__ == "__main__":
    main()
