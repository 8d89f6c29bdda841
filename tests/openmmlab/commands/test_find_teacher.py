"""tools/find_teacher.py: published models that are better than a student and can be paired with it."""

from __future__ import annotations

import itertools
import re

import pytest

from cankd.openmmlab.configs import read_config
from cankd.openmmlab.loading import build_model
from cankd.openmmlab.pairing import load_side
from cankd.openmmlab.teachers import find_teachers
from cankd.openmmlab.zoo import rivals, zoo_model
from tests.in_process import call_tool


def _teachers(*arguments: object) -> list[list[str]]:
    """The cells of each row that is listed."""
    printed = call_tool("find_teacher.py", *arguments).stdout
    lines = printed.split("\n\n")[-1].splitlines()
    assert lines[0].split()[0] == "teacher"
    return [re.split(r"  +", line) for line in lines[1:]]


def test_a_teacher_is_more_accurate_and_described():
    ((config, accuracy, ahead, parameters, strides, preprocessor, checkpoint),) = _teachers("rtmdet-x", "--limit", 1)
    model, benchmark = zoo_model(config), ("COCO", "box AP")
    assert model and model.accuracies[benchmark] == float(accuracy) > 52.6 and model.checkpoint == checkpoint
    assert float(ahead) == pytest.approx(float(accuracy) - 52.6, abs=0.01)  # the student has 52.6
    built = build_model(read_config(config))
    count = sum(parameter.numel() for parameter in built.parameters())
    assert float(parameters) == pytest.approx(count / 1e6, abs=0.05) and preprocessor == "other"
    assert strides == "8, 16, 32"


def test_the_strongest_come_first_within_the_limits():
    rows = _teachers("resnet18_8xb32_in1k", "--max-params", 12, "--limit", 3)
    accuracies = [float(row[1]) for row in rows]
    assert len(rows) == 3 and accuracies == sorted(accuracies, reverse=True) and accuracies[-1] > 69.9
    assert all(0 < float(row[3]) <= 12 and row[5] in ("same", "other") for row in rows)


def test_what_cannot_be_paired_is_left_out():
    benchmark = ("COCO", "box AP")
    student = load_side("mmdet::rtmdet/rtmdet_x_8xb32-300e_coco.py", outline=True)
    assert student.entry and next(student.model.parameters()).device.type == "meta"
    best = [model.config for model in rivals(student.entry, benchmark)][:4]
    found = [teacher.model.config for teacher in itertools.islice(find_teachers(student, student.entry, benchmark), 4)]
    text = [config for config in best if "language_model" in read_config(config).model]
    assert text and not set(text) & set(found)


def test_bad_input_is_one_line():
    for arguments, message in (
        (["rtmdet_tyni_8xb32-300e_coco"], "no installed package describes. The nearest are mmdet::rtmdet/rtmdet_tiny"),
        (["rtmdet-t", "--dataset", "Mars"], "which no published model beats in box AP on Mars within the limits"),
    ):
        done = call_tool("find_teacher.py", *arguments, check=False)
        assert done.returncode and message in done.stdout and "Traceback" not in done.stdout
