"""The product's first command, and the small tools around a training that no other test runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import cv2
import pytest
import torch

from cankd.openmmlab.checkpoint_files import load_checkpoint_file
from tests.conftest import ROOT, free_port, relative_error, run_command
from tests.demo import options_for
from tests.in_process import call_tool
from tests.processes import processes_of, wait_until


@pytest.mark.slow
def test_the_quickstart_trains_evaluates_and_draws(run_tool, tmp_path):
    out, data = tmp_path / "out", tmp_path / "data"
    sizes = ["--iterations", 4, "--train-images", 32, "--val-images", 12, "--seed", 3]
    done = run_tool("quickstart.py", *sizes, "--out", out, "--data", data, OMP_NUM_THREADS="1")
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary) == {"teacher", "student", "cankd", "seed", "iterations", "seconds"}
    assert summary["seed"] == 3 and summary["iterations"] == 4
    assert set(summary["seconds"]) == {"student", "cankd", "all"} and min(summary["seconds"].values()) > 0
    for name in ("teacher", "student", "cankd"):
        assert set(summary[name]) == {"AP", "AP50"}
        assert f"\n{name:10}{summary[name]['AP']:6.1f}{summary[name]['AP50']:7.1f}\n" in done.stdout
    assert 30 < summary["teacher"]["AP"] < summary["teacher"]["AP50"] <= 100
    for split, count in (("train", 32), ("val", 12)):
        assert len(json.loads((data / f"annotations/{split}.json").read_text())["images"]) == count
    for name in ("boxes", "heatmaps", "curves"):
        picture = cv2.imread(str(out / f"{name}.png"))
        assert min(picture.shape[:2]) > 200 and picture.std() > 10, name
    page = (out / "report.html").read_text()
    assert f"Report: {out / 'report.html'}" in done.stdout
    assert page.count("data:image/webp") == 5  # feature maps, predictions, confusion matrices of the three models
    # Both students began with the same weights and went different ways.
    students = [out / "student/iter_4.pth", out / "cankd/iter_4_student.pth"]
    initial, alone, distilled = (
        load_checkpoint_file(file)["state_dict"]["backbone.conv1.weight"] for file in (out / "initial.pth", *students)
    )
    assert not torch.equal(alone, initial) and not torch.equal(distilled, alone)
    assert relative_error(alone, initial) < 0.1 and relative_error(distilled, initial) < 0.1


def test_the_quickstart_leaves_a_folder_of_others_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    done = call_tool("quickstart.py", "--out", tmp_path, "--data", tmp_path / "data", check=False)
    assert done.returncode != 0 and "holds files that no quickstart wrote" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_shrunk_checkpoint_has_the_weights_alone_at_half_the_size(tmp_path):
    full = {"conv.weight": torch.randn(64, 64), "bn.num_batches_tracked": torch.tensor(70000)}
    file, out = tmp_path / "full.pth", tmp_path / "new" / "small.pth"
    torch.save({"state_dict": full, "meta": {"iter": 3}, "optimizer": {"state": {0: torch.randn(64, 64)}}}, file)
    done = call_tool("model_converters/shrink_ckpt.py", file, out)
    assert f"Wrote 2 tensors, {out.stat().st_size / 1e6:.1f} MB, to {out}" in done.stdout
    small = load_checkpoint_file(out)
    assert set(small) == {"meta", "state_dict"} and small["meta"] == {}
    assert torch.equal(small["state_dict"]["conv.weight"], full["conv.weight"].half())
    assert torch.equal(small["state_dict"]["bn.num_batches_tracked"], full["bn.num_batches_tracked"])
    assert out.stat().st_size < 0.4 * file.stat().st_size


def test_shrinking_what_is_no_checkpoint_gives_one_line(tmp_path):
    (tmp_path / "text.pth").write_text("text")
    for name, message in (("none.pth", "expected an existing .pth file"), ("text.pth", "cannot be read")):
        done = call_tool("model_converters/shrink_ckpt.py", tmp_path / name, tmp_path / "out.pth", check=False)
        assert done.returncode != 0 and message in done.stdout and "Traceback" not in done.stdout
    assert not (tmp_path / "out.pth").exists()


# Runs what srun is given as the only task. Without a GPU there is no device to choose.
SRUN = """#!{python}
import json, os, runpy, sys
import torch

command = sys.argv.index({python!r})
with open({record!r}, "w") as file:
    json.dump(sys.argv[1:command], file)
os.environ.update(SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NTASKS="1", SLURM_NODELIST="localhost")
torch.cuda.set_device = lambda device: None
assert sys.argv[command + 1] == "-u"
sys.argv = sys.argv[command + 2 :]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_slurm_gets_its_options_and_trains(mini_data, tmp_path):
    srun, record, work_dir = tmp_path / "bin" / "srun", tmp_path / "options.json", tmp_path / "run"
    srun.parent.mkdir()
    srun.write_text(SRUN.format(python=sys.executable, record=str(record)))
    srun.chmod(0o755)
    options = [
        *options_for(mini_data, ROOT / "configs/demo/quickstart_teacher.pth", 2),
        "env_cfg.dist_cfg.backend=gloo",
    ]
    command = ["bash", "tools/slurm_train.sh", "short", "a-job", "configs/demo/quickstart_cankd.py", str(work_dir)]
    environment: dict[str, Any] = {
        "PATH": f"{srun.parent}:/usr/bin:/bin",
        "GPUS": "1",
        "GPUS_PER_NODE": "1",
        "SRUN_ARGS": "--time=1 --quiet",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
        "OMP_NUM_THREADS": "1",
    }
    done = run_command(*command, *options, **environment)
    assert json.loads(record.read_text()) == [
        *("-p", "short", "--job-name=a-job", "--gres=gpu:1", "--ntasks=1", "--ntasks-per-node=1"),
        *("--cpus-per-task=5", "--kill-on-bad-exit=1", "--time=1", "--quiet"),
    ]
    assert "distill.loss_fpn0" in done.stdout and "Distributed launcher: slurm" in done.stdout
    assert (work_dir / "iter_2.pth").exists()


def test_slurm_says_how_it_is_called():
    done = run_command("bash", "tools/slurm_train.sh", "short", "a-job", check=False)
    assert done.returncode == 2 and "usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR" in done.stdout


@pytest.mark.slow
def test_a_killed_quickstart_leaves_nothing_running(tmp_path):
    sizes = [*("--iterations", "1000"), *("--train-images", "32"), *("--val-images", "4")]
    command = [sys.executable, "tools/quickstart.py", "--out", str(tmp_path / "out"), "--data", str(tmp_path / "data")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *sizes], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    logs = [tmp_path / "out" / name / "console.log" for name in ("student", "cankd")]
    wait_until(lambda: all(log.is_file() and "Iter(train)" in log.read_text() for log in logs), 300)
    assert len(processes_of(tmp_path)) == 3  # the quickstart and its two trainings
    process.kill()
    process.wait()
    wait_until(lambda: not processes_of(tmp_path), 10)
