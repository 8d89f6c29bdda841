"""Turns a download of BCCD or CamVid into the layout that training reads."""

from cankd.openmmlab.commands.prepare_public_data import main

if __name__ == "__main__":
    main()
