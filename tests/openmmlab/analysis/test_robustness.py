"""Corrupted images, and the study of robustness."""

from __future__ import annotations

import json
import pickle
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmrazor.registry import MODELS

from cankd.openmmlab.analysis.robustness import GROUPS, SeededCorruption, insert_corruption, seeded, summarise
from cankd.openmmlab.analysis.robustness_study import fingerprint
from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.inference import predict
from cankd.openmmlab.loading import load_model
from cankd.utils.files import sha256
from tests.conftest import ROOT
from tests.demo import CANKD, STUDENT, TEACHER, TEACHER_CKPT
from tests.in_process import call_tool
from tests.openmmlab.analysis.shared import options, refused


@pytest.mark.slow
def test_robustness_of_a_segmenter(segmenter, tmp_path):
    config, checkpoint = segmenter
    arguments = ["--corruptions", "contrast", "--severities", 0, 5, "--work-dir", tmp_path / "work"]
    done = call_tool("analysis_tools/test_robustness.py", config, checkpoint, "--out", tmp_path / "r.pkl", *arguments)
    state = json.loads((tmp_path / "r.json").read_text())
    assert state["summary"]["metric"] == "mIoU" and "mIoU, %" in done.stdout
    results = state["models"]["pspnet"]
    assert state["summary"]["percent"]["pspnet"]["P"] == results["clean"]["mIoU"]
    assert state["summary"]["percent"]["pspnet"]["mPC"] == results["corrupted"]["contrast"]["5"]["mIoU"]
    # The corruption reached the images: what is predicted differs.
    assert results["clean"] != results["corrupted"]["contrast"]["5"]


@pytest.mark.parametrize("corruption", GROUPS["all"])
def test_corruptions_depend_on_the_key_alone(corruption):
    scene = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    scene = cv2.resize(scene, (64, 48), interpolation=cv2.INTER_CUBIC)
    transform = SeededCorruption(corruption, 3, seed=1)

    def corrupted(**key) -> np.ndarray:
        return transform({"img_path": "a.png", "img": scene.copy(), **key})["img"]

    np.random.seed(5)
    first = corrupted(img_id=1)
    after = np.random.rand()
    np.random.rand(100)
    assert first.dtype == np.uint8 and first.shape == scene.shape and (first != scene).any()
    assert (corrupted(img_id=1) == first).all()
    np.random.seed(5)
    assert np.random.rand() == after  # the state outside is as it was
    if corruption in (
        "gaussian_noise",
        "impulse_noise",
        "glass_blur",
        "motion_blur",
        "snow",
        "fog",
        "elastic_transform",
    ):
        assert (corrupted(img_id=2) != first).any()


def test_fresh_generators_are_seeded_inside_only():
    inside = []
    for _ in range(2):
        with seeded("image", 3):
            inside.append(np.random.default_rng().random())
    assert inside[0] == inside[1]
    assert np.random.default_rng().random() != np.random.default_rng().random()
    with seeded("image", 4):
        assert np.random.default_rng().random() != inside[0]
        assert np.random.default_rng(7).random() == np.random.default_rng(7).random() != inside[0]


def test_corrupted_images_of_equal_names_stay_apart(tmp_path):
    images = tmp_path / "images"
    files = [images / name for name in ("cat/001.jpg", "dog/001.jpg", "a.jpg", "a.png", "a.jpg.png")]
    files.append(tmp_path / "elsewhere/a.jpg")
    usual = partial(SeededCorruption, "contrast", 1, folder=str(tmp_path / "kept"), images=str(images))
    corrupted = {}
    for number, file in enumerate(files):
        results = {"img_path": str(file), "img": np.full((32, 32, 3), 40 * number, np.uint8)}
        corrupted[file] = usual().transform(results)["img"]
    for file, expected in corrupted.items():
        assert np.array_equal(usual(load=True)({"img_path": str(file)})["img"], expected)
    kept = tmp_path / "kept/contrast/1"
    assert (kept / "cat/001.jpg.png").is_file() and len(list(kept.rglob("*.png"))) == len(files)
    cv2.imwrite(str(kept / "mine.jpg"), np.zeros((32, 32, 3), np.uint8))  # not written by this package
    assert not usual(load=True)({"img_path": str(images / "mine.jpg")})["img"].any()
    with pytest.raises(FileNotFoundError, match="expected .*contrast/1/b.jpg.png, or that name without .png"):
        usual(load=True)({"img_path": str(images / "b.jpg")})


