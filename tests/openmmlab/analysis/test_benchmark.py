"""The benchmark tools at tiny sizes; no test asserts a time."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from cankd.losses import CanBlock
from cankd.openmmlab.analysis.benchmark import in_own_process, measure, measuring, peak_extra_bytes
from cankd.openmmlab.analysis.benchmark_loss import DTYPES, build, gradients, maps, parameter_dtype, run
from cankd.openmmlab.analysis.benchmark_step import check
from tests.conftest import ROOT, relative_error
from tests.in_process import call_tool

CANKD = ROOT / "configs/demo/quickstart_cankd.py"
CROSSKD = ROOT / "configs/distill/mmdet/crosskd"
NO_RECORDERS = ["--cfg-options", "model.distiller.teacher_recorders=None"]
TEACHER = ROOT / "configs/demo/quickstart_teacher.pth"


@pytest.mark.slow
def test_memory_is_the_peak_of_one_step_in_a_new_process():
    size = 300 << 20
    found = in_own_process(peak_extra_bytes, functools.partial(torch.ones, size, dtype=torch.uint8), "cpu")
    assert abs(found - size) < 40 << 20


def test_a_measurement_that_dies_is_an_error():
    with pytest.raises(ChildProcessError, match=r"was killed \(9\), most likely for its memory"):
        in_own_process(os._exit, 9)


def test_measurements_on_a_gpu_share_an_interpreter_and_those_on_a_cpu_do_not():
    found = {}
    for device in ("cpu", "cuda"):
        with measuring(device) as call:
            found[device] = {call(os.getpid) for _ in range(2)}
    assert len(found["cpu"]) == 2 and len(found["cuda"]) == 1 and os.getpid() not in found["cuda"]


def test_quartiles_enclose_the_median_of_what_was_timed():
    calls: list = []
    result = measure(lambda: calls.append(0), "cpu", repeats=9)
    assert len(calls) == 10 and len(result["seconds"]) == 9
    assert result["median"] == np.median(result["seconds"])
    assert result["quartiles"][0] <= result["median"] <= result["quartiles"][1]


@pytest.mark.slow
def test_benchmark_loss_writes_what_it_prints(run_tool, tmp_path):
    arguments = ["--levels", "1x32x40x48", "--dtypes", "float32", "--repeats", 3, "--threads", 1]
    implementations = ["--implementations", "naive", "ours"]
    printed = run_tool("analysis_tools/benchmark_loss.py", *arguments, *implementations, "--out", tmp_path).stdout
    report = json.loads((tmp_path / "benchmark_loss.json").read_text())
    assert {"device", "torch", "commit", "command", "date", "threads"} <= set(report["machine"])
    naive, ours, floor = report["rows"]
    assert [row["implementation"] for row in report["rows"]] == ["naive", "ours", "floor"]
    assert (tmp_path / "benchmark_loss.md").read_text().strip() in printed
    assert f"| {naive['median'] / ours['median']:.2f}x" in printed and f"{ours['median'] * 1e3:.1f}" in printed
    assert ours["loss"] == pytest.approx(naive["loss"], rel=1e-5) and floor["median"] > 0
    assert ours["gradients"].keys() == naive["gradients"].keys() >= {"x", "theta.weight", "bn.weight"}
    assert imread(tmp_path / "benchmark_loss.png").shape[:2] == (504, 1152)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("kind", ["float32", "bfloat16", *["float16"] * hasattr(torch.amp, "GradScaler")])
def test_gradients_as_small_as_those_of_large_maps_are_kept(kind, device):
    """In float16 they would be zero without a scale on the loss."""
    found = []
    for each in (kind, "float64"):
        loss: Any = build("naive", 8).to(device, parameter_dtype(each))
        loss.loss_weight = 1e-4
        x, y = (part.detach().to(DTYPES[each][0]) for part in maps((2, 8, 10, 14), device, DTYPES[kind][0]))
        run(loss, x.requires_grad_(), y, each, device)
        found.append(gradients(loss, x, each))
    for name, expected in found[1].items():
        assert relative_error(found[0][name], expected) < DTYPES[kind][2], name


def test_a_wrong_loss_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(CanBlock, "_add_bias", lambda self, enhanced: enhanced * 1.001)
    done = call_tool("analysis_tools/benchmark_loss.py", "--levels", "P5", "--out", tmp_path, check=False)
    assert done.returncode == 1 and "ours, float64, (2, 8, 10, 14): got a relative difference of" in done.stdout
    assert "|" not in done.stdout and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_order_that_does_not_fit_is_left_out_and_its_memory_said(tmp_path, monkeypatch):
    monkeypatch.setattr("cankd.openmmlab.commands.benchmark_loss.available_bytes", lambda device: 10**6)
    rows = {"median": 1.0, "quartiles": [1, 1], "peak_extra_bytes": 10**6, "loss": 1.0, "gradients": {"x": 1.0}}

    def call(function, *args):
        return function(*args) if function.__name__ == "measure_rates" else dict(rows)

    measuring = contextlib.nullcontext(call)
    monkeypatch.setattr("cankd.openmmlab.commands.benchmark_loss.measuring", lambda device: measuring)
    arguments = ["--levels", "P4", "--repeats", 1, "--threads", 1, "--device", "cpu", "--out", tmp_path]
    done = call_tool("analysis_tools/benchmark_loss.py", *arguments)
    # 50 x 84 positions, a quarter of them pooled, 2 images, 3 matrices of 4 bytes.
    assert "P4 float32: the paper's order needs over 0.1 GB; not run." in done.stdout
    report = json.loads((tmp_path / "benchmark_loss.json").read_text())
    assert [row["implementation"] for row in report["rows"]] == ["linear", "ours", "floor"]
    assert report["left_out"][0]["needed_bytes"] == 3 * 2 * 4200 * 1050 * 4


@pytest.mark.slow
def test_benchmark_step_compares_every_kind_of_step(run_tool, tmp_path):
    steps = ["plain", "teacher", "published", "ours"]
    arguments = [
        "--shape",
        64,
        64,
        "--batch",
        2,
        "--threads",
        1,
        "--repeats",
        1,
        "--rounds",
        2,
        "--out",
        tmp_path,
        "--steps",
        *steps,
    ]
    done = run_tool("analysis_tools/benchmark_step.py", CANKD, *arguments, "--cfg-options", f"teacher_ckpt={TEACHER}")
    report = json.loads((tmp_path / "benchmark_step.json").read_text())
    rows = {row["step"]: row for row in report["rows"]}
    assert all(len(row["seconds"]) == 2 for row in rows.values())
    assert list(rows) == steps and f"{rows['ours']['median'] / rows['plain']['median']:.2f}x" in done.stdout
    for name, value in rows["published"]["losses"].items():
        assert rows["ours"]["losses"][name] == pytest.approx(value, rel=1e-4) and value > 0
    saved = rows["ours"]["checkpoint"]
    teacher = rows["teacher"]["weight_bytes"]
    assert saved["with teacher"]["bytes"] - saved["without"]["bytes"] == pytest.approx(teacher, rel=0.05)
    text = (tmp_path / "benchmark_step.md").read_text()
    assert text.strip() in done.stdout and "weights in a checkpoint without: " in text


def test_steps_that_are_not_the_same_are_not_printed():
    ours = {"step": "ours", "losses": {"distill.loss": 2.0}}
    check([ours, {"step": "published", "losses": {"distill.loss": 2.0001}}, {"step": "plain", "losses": {}}], "cpu")
    check([ours, {"step": "bfloat16", "losses": {"distill.loss": 2.1}}], "cpu")
    check([ours, {"step": "published", "losses": {"distill.loss": 2.01}}], "cuda")
    with pytest.raises(
        ValueError, match="published: got distillation losses that differ from those of `ours` by 5.0e-02"
    ):
        check([ours, {"step": "published", "losses": {"distill.loss": 2.1}}], "cpu")


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("benchmark_loss.py", ["--levels", "P9"], "expected one of P2, P3, P4, P5, seg, or BxCxHxW"),
        ("benchmark_loss.py", ["--levels", "2x256x100"], "expected one of P2"),
        ("benchmark_step.py", ["absent.py"], "expected an existing file"),
        ("benchmark_step.py", [ROOT / "configs/demo/quickstart_student.py"], "expected a distillation configuration"),
        ("benchmark_step.py", [CROSSKD / "crosskd_head_gfl_r101_gfl_r50_1x_coco.py"], "got a model of type CrossKD"),
        (
            "benchmark_step.py",
            [CROSSKD / "crosskd-cankd-harness_head_gfl_r101_gfl_r50_1x_coco.py"],
            "model of type CrossKD",
        ),
        ("benchmark_step.py", [CANKD, *NO_RECORDERS], "got a distiller without teacher_recorders"),
        ("benchmark_step.py", [CANKD, "--device", "cpu", "--amp"], "--amp: got --device cpu"),
    ],
    ids=str,
)
def test_bad_arguments_give_one_clear_error(tool, arguments, message):
    done = call_tool(f"analysis_tools/{tool}", *arguments, check=False)
    assert done.returncode != 0 and message in done.stdout and "Traceback" not in done.stdout
