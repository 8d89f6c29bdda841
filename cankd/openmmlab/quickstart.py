"""The quickstart: trains a small student alone and under a teacher, evaluates both and draws the result."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel

from cankd.openmmlab.checkpoint_files import save_whole
from cankd.openmmlab.compat import configs_folder
from cankd.openmmlab.engine.processes import end_with_parent
from cankd.openmmlab.inference import predict, prepare
from cankd.openmmlab.loading import load_model
from cankd.openmmlab.models import stock_model
from cankd.openmmlab.report import write_report
from cankd.openmmlab.visualization import Boxes, draw_box_panel, draw_curves, draw_heatmap_panel, feature_energy
from cankd.utils.files import write_text

DEMO = configs_folder() / "demo"
STUDENT, CANKD, TEACHER = (DEMO / f"quickstart_{name}.py" for name in ("student", "cankd", "teacher"))
SHOWN_SCENES = (0, 3, 5, 11)
SHOWN_SCORE = 0.3


def command(name: str, *arguments: object) -> list[str]:
    """Returns the command line that calls one of this package's commands."""
    return [sys.executable, "-m", "cankd", name, *map(str, arguments)]


def run(name: str, *arguments: object) -> None:
    """Runs one of this package's commands silently; if it fails, stops with the end of what it printed."""
    done = subprocess.run(
        command(name, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=end_with_parent
    )
    if done.returncode:
        sys.exit(f"cankd {name} failed:\n{done.stdout.decode()[-3000:]}")


def data_options(data: Path) -> list[str]:
    """Returns the options that point a configuration of the quickstart to its data."""
    options = [f"{split}_dataloader.dataset.data_root={data}/" for split in ("train", "val", "test")]
    return options + [f"{split}_evaluator.ann_file={data}/annotations/val.json" for split in ("val", "test")]


def scalars(work_dir: Path) -> list[dict]:
    """Reads the scalars that the latest run in a work dir has logged so far."""
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for line in files[-1].read_text().splitlines()] if files else []


def train(jobs: dict[str, list], out: Path, threads: int, tell: Callable[[str], None]) -> dict[str, float]:
    """Runs several trainings side by side and reports their progress.

    Args:
        jobs: name -> configuration file and options.
        out: work dirs go to ``out/<name>``.
        threads: for each training.
        tell: takes the progress, a line every 20 seconds.

    Returns:
        name -> seconds.
    """
    started, seconds, processes = time.time(), {}, {}
    for name, (config, *options) in jobs.items():
        work_dir = out / name
        shutil.rmtree(work_dir, ignore_errors=True)
        work_dir.mkdir(parents=True)
        processes[name] = subprocess.Popen(
            command("train", config, "--work-dir", work_dir, "--cfg-options", *options),
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdout=(work_dir / "console.log").open("wb"),
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )
    shown = time.time()
    try:
        while processes:
            time.sleep(1)
            for name, process in list(processes.items()):
                if process.poll() is None:
                    continue
                seconds[name] = round(time.time() - started, 1)
                del processes[name]
                if process.returncode:
                    sys.exit(f"Training {name} failed:\n{(out / name / 'console.log').read_text()[-3000:]}")
            if time.time() - shown > 20 or not processes:
                shown = time.time()
                state = "   ".join(progress(name, out / name) for name in jobs)
                tell(f"[{shown - started:4.0f}s] {state}")
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait()
    return seconds


def progress(name: str, work_dir: Path) -> str:
    """Describes the state of one training in a few words."""
    lines = scalars(work_dir)
    step = max((line["step"] for line in lines), default=0)
    scores = [line["coco/bbox_mAP"] for line in lines if "coco/bbox_mAP" in line]
    return f"{name}: iteration {step}" + (f", AP {100 * scores[-1]:.1f}" if scores else "")


def evaluate(config: Path, checkpoint: Path, work_dir: Path, options: list[str]) -> dict[str, float]:
    """Returns AP and AP50 of a checkpoint in percent, computed by pycocotools."""
    shutil.rmtree(work_dir, ignore_errors=True)
    run("test", config, checkpoint, "--work-dir", work_dir, "--cfg-options", *options)
    metrics = json.loads(next(work_dir.glob("*/*.json")).read_text())
    # A model that detects nothing at all has no metrics.
    keys = {"AP": "coco/bbox_mAP", "AP50": "coco/bbox_mAP_50"}
    return {name: round(100 * metrics.get(key, 0.0), 1) for name, key in keys.items()}


@torch.no_grad()
def draw_pictures(models: dict[str, tuple[BaseModel, Config]], data: Path, out: Path) -> None:
    """Draws boxes and FPN heatmaps of the three models on some validation scenes."""
    annotations = json.loads((data / "annotations/val.json").read_text())
    scenes = [index for index in SHOWN_SCENES if index < len(annotations["images"])]
    files = [data / "val" / annotations["images"][index]["file_name"] for index in scenes]
    images = [cv2.imread(str(file))[..., ::-1] for file in files]
    truth = []
    for index in scenes:
        found = [a for a in annotations["annotations"] if a["image_id"] == index]
        corners = np.array([[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in found)])
        truth.append(Boxes(corners, [str(a["category_id"] - 1) for a in found]))
    columns, rows = {"ground truth": truth}, {}
    for name, (model, cfg) in models.items():
        columns[name] = []
        for file in files:
            found = predict(model, cfg, file).pred_instances
            found = found[found.scores > SHOWN_SCORE]
            captions = [f"{label} {score:.2f}" for label, score in zip(found.labels.tolist(), found.scores.tolist())]
            columns[name].append(Boxes(found.bboxes.numpy(), captions))
        inputs = model.data_preprocessor(prepare(cfg, files[0]))["inputs"]
        rows[name] = [feature_energy(level[0]) for level in model.extract_feat(inputs)]
    draw_box_panel(images, columns, out / "boxes.png")
    draw_heatmap_panel(images[0], rows, [f"FPN, stride {stride}" for stride in (4, 8, 16, 32)], out / "heatmaps.png")


