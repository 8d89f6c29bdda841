"""What is wrong with a tool's input is said in one line, whichever tool it is."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cankd.analysis.files import one_line_errors, whole
from tests.conftest import ROOT
from tests.in_process import call_tool

DEMO = ROOT / "configs/demo"
STUDENT, TEACHER_CKPT = DEMO / "quickstart_student.py", DEMO / "quickstart_teacher.pth"


def refused(tool: str, *arguments) -> str:
    """The single line with which a tool refuses its input."""
    done = call_tool(tool, *arguments, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout, done.stdout
    return done.stdout.strip().splitlines()[-1]


class Failing:
    """A data set whose images are all absent."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise FileNotFoundError("image: expected a.png. Check the path.")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("size: got 0."), "size: got 0."),
        (FileNotFoundError(2, "No such file", "a.png"), "[Errno 2] No such file: 'a.png'"),
        (KeyError("head.nme: got a key that is not known."), "head.nme: got a key that is not known."),
        (ModuleNotFoundError("No module named 'onnx'"), "No module named 'onnx'"),
    ],
)
def test_faults_of_the_input_end_with_their_message(error, message):
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise error
    assert ended.value.code == message


@pytest.mark.parametrize("error", [KeyError("head"), KeyError(3), KeyError(), TypeError("a fault of the program")])
def test_faults_of_the_program_keep_their_traceback(error):
    with pytest.raises(type(error)), one_line_errors():
        raise error


def test_an_error_in_a_worker_ends_with_its_own_message():
    with pytest.raises(SystemExit) as ended, one_line_errors():
        next(iter(DataLoader(Failing(), num_workers=1)))  # type: ignore[arg-type]
    assert ended.value.code == "image: expected a.png. Check the path."


@pytest.mark.parametrize("folder", ["file", "/proc"])
def test_a_folder_that_cannot_be_written_to_is_an_error_of_the_system(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    torch.save({"state_dict": {"architecture.a": torch.ones(1), "distiller.b": torch.ones(1)}}, "run.pth")
    with pytest.raises(OSError), whole(Path(folder, "a.pth")) as part:
        torch.save({}, part)
    converters = "model_converters/convert_kd_ckpt_to_student.py", "model_converters/shrink_ckpt.py"
    for tool, options in zip(converters, (["--out-path", folder], [f"{folder}/a.pth"])):
        assert folder in refused(tool, "run.pth", *options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run.pth"]


FAULTS = {
    "model = dict(bakbone=dict(depth=18))": "expected one like backbone. Correct it, or add _replace_=True",
    "model = dict(_delete_=True, type='AbsentDetector')": "AbsentDetector is not in the",
    "custom_imports = dict(imports=['absent_package'])": "absent_package",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_misspelt_key_and_a_missing_package_give_one_line(fault, tmp_path):
    config, image, out = tmp_path / "config.py", tmp_path / "image.png", tmp_path / "out"
    config.write_text(f"_base_ = ['{STUDENT}']\n{fault}\n")
    cv2.imwrite(str(image), np.zeros((96, 96, 3), np.uint8))
    for tool, arguments in (
        ("analysis_tools/test_robustness.py", [config, TEACHER_CKPT, "--out", out / "a.pkl"]),
        ("deployment/export_student.py", [config, TEACHER_CKPT, "--out", out / "a.onnx"]),
        ("visualizations/predictions.py", [image, "--model", "a", config, TEACHER_CKPT, "--out-file", out]),
        ("list_modules.py", [config]),
    ):
        assert FAULTS[fault] in refused(tool, *arguments)
    assert not out.exists()


def test_a_confusion_matrix_needs_test_data(tmp_path):
    config, predictions = tmp_path / "config.py", tmp_path / "predictions.pkl"
    config.write_text("model = dict(type='RetinaNet')\n")
    predictions.write_bytes(pickle.dumps([{"img_id": 0}]))
    message = refused("analysis_tools/confusion_matrix.py", config, predictions, tmp_path / "out")
    assert "config.py has no test_dataloader.dataset" in message
