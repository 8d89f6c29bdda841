"""Every fault of tests/faults.py ends its tool with one line that names it."""

from __future__ import annotations

import shlex

import cv2
import numpy as np
import pytest
import torch

from cankd.openmmlab.models import stock_model
from tests.demo import DATA, DEMO, STUDENT, TEACHER_CKPT, Code
from tests.faults import DOC, TESTING, TOOLS, TRAINING, Fault, document
from tests.in_process import call_tool


@pytest.fixture(scope="module")
def files(tmp_path_factory, mini_data):
    """Name -> file, for the arguments."""
    folder = tmp_path_factory.mktemp("faults")
    teacher = torch.load(TEACHER_CKPT, weights_only=True)["state_dict"]
    student = stock_model(str(STUDENT)).state_dict()
    biases = [name for name in teacher if name == "neck.lateral_convs.0.conv.bias"]
    contents = {
        "code": {"state_dict": {"weight": Code(folder / "witness")}},
        "list": [1],
        "state_list": {"state_dict": [1]},
        "distilled": {f"architecture.{name}": value for name, value in student.items()},
        "student_ckpt": student,
        "student_headless": {name: value for name, value in student.items() if not name.startswith("bbox_head")},
        "counters": {name: value for name, value in teacher.items() if name.endswith("num_batches_tracked")},
        "one_bias": {name: teacher[name] for name in biases},
        "backbone": {name: value for name, value in teacher.items() if name.startswith("backbone")},
        "head": {name: value for name, value in teacher.items() if name.startswith("bbox_head")},
        "no_head": {name: value for name, value in teacher.items() if not name.startswith("bbox_head")},
    }
    made = {"student": STUDENT, "teacher_ckpt": TEACHER_CKPT, "base": folder / "base.py"}
    for name, content in contents.items():
        made[name] = folder / f"{name}.pth"
        torch.save(content, made[name])
    texts = {"text": "hello world", "empty": "", "no_model": "a = 1", "syntax": "model = dict("}
    texts.update(_data_files(folder, mini_data))
    for name, text in texts.items():
        made[name] = folder / f"{name}{'.py' if name.startswith(('no_model', 'syntax', 'data_')) else '.txt'}"
        made[name].write_text(text)
    made["half"], made["image"] = folder / "half.pth", folder / "image.png"
    made["half"].write_bytes(TEACHER_CKPT.read_bytes()[: TEACHER_CKPT.stat().st_size // 2])
    cv2.imwrite(str(made["image"]), np.zeros((96, 96, 3), np.uint8))
    made["base"].write_text(f"_base_ = ['{DEMO}/quickstart_cankd.py']\n{DATA.format(data=mini_data)}")
    return made


def _data_files(folder, mini_data):
    """Name -> text of a file that describes data of one's own."""
    text = "own_data = dict(root='{}', classes={}, train=dict({}), val=dict({}))"
    boxes = "annotations='annotations/train.json', images='{}'"
    masks = "images='labels', masks='labels'"
    (folder / "labels").mkdir()
    cv2.imwrite(str(folder / "labels/mask.png"), np.full((8, 8), 5, np.uint8))
    return {
        "data_no_classes": "own_data = dict(train=dict(images='a'), val=dict(images='b'))",
        "data_other_classes": text.format(mini_data, ("cat",), boxes.format("train"), boxes.format("train")),
        "data_no_images": text.format(mini_data, ("0",), boxes.format("absent"), boxes.format("train")),
        "data_masks": text.format(folder, ("a", "b"), masks, masks),
        "data_right_masks": text.format(folder, tuple("abcdef"), masks, masks),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [*TRAINING, *TESTING, *TOOLS], ids=lambda fault: f"{fault.arguments.split()[0]}: {fault.what}"
)
def test_a_fault_ends_the_tool_with_one_line(fault: Fault, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {**files, "config": tmp_path / "config.py", "out": tmp_path / "out"}
    base = "" if fault.config.startswith("_base_") else f"_base_ = ['{files['base']}']\n"
    names["config"].write_text(base + fault.config)
    tool, *arguments = shlex.split(fault.arguments.format(**names))
    done = call_tool(tool, *arguments, check=False)
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode in (1, 2) and "Traceback" not in done.stdout, done.stdout[-6000:]
    assert fault.message.format(**files) in last, done.stdout[-6000:]
    assert not (files["code"].parent / "witness").exists()
    assert not list(tmp_path.rglob("iter_*.pth"))


def test_the_page_of_faults_is_the_list():
    assert len(TRAINING) + len(TESTING) + len(TOOLS) >= 60
    assert DOC.read_text(encoding="utf-8") == document(), "run python -m tests.faults"


def test_debug_shows_the_traceback(tmp_path):
    done = call_tool("train.py", tmp_path / "absent.py", "--debug", check=False)
    assert "Traceback" in done.stdout and done.stdout.strip().splitlines()[-1].startswith("FileNotFoundError: config")
