"""Runs the command ``cankd``: ``cankd --help`` lists the subcommands, ``cankd COMMAND --help`` their arguments."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Sequence

from cankd.utils.command_line import one_line_errors

# Name -> module (in cankd.openmmlab.commands, if it is no full name), its function, what it does. The modules are
# imported when they are called, as the OpenMMLab libraries take seconds to import.
COMMANDS = {
    "train": ("train", "main", "train a distillation, or any model"),
    "test": ("test", "main", "evaluate a distilled student, or any model"),
    "launch": ("cankd.utils.launch", "main", "train or test with several processes"),
    "convert": ("convert_checkpoint", "main", "extract the student from a distillation checkpoint"),
    "shrink": ("convert_checkpoint", "shrink", "keep a checkpoint's weights alone, in half precision"),
    "convert-mobilenet": ("convert_checkpoint", "mobilenet", "rename torchvision's MobileNetV2 for mmdet or mmseg"),
    "export": ("export_student", "main", "export a student as ONNX, checked against torch"),
    "quickstart": ("quickstart", "main", "distil a small detector and show the gain"),
    "print-config": ("print_config", "main", "print a configuration resolved, with the file of each value"),
    "find-teacher": ("find_teacher", "main", "list published models that can teach a student, the most accurate first"),
    "make-config": ("make_config", "main", "write the configuration that distils any teacher into any student"),
    "doctor": ("doctor", "main", "examine a distillation before it trains: shapes, weights, losses, gradients"),
    "list-modules": ("list_modules", "main", "list the modules that a distiller can record, with their shapes"),
    "show-features": ("show_features", "main", "draw the feature maps of models"),
    "show-difference": ("show_features", "difference", "draw where the feature maps of two models differ"),
    "show-attention": ("show_attention", "main", "draw which teacher positions a student position attends to"),
    "show-grad-cam": ("show_grad_cam", "main", "draw the Grad-CAM of classifiers"),
    "show-predictions": ("show_predictions", "main", "draw what models predict, beside the ground truth"),
    "robustness": ("robustness", "main", "measure robustness against image corruptions"),
    "confusion-matrix": ("confusion_matrix", "main", "draw confusion matrices"),
    "curves": ("plot_curves", "main", "draw accuracy and losses of several runs over time"),
    "report": ("report", "main", "write one HTML page about trainings"),
    "study": ("study", "main", "compare methods on the same data over several seeds"),
    "complexity": ("complexity", "main", "count parameters and multiply-adds of losses or models"),
    "zoo-sweep": ("zoo_sweep", "main", "try each family of mmdet or mmsegmentation for one training step"),
    "benchmark-loss": ("benchmark_loss", "main", "measure time and memory of CanKD's loss"),
    "benchmark-step": ("benchmark_step", "main", "measure what a distillation step costs"),
    "make-mini": ("make_mini", "main", "write a few generated images in the layout of a real data set"),
    "make-quickstart-data": ("make_quickstart_data", "main", "generate the quickstart's data"),
    "prepare-public-data": (
        "prepare_public_data",
        "main",
        "lay out a download of BCCD or CamVid for training",
    ),
    "make-gallery-data": ("make_gallery_data", "main", "generate small segmentation and classification data"),
}


def module_of(name: str) -> str:
    """Returns the full name of a command's module."""
    module = COMMANDS[name][0]
    return module if "." in module else f"cankd.openmmlab.commands.{module}"


def help_text() -> str:
    """Returns the list of all commands."""
    lines = [f"  {name:22}{description}" for name, (_, _, description) in COMMANDS.items()]
    return "\n".join(["usage: cankd COMMAND ...", "", *lines, "", "cankd COMMAND --help shows a command's arguments."])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command.

    Args:
        argv: the name of the command and its arguments. Defaults to the command line's.

    Raises:
        SystemExit: with status 2 if there is no such command.
    """
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(help_text() + "\n")
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=3, cutoff=0.5)
        expected = f"one like {', '.join(near)}" if near else "one that `cankd --help` lists"
        sys.stderr.write(f"cankd: got the command {name!r}, expected {expected}.\n")
        sys.exit(2)
    sys.argv[:] = [f"cankd {name}", *arguments]  # usage texts and reports show it
    with one_line_errors():  # of a missing library, too
        run = getattr(importlib.import_module(module_of(name)), COMMANDS[name][1])
    run(arguments)


if __name__ == "__main__":
    main()