def test_kept_images_are_named_from_the_data_sets_folder():
    def folders(**dataset) -> list[str]:
        parts = dataset.get("datasets", [dataset])
        for part in parts:
            part["pipeline"] = [{"type": "LoadImageFromFile"}]
        insert_corruption(dataset, {"type": "SeededCorruption"})
        return [part["pipeline"][1]["images"] for part in parts]

    assert folders(data_root="data/coco/", data_prefix=dict(img="val2017/")) == ["data/coco/val2017/"]
    assert folders(data_root="data/city", data_prefix=dict(img_path="val", seg_map_path="gt")) == ["data/city/val"]
    assert folders(data_root="data/imagenet", data_prefix="val") == ["data/imagenet/val"]
    assert folders(data_root="data/imagenet", data_prefix="") == ["data/imagenet/"]
    assert folders(datasets=[dict(data_root="a"), dict(data_root="b")]) == ["/", "/"]  # equal names below them


def test_the_corruption_goes_behind_the_loading_step_of_every_data_set():
    dataset = {"datasets": [{"dataset": {"pipeline": [{"type": "mmdet.LoadImageFromFile"}, {"type": "Resize"}]}}]}
    insert_corruption(dataset, {"type": "SeededCorruption"})
    steps = dataset["datasets"][0]["dataset"]["pipeline"]
    assert [step["type"] for step in steps] == ["mmdet.LoadImageFromFile", "SeededCorruption", "Resize"]
    with pytest.raises(ValueError, match="no step LoadImageFromFile"):
        insert_corruption({"pipeline": [{"type": "Resize"}]}, {})


def test_the_summary_follows_the_definitions():
    results = {
        "clean": {"coco/bbox_mAP": 0.5},
        "corrupted": {
            "fog": {"1": {"coco/bbox_mAP": 0.4}, "2": {"coco/bbox_mAP": 0.2}},
            "snow": {"1": {"coco/bbox_mAP": 0.1}, "2": {}},  # nothing was detected
        },
    }
    summary = summarise(results, "coco/bbox_mAP", ["fog", "snow"])
    assert summary["P"] == 50 and summary["mPC"] == pytest.approx(17.5) and summary["rPC"] == pytest.approx(35)
    assert summarise(results, "coco/bbox_mAP", ["fog"])["mPC"] == pytest.approx(30)
    assert summarise({"corrupted": {}}, "mIoU", [])["mPC"] is None


