"""Tries each family of mmdet or mmsegmentation: its smallest model learns from its largest for one training step."""

from cankd.openmmlab.commands.zoo_sweep import main

if __name__ == "__main__":
    main()
