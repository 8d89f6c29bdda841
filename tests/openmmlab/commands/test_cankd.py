"""The command ``cankd``, and the scripts in tools/ that call the same functions."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hub import get_config

from cankd.__main__ import COMMANDS, main, module_of
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.models import stock_model
from tests.conftest import ROOT, run_command
from tests.demo import CANKD, STUDENT

PRINTS_WHAT_WAS_IMPORTED = """
import sys
from cankd.__main__ import main
main(["--help"])
print([name for name in sys.modules if name.startswith(("torch", "mm", "cankd.openmmlab"))])
"""


def test_the_list_of_commands_needs_no_library():
    printed = run_command(sys.executable, "-c", PRINTS_WHAT_WAS_IMPORTED).stdout.splitlines()
    assert printed[0] == "usage: cankd COMMAND ..." and printed[-1] == "[]"
    assert [line.split()[0] for line in printed if line.startswith("  ")] == list(COMMANDS)


def test_no_command_at_all_prints_the_list(capsys):
    main([])
    assert "  train " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trian", "cankd: got the command 'trian', expected one like train"),
        ("zzz", "cankd: got the command 'zzz', expected one that `cankd --help` lists."),
    ],
)
def test_an_unknown_command_is_refused_with_the_nearest_names(name, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name])
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and printed.startswith(message) and printed.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_takes(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cankd"])
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and printed.startswith(f"usage: cankd {name} ")
    assert "python tools/" not in printed


def _called(script: Path) -> tuple[str, str]:
    """The module and the function that a script in tools/ imports and calls."""
    imported, guard = ast.parse(script.read_text()).body[1:]
    assert isinstance(imported, ast.ImportFrom) and isinstance(guard, ast.If) and imported.module
    (call,) = guard.body
    assert isinstance(call, ast.Expr) and isinstance(call.value, ast.Call) and not call.value.args
    assert isinstance(call.value.func, ast.Name) and call.value.func.id == imported.names[0].name
    return imported.module, imported.names[0].name


def test_every_script_in_tools_is_a_command():
    """But for the one that writes the tables of this repository, which a wheel has no use for."""
    scripts = {*(ROOT / "tools").rglob("*.py")} - {*(ROOT / "tools").glob("visualizations/vis_configs/*")}
    scripts -= {ROOT / "tools" / name for name in ("make_tables.py",)}
    commands = {(module_of(name), function) for name, (_, function, _) in COMMANDS.items()}
    assert {_called(script) for script in scripts} <= commands
    assert all(callable(getattr(importlib.import_module(module), function)) for module, function in commands)


def test_a_configuration_inherits_from_cankds_by_the_packages_name(tmp_path, monkeypatch):
    """From any folder, and without a scope of that name, in which no data set would be found."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text('_base_ = "cankd::demo/quickstart_cankd.py"\nmodel = dict(teacher_ckpt=None)\n')
    cfg, expected = Config.fromfile("mine.py"), Config.fromfile(CANKD)
    assert "_scope_='cankd'" not in cfg.pretty_text
    expected.model.teacher_ckpt = None
    assert cfg.to_dict() == expected.to_dict()


def test_a_command_takes_the_configuration_of_a_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = "distill/mmdet/cankd/cankd_fpn_retinanet_x101_retinanet_r50_2x_coco.py"
    assert read_config(f"cankd::{recipe}").model.to_dict() == read_config(ROOT / "configs" / recipe).model.to_dict()
    stock = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
    assert read_config(stock).model == get_config(stock).model
    for name, message in (("cankd::absent.py", "expected an existing file"), ("nobody::a/b.py", "does not support")):
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            read_config(name)


def test_a_stock_model_is_found_by_the_packages_name():
    own, named = stock_model(str(STUDENT)), stock_model("cankd::demo/quickstart_student.py")
    assert str(own) == str(named)


@pytest.mark.slow
def test_python_m_cankd_runs_a_command(tmp_path):
    command = [sys.executable, "-m", "cankd", "train", str(tmp_path / "absent.py")]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 1 and done.stdout.strip().endswith(
        "absent.py, expected an existing file. Check the path."
    )
