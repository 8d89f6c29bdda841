"""What is wrong with a tool's input is said in one line, whichever tool it is."""

from __future__ import annotations

import contextlib
import pickle
import resource
from pathlib import Path
from typing import Iterator

import cv2
import numpy as np
import pytest
import torch

from cankd.openmmlab.analysis.confusion import _count, detection_confusion
from cankd.utils.files import check_writable, whole
from tests.conftest import ROOT
from tests.in_process import call_tool

DEMO = ROOT / "configs/demo"
STUDENT, TEACHER_CKPT = DEMO / "quickstart_student.py", DEMO / "quickstart_teacher.pth"


def refused(tool: str, *arguments) -> str:
    """The single line with which a tool refuses its input."""
    done = call_tool(tool, *arguments, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout, done.stdout
    return done.stdout.strip().splitlines()[-1]


@contextlib.contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Lets the system refuse to write files beyond a size, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        ("make_quickstart_data.py", ["--train", 2, "--val", 1]),
        ("make_gallery_data.py", ["--train", 1, "--val", 1]),
        ("make_mini.py", ["--train", 1, "--val", 1, "--layout", "cityscapes"]),
    ],
)
def test_data_that_does_not_fit_on_the_disk_is_an_error(tool, options, tmp_path):
    with files_end_at(4096):
        message = refused(f"dataset_tools/{tool}", "--out", tmp_path / "data", *options)
    assert "File too large" in message and ".png" in message
    assert not [path for path in tmp_path.rglob("*.png") if cv2.imread(str(path)) is None]
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        ("dataset_tools/make_quickstart_data.py", ["--train", "-5"]),
        ("dataset_tools/make_gallery_data.py", ["--val", "-1"]),
        ("dataset_tools/make_mini.py", ["--layout", "coco", "--out", "mini", "--train", "0"]),
        ("dataset_tools/prepare_public_data.py", ["bccd", "download", "--out", "bccd", "--width", "0"]),
        ("quickstart.py", ["--iterations", "-1"]),
        ("list_modules.py", [STUDENT, "--depth", "0"]),
        ("deployment/export_student.py", [STUDENT, TEACHER_CKPT, "--shape", "-1", "64"]),
        ("analysis_tools/benchmark_loss.py", ["--repeats", "0"]),
        ("analysis_tools/benchmark_step.py", [STUDENT, "--batch", "-2"]),
        ("analysis_tools/test_robustness.py", [STUDENT, TEACHER_CKPT, "--out", "a.pkl", "--workers", "-1"]),
        ("visualizations/predictions.py", ["image.png", "--rows", "0"]),
        ("visualizations/grad_cam.py", ["image.png", "--category", "-3"]),
        ("visualizations/feature_visualization.py", ["image.png", "a", "b", "c", "--arrangement", "4", "-5"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_numbers_below_the_least_are_refused(tool, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call_tool(tool, *options, check=False)
    assert done.returncode == 2 and "expected at least" in done.stdout.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to_is_noticed_before_the_evaluation(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.pkl").mkdir()
    for out in (tmp_path / "file/a.pkl", tmp_path / "folder.pkl"):
        with pytest.raises(OSError):
            check_writable(out)
        message = refused("test.py", STUDENT, "none", "--out", out, "--work-dir", tmp_path / "work")
        assert out.relative_to(tmp_path).parts[0] in message
    assert not (tmp_path / "work").exists()


def test_corrupted_images_need_a_folder(tmp_path):
    options = ["--out", tmp_path / "a.pkl", "--load-dataset", "corrupted"]
    message = refused("analysis_tools/test_robustness.py", STUDENT, TEACHER_CKPT, *options)
    assert message.startswith("--corrupted-dir: got None, expected a folder")


def test_a_value_beyond_half_precision_stays_and_is_named(tmp_path):
    weights: dict = {
        "small": torch.ones(3),
        "large": torch.tensor([1e5, -1e5]),
        "count": torch.tensor(3),
        "name": "student",
    }
    weights["infinite"] = torch.tensor([float("inf")])
    torch.save({"state_dict": weights}, tmp_path / "a.pth")
    done = call_tool("model_converters/shrink_ckpt.py", tmp_path / "a.pth", tmp_path / "b.pth")
    assert "beyond 65504: large\n" in done.stdout
    shrunk = torch.load(tmp_path / "b.pth")["state_dict"]
    assert torch.equal(shrunk["large"], weights["large"]) and shrunk["small"].dtype == torch.half
    assert torch.equal(shrunk["infinite"], weights["infinite"].half()) and shrunk["name"] == "student"


def test_classes_that_the_data_set_does_not_have_are_not_counted_as_others():
    for found in ([3], [-1]):
        with pytest.raises(ValueError, match="expected 0 to 2, the classes of the config's test data"):
            _count(np.array([0]), np.array(found), 3)
        truth = np.array([[0.0, 0.0, 9.0, 9.0]]), np.array([0]), np.array([False])
        with pytest.raises(ValueError, match="expected 0 to 2, the classes of the config's test data"):
            detection_confusion(truth, (truth[0], np.array(found)), 3, 0.5)
    assert _count(np.array([0, 255]), np.array([2, 3]), 3)[0, 2] == 1


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
