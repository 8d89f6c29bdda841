"""Counts parameters and multiply-adds: of distillation losses, or of a configuration's models."""

from cankd.openmmlab.commands.complexity import main

if __name__ == "__main__":
    main()
