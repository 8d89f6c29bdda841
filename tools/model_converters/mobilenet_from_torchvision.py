"""Renames torchvision's weights of a MobileNetV2 for mmdet."""

from cankd.openmmlab.commands.convert_checkpoint import mobilenet

if __name__ == "__main__":
    mobilenet()
