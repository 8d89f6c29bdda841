"""Draws accuracy and losses of several runs over time, side by side."""

from cankd.openmmlab.commands.plot_curves import main

if __name__ == "__main__":
    main()
