"""Measures robustness against image corruptions: P, mPC and rPC of one or more models."""

from cankd.openmmlab.commands.robustness import main

if __name__ == "__main__":
    main()
