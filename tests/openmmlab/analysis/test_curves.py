"""Curves of runs, and the command that draws them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np

from cankd.openmmlab.analysis.curves import read_curves
from tests.conftest import ROOT
from tests.in_process import call_tool
from tests.openmmlab.analysis.shared import refused

LOGS = ROOT / "logfile/quickstart/iter1200_seed0"


def write_log(path: Path, lines: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_curves_put_epochs_at_iterations_and_join_resumed_runs(tmp_path):
    run = tmp_path / "run"
    first = [{"loss": 3.0, "epoch": 1, "iter": 10, "step": 10}, {"mIoU": 5.0, "step": 1}]
    first += [{"loss": 2.0, "epoch": 2, "iter": 20, "step": 20}, {"mIoU": 6.0, "step": 2}]
    first += [{"loss": 9.0, "epoch": 3, "iter": 30, "step": 30}]
    resumed = [{"loss": 1.0, "student.loss_x": 4.0, "epoch": 3, "iter": 30, "step": 30}, {"mIoU": 7.0, "step": 3}]
    files = [write_log(run / name / "vis_data/scalars.json", lines) for name, lines in (("1", first), ("2", resumed))]
    curves = read_curves(files)
    assert curves["loss"] == ([10, 20, 30], [3.0, 2.0, 1.0])
    assert curves["mIoU"] == ([10, 20, 30], [5.0, 6.0, 7.0])
    assert curves["loss_x"] == ([30], [4.0])
    out = tmp_path / "curves.png"
    call_tool("analysis_tools/plot_curves.py", run, "--out", out, "--names", "mine")
    rows = list(csv.reader(out.with_suffix(".csv").read_text().splitlines()))
    assert rows[0] == ["run", "name", "iteration", "value"] and ["mine", "mIoU", "30", "7.0"] in rows


def test_plotted_runs_show_what_their_logs_hold(tmp_path):
    out = tmp_path / "one.png"
    runs, names = [LOGS / "student.json", LOGS / "cankd.json"], ["alone", "CanKD"]
    level = ["--level", "coco/bbox_mAP", "teacher", 0.605]
    call_tool(
        "analysis_tools/plot_curves.py", *runs, "--names", *names, "--out", out, "--keys", "coco/bbox_mAP", *level
    )
    rows = list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))
    summary = json.loads((LOGS / "summary.json").read_text())
    last = {row["run"]: float(row["value"]) for row in rows if row["iteration"] == "1200"}
    assert last == {"alone": summary["student"]["AP"] / 100, "CanKD": summary["cankd"]["AP"] / 100}
    drawn = cv2.imread(str(out))[..., ::-1].astype(int)
    # matplotlib's first two colours and gray: CanKD's curve ends above the student's, the teacher's level on top.
    colours = {"alone": (31, 119, 180), "CanKD": (255, 127, 14), "teacher": (128, 128, 128)}
    legend = drawn.shape[0] * 9 // 10
    highest = {}
    for name, colour in colours.items():
        rows_of, _ = np.nonzero((np.abs(drawn[:legend] - colour) < 12).all(axis=2))
        assert len(rows_of) > 100, name
        highest[name] = rows_of.min()
    assert highest["teacher"] < highest["CanKD"] < highest["alone"]


def test_the_teacher_of_a_validation_gets_its_own_curve(tmp_path):
    log = write_log(tmp_path / "run.json", [{"coco/bbox_mAP": 0.1, "teacher.coco/bbox_mAP": 0.5, "step": 7}])
    call_tool("analysis_tools/plot_curves.py", log, "--names", "run", "--out", tmp_path / "a.png")
    written = (tmp_path / "a.csv").read_text().splitlines()[1:]
    assert written == ["run,coco/bbox_mAP,7,0.1", '"run, teacher",coco/bbox_mAP,7,0.5']


def test_plot_curves_refuses_bad_input(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("no json\n")
    log, out = LOGS / "student.json", tmp_path / "out.png"
    for arguments, message in (
        ([tmp_path / "absent", "--out", out], "expected a scalars.json or a work dir"),
        ([tmp_path, "--out", out], "expected a scalars.json or a work dir"),
        ([broken, "--out", out], "broken.json:1: expected one JSON object"),
        ([log, "--out", out, "--keys", "mIuO"], "no such quantity: mIuO. Logged are: "),
        ([log, "--out", out, "--names", "a", "b"], "expected 1 different names"),
        ([log, "--out", tmp_path / "out.jpg"], "ends in .png"),
        ([log, "--out", broken / "out.png"], "broken.json"),
    ):
        assert message in refused("plot_curves", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.json"]