def distil(
    out: Path,
    data: Path,
    seed: int,
    iterations: int,
    train_images: int,
    val_images: int,
    train_teacher: bool,
    tell: Callable[[str], None],
) -> dict:
    """Trains, evaluates and draws; ``summary.json``, ``report.html`` and the pictures are written to ``out``.

    Args:
        out: folder to write to.
        data: folder of the generated data, made if needed.
        seed: seed of the initial weights and of the order of the data.
        iterations: iterations of both students.
        train_images: number of generated training scenes.
        val_images: number of generated validation scenes.
        train_teacher: whether the teacher is trained anew, instead of the shipped one used.
        tell: takes a line about each step.

    Returns:
        The summary: by model its AP and AP50 in percent, and the settings and seconds.

    Raises:
        FileExistsError: if ``out`` holds files that no quickstart wrote.
        SystemExit: if a training or an evaluation fails.
    """
    initial = out / "initial.pth"
    if out.exists() and any(out.iterdir()) and not initial.exists():
        raise FileExistsError(f"--out: {out} holds files that no quickstart wrote; give an empty or new folder.")
    began = time.time()
    threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or max(1, (os.cpu_count() or 2) // 2)
    scenes = ["--train", train_images, "--val", val_images]
    run("make-quickstart-data", "--out", data, *scenes)
    tell(f"Data in {data}: digits on photographs, 10 classes, COCO layout.")
    options = data_options(data)

    # One file of initial weights for both students.
    torch.manual_seed(seed)
    student = stock_model(str(STUDENT))
    student.init_weights()
    save_whole({"state_dict": student.state_dict(), "meta": {}}, initial)

    teacher = DEMO / "quickstart_teacher.pth"
    if train_teacher:
        seconds = train({"teacher": [TEACHER, *options]}, out, threads, tell)
        teacher = out / "teacher" / "teacher_fp16.pth"
        run("shrink", next((out / "teacher").glob("iter_*.pth")), teacher)
        tell(f"Teacher trained in {seconds['teacher']} s: {teacher}")

    common = [
        *options,
        f"randomness.seed={seed}",
        f"train_cfg.max_iters={iterations}",
        f"train_cfg.val_interval={max(1, iterations // 6)}",
        f"param_scheduler.0.total_steps={iterations}",
        f"default_hooks.checkpoint.interval={iterations}",
    ]
    jobs = {
        "student": [STUDENT, *common, "model.init_cfg.type=Pretrained", f"model.init_cfg.checkpoint={initial}"],
        "cankd": [
            CANKD,
            *common,
            *([f"teacher_ckpt={teacher}"] if train_teacher else []),
            "model.architecture.init_cfg.type=Pretrained",
            f"model.architecture.init_cfg.checkpoint={initial}",
        ],
    }
    tell(f"Training the student alone and under the teacher, {iterations} iterations each ...")
    seconds = train(jobs, out, threads, tell)

    final = f"iter_{iterations}.pth"
    run("convert", out / "cankd" / final)
    checkpoints = {
        "teacher": (TEACHER, teacher),
        "student": (STUDENT, out / "student" / final),
        "cankd": (STUDENT, out / "cankd" / f"iter_{iterations}_student.pth"),
    }
    summary: dict = {
        name: evaluate(config, file, out / "evaluation" / name, options) for name, (config, file) in checkpoints.items()
    }

    titles = {"teacher": "teacher", "student": "student alone", "cankd": "student with CanKD"}
    draw_pictures({titles[name]: load_model(*files) for name, files in checkpoints.items()}, data, out)
    curves = {}
    images = len(json.loads((data / "annotations/train.json").read_text())["images"])
    epochs_per_step = Config.fromfile(STUDENT).train_dataloader.batch_size / images
    for name in ("student", "cankd"):
        points = [line for line in scalars(out / name) if "coco/bbox_mAP" in line]
        epochs = [point["step"] * epochs_per_step for point in points]
        curves[titles[name]] = (epochs, [100 * point["coco/bbox_mAP"] for point in points])
    draw_curves(curves, ("epoch", "AP"), out / "curves.png", levels={"teacher": summary["teacher"]["AP"]})

    page = out / "report.html"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells that it reads the annotations
            write_report([out], page)
        tell(f"Report: {page}")
    except ImportError as error:  # a library that nothing else here needs
        tell(f"{page} is left out. {error}")

    seconds["all"] = round(time.time() - began, 1)
    summary.update(seed=seed, iterations=iterations, seconds=seconds)
    write_text(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary
