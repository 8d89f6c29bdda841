"""Evaluates a checkpoint: the student of a distillation configuration, or the model of any other."""

from cankd.openmmlab.commands.test import main

if __name__ == "__main__":
    main()