@pytest.fixture(scope="module")
def blind(mini_data, tmp_path_factory) -> tuple[Path, Path]:
    """A detector that does not see the image, and data in which its best boxes are right."""
    folder = tmp_path_factory.mktemp("blind")
    state = torch.load(TEACHER_CKPT)["state_dict"]
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    state["backbone.conv1.weight"].zero_()
    torch.save({"state_dict": state}, folder / "blind.pth")
    model, cfg = load_model(TEACHER, folder / "blind.pth", cfg_options={"model.test_cfg": dict(score_thr=0.0)})
    found = predict(model, cfg, mini_data / "val/00000.png").pred_instances[:3]
    content = json.loads((mini_data / "annotations/val.json").read_text())
    content["annotations"] = [
        {"image_id": image["id"], "category_id": label + 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
        for image in content["images"]
        for (x0, y0, x1, y1), label in zip(found.bboxes.tolist(), found.labels.tolist())
    ]
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation.update(id=number, area=annotation["bbox"][2] * annotation["bbox"][3])
    (folder / "annotations").mkdir()
    (folder / "annotations/val.json").write_text(json.dumps(content))
    (folder / "val").symlink_to(mini_data / "val")
    return folder / "blind.pth", folder


@pytest.mark.slow
def test_a_detector_that_does_not_see_the_image_loses_nothing(blind, tmp_path):
    checkpoint, data = blind
    out = tmp_path / "blind.pkl"
    arguments = [TEACHER, checkpoint, "--out", out, "--work-dir", tmp_path / "work", "--severities", 0, 1, 5]
    arguments += ["--corruptions", "noise", "fog", "pixelate", *options(data), "model.test_cfg.score_thr=0.0"]
    call_tool("analysis_tools/test_robustness.py", *arguments)
    summary = json.loads(out.with_suffix(".json").read_text())["summary"]["percent"]["blind"]
    assert summary["P"] > 10 and summary["mPC"] == pytest.approx(summary["P"]) and summary["rPC"] == pytest.approx(100)


class Distilled(NamedTuple):
    """Configuration and checkpoint of a distillation, and of the student cut out of it."""

    config: Path
    checkpoint: Path
    student_config: Path
    student: Path


@pytest.fixture(scope="module")
def distilled(tmp_path_factory) -> Distilled:
    """The shipped teacher, and as a student, so that it finds something, the same with noise on its weights."""
    folder = tmp_path_factory.mktemp("distilled")
    config = folder / "same.py"
    config.write_text(f"_base_ = ['{CANKD}']\nmodel = dict(architecture=dict(cfg='{TEACHER}'))\n")
    algorithm = MODELS.build(read_config(config).model)
    algorithm.architecture.load_state_dict(algorithm.teacher.state_dict())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in algorithm.architecture.backbone.parameters():
            weight.mul_(1 + 0.1 * torch.randn(weight.shape, generator=generator))
    torch.save({"state_dict": algorithm.state_dict(), "meta": {}}, folder / "run.pth")
    call_tool("model_converters/convert_kd_ckpt_to_student.py", folder / "run.pth")
    return Distilled(config, folder / "run.pth", TEACHER, folder / "run_student.pth")


ROBUSTNESS = ["--corruptions", "impulse_noise", "glass_blur", "--severities", 0, 2]


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_numbers(distilled, mini_data, tmp_path):
    """Killed after two evaluations; and with other numbers of workers, from either kind of checkpoint."""
    first = [*distilled[2:], "--teacher", *distilled[:2], "--names", "student", "teacher", *ROBUSTNESS]
    common = ["--work-dir", tmp_path / "work", *options(mini_data)]
    whole, killed = tmp_path / "whole.pkl", tmp_path / "killed.pkl"
    done = call_tool("analysis_tools/test_robustness.py", *first, "--out", whole, *common)
    assert "6 evaluations, 6 of them to do" in done.stdout and "[6/6] teacher" in done.stdout
    assert re.search(r"\[1/6\] student, clean: .* about \d+ min \d+ s left", done.stdout)

    tool = str(ROOT / "tools/analysis_tools/test_robustness.py")
    command = [sys.executable, tool, *map(str, first), "--out", str(killed), "--workers", "1", *map(str, common)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = killed.with_suffix(".json")

    def evaluations() -> int:
        models = json.loads(state.read_text())["models"].values() if state.exists() else []
        return sum(("clean" in m) + sum(map(len, m["corrupted"].values())) for m in models)

    deadline = time.time() + 300
    while evaluations() < 2 and process.poll() is None and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = evaluations()
    assert 2 <= before < 6 and not (tmp_path / "killed_results.pkl").exists()
    done = call_tool("analysis_tools/test_robustness.py", *first, "--out", killed, *common)
    assert f"6 evaluations, {6 - before} of them to do" in done.stdout
    expected, found = (json.loads(file.with_suffix(".json").read_text()) for file in (whole, killed))
    assert found["models"] == expected["models"] and found["summary"] == expected["summary"]
    layout, other = (pickle.loads((tmp_path / f"{name}_results.pkl").read_bytes()) for name in ("whole", "killed"))
    assert layout == other
    assert layout["teacher"]["glass_blur"][2] == expected["models"]["teacher"]["corrupted"]["glass_blur"]["2"]
    summary = expected["summary"]["percent"]
    assert 0 < summary["student"]["P"] < summary["teacher"]["P"] > 20
    assert summary["student"]["retention"] == pytest.approx(100 * summary["student"]["mPC"] / summary["teacher"]["mPC"])


@pytest.mark.slow
def test_checkpoints_of_either_kind_and_kept_images_give_the_same_numbers(distilled, mini_data, tmp_path):
    """With the published tool's arguments, too, and pictures without ``--out``."""
    images, show = tmp_path / "images", tmp_path / "show"
    runs = {
        "run": [*distilled[:2], "--corrupted-dir", images, "--show-dir", show, "--wait-time", 1],
        "student": [*distilled[2:], "--corrupted-dir", images, "--load-dataset", "corrupted"],
    }
    common = "--summaries True --final-prints mPC --final-prints-aggregate all --launcher none --names model".split()
    found = {}
    for name, arguments in runs.items():
        files = [
            "--work-dir",
            tmp_path / name,
            *([] if name == "run" else ["--out", tmp_path / name / "robustness.pkl"]),
        ]
        tail = [*ROBUSTNESS, *common, *files, *options(mini_data)]
        done = call_tool("analysis_tools/test_robustness.py", *arguments, *tail)
        assert "mPC" in done.stdout and "rPC" not in done.stdout
        assert (tmp_path / name / "robustness_results.pkl").exists()
        found[name] = json.loads((tmp_path / name / "robustness.json").read_text())["models"]["model"]
    again = [*runs["student"][:3], tmp_path / "show", "--load-dataset", "corrupted", "--names", "model"]
    same = ["--work-dir", tmp_path / "student"]
    message = refused("test_robustness", *again, *ROBUSTNESS, *same, *options(mini_data))
    assert f"holds results of {{'seed': 0, 'load_dataset': 'corrupted', 'corrupted_dir': '{images}'}}" in message
    for folder in ("images/impulse_noise/2", "show/model/impulse_noise_2"):
        assert len(list((tmp_path / folder).glob("*.png"))) == 8
    for part in ("clean", "corrupted"):
        assert found["run"][part] == found["student"][part]
    accuracies = [found["run"]["clean"], *(by["2"] for by in found["run"]["corrupted"].values())]
    assert len({metrics["coco/bbox_mAP"] for metrics in accuracies} - {0.0}) == 3


@pytest.mark.slow
def test_robustness_refuses_bad_input(distilled, mini_data, tmp_path):
    config, run, _, student = distilled
    out = tmp_path / "r.pkl"
    usual = [TEACHER, student, "--out", out, "--corruptions", "None", "--work-dir", tmp_path / "work"]
    call_tool("analysis_tools/test_robustness.py", *usual, *options(mini_data))
    before = out.with_suffix(".json").read_text()
    for arguments, message in (
        ([*usual, "--seed", 1, *options(mini_data)], "holds results of {'seed': 0"),
        (
            [config, run, *usual[2:], "--names", student.stem, *options(mini_data)],
            "of another checkpoint or configuration",
        ),
        ([*usual, "--names", "a", "b"], "expected 1 different names"),
        ([STUDENT, tmp_path / "absent.pth", *usual[2:]], "absent.pth"),
        ([CANKD, run, *usual[2:], "--names", "other", *options(mini_data)], "does not fit"),
        ([tmp_path / "absent.py", student, *usual[2:]], "expected an existing file"),
        ([STUDENT, TEACHER_CKPT, *usual[2:4], "--out", tmp_path / "x.pkl", "--corruptions", "None"], "does not fit"),
        ([*usual, "--out", tmp_path / "r.txt"], "ends in .pkl"),
        ([*usual, "--out", out.with_suffix(".json") / "r.pkl"], "r.json"),
        ([*usual, "--load-dataset", "corrupted", "--corrupted-dir", tmp_path / "absent"], "expected a folder"),
    ):
        assert message in refused("test_robustness", *arguments)
    assert out.with_suffix(".json").read_text() == before
    done = call_tool("analysis_tools/test_robustness.py", *usual, "--corruptions", "rain", check=False)
    assert done.returncode == 2 and "rain" in done.stdout


def test_results_are_of_the_teachers_own_file_where_the_checkpoint_leaves_it_out(tmp_path):
    run, teacher = tmp_path / "run.pth", tmp_path / "teacher.pth"
    cfg = Config(dict(model=dict(architecture={}, teacher={}, teacher_ckpt=str(teacher))))

    def digests() -> list[str]:
        return [fingerprint(cfg, Checkpoint.read(run), role)["checkpoint_sha256"] for role in ("student", "teacher")]

    weights = {"architecture.a": torch.zeros(1), "distiller.b": torch.zeros(1)}
    torch.save({"state_dict": weights}, run)
    torch.save({"state_dict": {"a": torch.zeros(1)}}, teacher)
    assert digests() == [sha256(run), sha256(teacher)]
    torch.save({"state_dict": {"a": torch.ones(1)}}, teacher)
    assert digests() == [sha256(run), sha256(teacher)]
    torch.save({"state_dict": {**weights, "teacher.a": torch.zeros(1)}}, run)
    assert digests() == [sha256(run)] * 2
