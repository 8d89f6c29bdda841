"""Exports a student as ONNX, checked against torch."""

from cankd.openmmlab.commands.export_student import main

if __name__ == "__main__":
    main()
