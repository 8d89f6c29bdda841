"""Trains a distillation algorithm, or any model that mmengine's runner can train."""

from cankd.openmmlab.commands.train import main

if __name__ == "__main__":
    main()
