"""docs/your_data.md: its commands train a teacher, distil, convert, test, draw and export, in their order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import onnxruntime
import pytest
import torch
from packaging.version import Version

from cankd.openmmlab.checkpoint import Checkpoint
from tests.conftest import ROOT
from tests.in_process import call_tool

PAGE = (ROOT / "docs/your_data.md").read_text(encoding="utf-8")
# A few steps at a small size, and no weights from a network.
TRAINING = ["train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"]
TRAINING += ["val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False", "randomness.seed=0"]
EXPORTS_ATTENTION = Version(torch.__version__) >= Version("2.1")
TESTING = ["test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"]


def _block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", PAGE, re.S)
    assert found, name
    return found.group(1)


def _shortened(text: str) -> str:
    """The text of the page with a training of one epoch or two iterations instead of 30 or 3000."""
    return re.sub(r"(epochs=|epoch_)30(?!\d)", r"\g<1>1", re.sub(r"(iterations=|iter_)3000", r"\g<1>2", text))


def _walk(kind: str, data_file: str) -> None:
    """Runs the commands of the page in the current folder."""
    Path(data_file).write_text(_shortened(_block(f"{kind} data")).replace("batch_size=8", "batch_size=4"))
    for line in _shortened(_block(f"{kind} commands") + _block(f"{kind} use")).splitlines():
        python, tool, *arguments = shlex.split(line)
        assert python == "python" and tool.startswith("tools/")
        name = tool[len("tools/") :]
        if name in ("train.py", "doctor.py"):
            models = ("architecture.", "teacher.") if "my_config.py" in arguments else ("",)
            arguments += ["--cfg-options", *TRAINING, *(f"model.{model}backbone.init_cfg=None" for model in models)]
        elif name == "test.py":
            arguments += ["--cfg-options", *TESTING]
        refused = name == "deployment/export_student.py" and kind == "segmenter" and not EXPORTS_ATTENTION
        printed = call_tool(name, *arguments, check=name != "doctor.py" and not refused).stdout
        if refused:
            assert "EncoderDecoder cannot be exported" in printed
        elif name == "make_config.py":
            assert "other classes" not in printed, printed
        elif name == "doctor.py":
            assert "shares of the gradient" in printed
            assert not re.search(r"^error", printed, re.M), printed
        elif name == "train.py" and "my_config.py" in arguments:
            assert "tensors of the teacher are not those of" not in printed


def _classes(checkpoint: str) -> tuple[str, ...]:
    return tuple((Checkpoint.read(checkpoint).dataset_meta or {})["classes"])


@pytest.mark.slow
def test_a_detector_from_data_to_onnx(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call_tool("dataset_tools/make_quickstart_data.py", "--out", "data/scenes", "--train", 8, "--val", 4)
    _walk("detector", "my_data.py")
    assert _classes("work_dirs/my_config/epoch_1_student.pth") == tuple("0123456789")
    assert Path("work_dirs/boxes.png").stat().st_size > 10_000
    outputs = onnxruntime.InferenceSession("work_dirs/my_student.onnx").get_outputs()
    assert any(output.shape[1] == 10 for output in outputs)  # scores of ten classes
    scalars = next(Path("work_dirs/my_config").glob("*/vis_data/scalars.json")).read_text()
    assert "distill.loss_neck2" in scalars


@pytest.mark.slow
def test_a_segmenter_from_data_to_onnx(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call_tool("dataset_tools/make_gallery_data.py", "--out", "data/digits", "--train", 8, "--val", 4)
    _walk("segmenter", "my_masks.py")
    assert _classes("work_dirs/my_config/iter_2_student.pth") == ("background", "digit")
    assert Path("work_dirs/labels.png").stat().st_size > 10_000
    if EXPORTS_ATTENTION:
        outputs = onnxruntime.InferenceSession("work_dirs/my_student.onnx").get_outputs()
        assert outputs[-1].shape[1] == 2  # scores of two classes
    scalars = next(Path("work_dirs/my_config").glob("*/vis_data/scalars.json")).read_text()
    assert "distill.loss_backbone3" in scalars
