"""The environment script: what it refuses and that it repeats nothing; packaging."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cankd
from tests.conftest import ROOT, run_command


def _setup(*arguments, **env):
    # Making an environment takes minutes on a machine that is busy.
    return run_command("bash", "tools/setup_env.sh", *arguments, check=False, timeout=300, **env)


def test_a_second_call_does_nothing(tmp_path):
    # The environment that runs this test, if setup_env.sh made it.
    prefix = sys.prefix
    linked = Path(prefix, ".setup", "cankd.done")
    if not linked.exists() or linked.read_text() != str(ROOT):
        pytest.skip("the tests run in an environment that this checkout did not make, and leave it alone")
    stack = "modern" if sys.version_info >= (3, 10) and "paper" not in prefix else "paper"
    done = _setup(stack, "--dir", prefix)
    assert done.returncode == 0, done.stdout
    assert done.stdout.strip() == f"Nothing to do: {prefix} is complete."
    # What g++ says of each file if the flags of torch's compiled headers do not fit; mmcv then takes ten times as long.
    log = Path(prefix, ".setup", "mmcv.log").read_text(errors="replace")
    assert "not used because" not in log
    lines = [line for line in log.splitlines() if " -c " in line and line.lstrip().startswith("[")]
    compiled = [line for line in lines if "/nvcc " not in line]
    assert len(compiled) > 70 and all(" -O3 " in line for line in compiled)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latest"], "got 'latest'; expected modern, paper or an option"),
        (["--torch", "2.10.0"], "needs the --torchvision that belongs to it"),
        (["--torch"], "--torch needs a value"),
        (["--python", "/bin/false"], "expected an interpreter of version"),
        (["--dir", "/proc/nowhere"], "choose a writable folder with --dir"),
    ],
    ids=str,
)
def test_bad_calls_give_one_clear_line(arguments, message, tmp_path):
    if "--dir" not in arguments:
        arguments = [*arguments, "--dir", str(tmp_path / "env")]
    done = _setup(*arguments)
    assert done.returncode != 0 and message in done.stdout
    assert "Traceback" not in done.stdout


def _path_without(tmp_path, *names):
    """A PATH of links to this machine's commands, except some."""
    folder = tmp_path / "bin"
    folder.mkdir()
    commands = [
        "bash",
        "env",
        "dirname",
        "mkdir",
        "sed",
        "cksum",
        "tr",
        "cat",
        "df",
        "awk",
        "cut",
        "date",
        "grep",
        "ls",
        "rm",
    ]
    for name in commands:
        if name not in names:
            (folder / name).symlink_to(shutil.which(name))
    return str(folder)


def test_a_missing_compiler_is_named_with_its_cure(tmp_path):
    base = sys.base_prefix + "/bin/python3"
    stack = "modern" if sys.version_info >= (3, 10) else "paper"
    done = _setup(stack, "--dir", str(tmp_path / "env"), "--python", base, PATH=_path_without(tmp_path), CXX="no-c++")
    assert done.returncode != 0 and "no C++ compiler" in done.stdout and "build-essential" in done.stdout


def test_a_missing_python_is_named_with_its_cure(tmp_path):
    done = _setup("modern", "--dir", str(tmp_path / "env"), PATH=_path_without(tmp_path), HOME=str(tmp_path),
                  PYENV_ROOT=str(tmp_path))  # fmt: skip
    assert done.returncode != 0 and "no usable Python found" in done.stdout and "--python" in done.stdout


def _df_that_says(gb, folder):
    df = folder / "df"
    df.write_text(f"#!/bin/bash\necho header\necho disk 1 1 {gb * 1048576} 1% /\n")
    df.chmod(0o755)


def test_too_little_disk_space_is_said(tmp_path):
    path = _path_without(tmp_path, "df")
    _df_that_says(1, tmp_path / "bin")
    base = sys.base_prefix + "/bin/python3"
    stack = "modern" if sys.version_info >= (3, 10) else "paper"
    done = _setup(stack, "--dir", str(tmp_path / "env"), "--python", base, PATH=path, CXX="bash")
    assert done.returncode != 0 and "has 1 GB free" in done.stdout


@pytest.mark.slow
def test_an_interrupted_or_failed_step_is_resumed(tmp_path):
    _df_that_says(100, tmp_path)  # nothing large is installed here, so a full disk is no reason to stop
    base = sys.base_prefix + "/bin/python3"
    stack = "modern" if sys.version_info >= (3, 10) else "paper"
    arguments = [stack, "--dir", str(tmp_path / "env"), "--python", base]
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "",
               "PIP_RETRIES": "0", "PIP_CONFIG_FILE": "/dev/null",
               "PATH": f"{tmp_path}:{os.environ['PATH']}"}  # fmt: skip
    first = _setup(*arguments, **offline)
    assert first.returncode != 0 and "python done" in first.stdout
    assert "a download failed" in first.stdout and "step build-tools failed" in first.stdout
    second = _setup(*arguments, **offline)
    assert second.returncode != 0 and "python ..." not in second.stdout and "build-tools ..." in second.stdout


def test_pip_install_replaces_nothing(tmp_path):
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".venv*", ".git", "work_dirs", "data", "tests", "logfile")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    done = run_command(sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-build-isolation",
                       str(checkout))  # fmt: skip
    would = [line for line in done.stdout.splitlines() if line.startswith("Would install")]
    assert would == [f"Would install cankd-{cankd.__version__}"]


def test_the_package_requires_nothing_that_it_extends(tmp_path):
    run_command(sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path))
    required = (tmp_path / "cankd.egg-info" / "requires.txt").read_text().split()
    extras = ["[openmmlab]", "numpy>=1.21", "matplotlib>=3.5", "[report]", "jinja2>=3", "vl-convert-python>=1.7"]
    assert required == extras


def _requirements(file):
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return {canonicalize_name(found.name): found for found in map(Requirement, filter(None, lines))}


def test_requirements_name_what_is_extended_in_ranges_around_what_is_tested():
    requirements, pins = _requirements("requirements.txt"), _requirements("requirements/modern.txt")
    extended = ["mmcv", "mmengine", "mmdetection", "mmsegmentation", "mmpretrain"]
    assert {f"onedl-{name}" for name in extended} | {"mmrazor"} <= set(requirements)
    assert not {"torch", "torchvision"} & set(requirements)
    for name, requirement in requirements.items():
        (pin,) = pins[name].specifier
        assert requirement.specifier.contains(pin.version), name
    # DINO's published weights do not fit the next release.
    assert not requirements["onedl-mmdetection"].specifier.contains("3.4.6")
