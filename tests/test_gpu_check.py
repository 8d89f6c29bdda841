"""The check on a GPU: its commands, its time, and how it reports what fails."""

from __future__ import annotations

import json

import pytest

from cankd.openmmlab.analysis.benchmark_step import check_config
from cankd.openmmlab.commands import benchmark_loss, benchmark_step, quickstart
from cankd.openmmlab.configs import read_config
from tests.conftest import ROOT, run_python
from tests.gpu_check import STEP, Part, check, make_parts, read_tests

PARSERS = {"benchmark_loss": benchmark_loss, "benchmark_step": benchmark_step, "quickstart": quickstart}


@pytest.mark.parametrize("device", ["cpu", "cuda"], ids=str)
def test_commands_are_valid_and_fit_into_nine_minutes(device, tmp_path):
    parts = make_parts(tmp_path, device)
    assert sum(part.limit for part in parts) <= 530  # which leaves ten seconds for the rest
    for part in parts:
        if part.arguments[0] != "-m":
            tool, *arguments = part.arguments
            assert (ROOT / tool).exists()
            PARSERS[tool.split("/")[-1][: -len(".py")]].parse_args(arguments)
    check_config(read_config(STEP))


TESTS = "def test_good():\n    pass\n\n\ndef test_bad():\n    assert False\n"
ENDLESS = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"


def test_a_part_that_fails_is_reported_and_the_others_run(tmp_path):
    out = tmp_path / "out"
    told: list[str] = []
    (tmp_path / "test_two.py").write_text(TESTS)
    junit = f"--junitxml={out}/tests/junit.xml"
    parts = [
        Part("endless", 1, ["-c", ENDLESS], lambda folder: (folder / "absent.md").read_text()),
        Part("tests", 60, ["-m", "pytest", "-p", "no:cacheprovider", junit, str(tmp_path)], read_tests),
        Part("good", 60, ["-c", "print('done')"], lambda folder: folder.with_suffix(".log").read_text()),
    ]
    assert not check(parts, out, "cpu", told.append)
    report = json.loads((out / "gpu_check.json").read_text())
    outcomes = {name: part["outcome"] for name, part in report["parts"].items()}
    assert outcomes == {"tests": "failed with status 1", "endless": "stopped after 1 s", "good": "passed"}
    results = {name: part["results"] for name, part in report["parts"].items()}
    assert "1 passed, 1 failed, 0 skipped" in results["tests"] and "test_two::test_bad" in results["tests"]
    assert "No results" in results["endless"] and results["good"] == "done\n"
    assert {"device", "torch", "commit"} <= set(report["machine"]) and "mmdet" in report["versions"]
    text = (out / "gpu_check.md").read_text()
    assert "Rehearsal on a CPU" in text and "| stopped after 1 s" in text and "NCCL needs two GPUs" in text
    assert len(told) == 7
    assert check(parts[2:], tmp_path / "again", "cpu", told.append)


def test_a_folder_with_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    done = run_python("-m", "tests.gpu_check", tmp_path, "--device", "cpu", check=False)
    assert done.returncode == 1 and "expected a new or an empty folder" in done.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
