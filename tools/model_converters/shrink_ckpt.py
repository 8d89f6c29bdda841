"""Writes a checkpoint's weights alone, in half precision."""

from cankd.openmmlab.commands.convert_checkpoint import shrink

if __name__ == "__main__":
    shrink()
