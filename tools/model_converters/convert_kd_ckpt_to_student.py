"""Cuts the student out of a distillation checkpoint."""

from cankd.openmmlab.commands.convert_checkpoint import main

if __name__ == "__main__":
    main()
