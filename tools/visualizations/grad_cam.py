"""Draws the Grad-CAM of several classifiers' backbone stages."""

from cankd.openmmlab.commands.show_grad_cam import main

if __name__ == "__main__":
    main()
