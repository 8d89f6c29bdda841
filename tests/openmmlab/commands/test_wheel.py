"""What `pip install` of the wheel gives beside an OpenMMLab stack: everything works in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Callable

import pytest

from cankd.__main__ import COMMANDS
from tests.conftest import ROOT
from tests.demo import options_for

pytestmark = pytest.mark.slow
RECIPES = sorted(file.relative_to(ROOT / "configs").as_posix() for file in (ROOT / "configs/distill").rglob("*.py"))
READS = """
import cankd
from mmengine.config import Config
from cankd.openmmlab.compat import configs_folder
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.visualization.features import read_vis_config

base = Config.fromfile("mine.py")
print(cankd.__file__, configs_folder(), base.model.type)
print(len(read_vis_config("cankd::vis/fpn_feature_visualization.py", ["recorders"]).mappings))
for recipe in {recipes}:
    print(recipe, "'_scope_': 'cankd'" in str(read_config("cankd::" + recipe).to_dict()))
"""


def run(*command: object, cwd: Path) -> str:
    """Runs a command that finds no checkout, and returns what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.fixture(scope="module")
def binaries(tmp_path_factory) -> Path:
    """The commands of a new environment: this one's libraries without the checkout, and the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("cankd", "configs"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "README.md"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    run(*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder, "./source", cwd=folder)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    libraries = Path(sysconfig.get_paths()["purelib"])
    # All but the file that puts the checkout on the path.
    others = [file.name for file in libraries.glob("*.pth") if file.name != "cankd-checkout.pth"]
    lines = [str(libraries), *(f"import site; site.addpackage({str(libraries)!r}, {name!r}, None)" for name in others)]
    (packages / "libraries.pth").write_text("\n".join(lines))
    (wheel,) = folder.glob("*.whl")
    run(*pip, "--python", folder / "venv/bin/python", "install", *offline, wheel, cwd=folder)
    return folder / "venv/bin"


@pytest.fixture
def cankd(binaries, tmp_path) -> Callable[..., str]:
    """Runs the installed command in an empty folder."""
    return lambda *arguments: run(binaries / "cankd", *arguments, cwd=tmp_path)


def test_the_command_is_installed(cankd):
    assert [line.split()[0] for line in cankd("--help").splitlines() if line.startswith("  ")] == list(COMMANDS)


def _files(folder: Path) -> set[Path]:
    files = {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
    return {file for file in files if file.parent.name != "__pycache__"}


def test_every_configuration_is_found_by_its_name(binaries, tmp_path):
    (tmp_path / "mine.py").write_text('_base_ = "cankd::_base_/fpn.py"\n')
    printed = run(binaries / "python", "-W", "ignore", "-c", READS.format(recipes=RECIPES), cwd=tmp_path).splitlines()
    package, configs = map(Path, printed[0].split()[:2])
    assert binaries.parent in package.parents and configs == package.parent / ".mim/configs"
    weights = {Path("study", file) for file in _files(ROOT / "configs/study") if file.suffix == ".pth"}
    assert weights and _files(configs) == _files(ROOT / "configs") - weights
    assert printed[0].endswith("Distill") and printed[1:] == ["4", *(f"{recipe} False" for recipe in RECIPES)]


def test_the_quickstarts_pair_is_distilled_in_an_empty_folder(cankd, tmp_path):
    cankd("make-quickstart-data", "--out", "data", "--train", 8, "--val", 4)
    options = [option for option in options_for(Path("data"), Path(), 3) if not option.startswith("teacher_ckpt=")]
    printed = cankd("train", "cankd::demo/quickstart_cankd.py", "--work-dir", "run", *options)
    assert "distill.loss_fpn0" in printed
    assert "Wrote" in cankd("convert", "run/iter_3.pth") and (tmp_path / "run/iter_3_student.pth").is_file()
    assert "Wrote report.html" in cankd("report", "run", "--images", 0) and (tmp_path / "report.html").is_file()
