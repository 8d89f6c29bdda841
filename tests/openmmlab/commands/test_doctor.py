"""The command ``doctor``, the summary that a training begins with, and the page that answers with their lines."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.demo import CANKD, DATA, STUDENT, TEACHER_CKPT
from tests.in_process import call_tool
from tests.openmmlab.doctor.test_doctor import PLANTED

FAQ = (ROOT / "docs/faq.md").read_text(encoding="utf-8")


@pytest.fixture()
def config(tmp_path, mini_data) -> Path:
    file = tmp_path / "my_config.py"
    file.write_text(f"_base_ = ['{CANKD}']\n{DATA.format(data=mini_data)}")
    return file


def test_a_sound_distillation_ends_with_status_0(config):
    printed = call_tool("doctor.py", config, "--data", "synthetic").stdout.splitlines()
    start = next(number for number, line in enumerate(printed) if line.startswith("ok           recorders: "))
    assert printed[start + 5].startswith("ok           teacher's weights: 208 of 208 tensors of ")
    assert printed[-1] == "20 checks: 16 ok, 4 not checked"


@pytest.mark.slow
def test_an_error_ends_with_status_1_and_lines_to_paste(config):
    options = ["--cfg-options", "model.distiller.loss.in_channels=32"]
    done = call_tool("doctor.py", config, "--data", "synthetic", "--json", *options, check=False)
    report = json.loads(done.stdout[done.stdout.index('{\n  "config"') :])
    errors = [finding["check"] for finding in report["findings"] if finding["state"] == "error"]
    assert done.returncode == 1 and errors == [f"maps of loss_fpn{level}" for level in range(4)]
    (line,) = report["lines"]
    with config.open("a") as file:
        file.write(f"{line}\n")
    assert call_tool("doctor.py", config, "--data", "synthetic", "--steps", 1).returncode == 0


@pytest.mark.parametrize(
    ("more", "options", "status", "message"),
    [
        ("model = dict(distiller=dict(source=3))", [], 1, "error        configuration: distiller.source: got 3"),
        ("", ["--cfg-options", "optim_wraper.optimizer.lr=1"], 2, "like optim_wrapper"),
        ("", ["--steps", "0"], 2, "expected at least 1"),
        (
            "",
            ["--data", "real", "--cfg-options", "train_dataloader.dataset.ann_file=a.json"],
            1,
            "error        models: ",
        ),
    ],
)
def test_what_the_command_line_or_the_configuration_lacks(more, options, status, message, config):
    with config.open("a") as file:
        file.write(more)
    done = call_tool("doctor.py", config, *options, check=False)
    assert done.returncode == status and message in done.stdout and "Traceback" not in done.stdout


def test_other_files_are_refused(tmp_path):
    assert call_tool("doctor.py", tmp_path / "absent.py", check=False).returncode == 2
    done = call_tool("doctor.py", STUDENT, check=False)
    assert done.returncode == 1 and "got a single model in" in done.stdout


@pytest.mark.slow
def test_a_training_begins_with_four_lines(config, tmp_path):
    option = "model.teacher.data_preprocessor.bgr_to_rgb=False"
    printed = call_tool("train.py", config, "--work-dir", tmp_path / "run", "--cfg-options", option).stdout
    lines = re.findall(r"- (INFO|WARNING) - (Teacher|Student|Losses|Run): (.*)", printed)
    assert [line[:2] for line in lines] == [
        ("WARNING", "Teacher"),
        ("INFO", "Student"),
        ("INFO", "Losses"),
        ("INFO", "Run"),
    ]
    teacher, student, losses, run = (line[2] for line in lines)
    assert "weights 208 of 208 tensors of" in teacher and "wrong colours. Set model.teacher_preprocess=True" in teacher
    assert student == "start random." and "40 parameters of their own, all in the optimizer" in losses
    assert "learning rate 0.001" in run and "mmengine 0.10." in run


@pytest.mark.slow
def test_the_commands_of_the_faq_run(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(TEACHER_CKPT, "my_teacher.pth")
    commands = [
        shlex.split(line) for block in re.findall(r"```bash\n(.*?)```", FAQ, re.S) for line in block.splitlines()
    ]
    assert len(commands) >= 3
    for python, tool, *arguments in commands:
        assert python == "python" and tool.startswith("tools/")
        call_tool(tool[len("tools/") :], *arguments)


def test_the_lines_of_the_faq_are_those_of_planted_faults():
    lines = [line for block in re.findall(r"```text\n(.*?)```", FAQ, re.S) for line in block.splitlines()]
    known = [(f"{planted.state:11}  {planted.check}: ", planted.found) for planted in PLANTED.values()]
    assert len(lines) >= 10
    for line in lines:
        assert any(line.startswith(start) and found in line for start, found in known), line
