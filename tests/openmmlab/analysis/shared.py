"""Helpers of the tests of analyses."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from tests.in_process import call_tool


def options(data: Path) -> list[str]:
    """Points a quickstart configuration to other test data."""
    return [
        "--cfg-options",
        f"test_dataloader.dataset.data_root={data}/",
        f"test_evaluator.ann_file={data}/annotations/val.json",
        "test_dataloader.batch_size=4",
    ]


def refused(tool: str, *arguments) -> str:
    """The single line with which a tool refuses its input."""
    done = call_tool(f"analysis_tools/{tool}.py", *arguments, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    return done.stdout.strip().splitlines()[-1]


def read_matrix(file: Path) -> np.ndarray:
    """Reads a confusion matrix out of a CSV file."""
    rows = list(csv.reader(file.read_text().splitlines()))
    assert rows[0][1:] == [row[0] for row in rows[1:]]
    return np.array([row[1:] for row in rows[1:]], int)
