from __future__ import annotations

import re

import pytest
import torch
from mmrazor.models.task_modules import RecorderManager

from cankd.openmmlab.configs import read_config
from cankd.openmmlab.inference import noise_batch
from cankd.openmmlab.loading import build_model
from tests.conftest import ROOT
from tests.in_process import call_tool

CANKD = ROOT / "configs/demo/quickstart_cankd.py"
LINE = re.compile(r"(\S+)(?: record_idx=(\d+))?(?: data_idx=(\d+))?((?:\[\d+\])*)  +(.*)")


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(" x "))


@pytest.mark.slow
def test_the_shapes_are_those_that_recorders_record(run_tool):
    printed = run_tool("list_modules.py", CANKD, "--input-shape", 64, 96).stdout
    table = printed.split("\n\n")[0].splitlines()
    table = table[[line.split()[0] for line in table].index("module") + 1 :]
    cfg = read_config(CANKD)
    lines = [match.groups() for match in map(LINE.match, table) if match]
    assert len(lines) == len(table) > 100
    seen = set()
    for column, role in enumerate(("student", "teacher")):
        model = build_model(cfg, role)
        names = [name for name, _ in model.named_modules() if name]
        recorders = {name: dict(_scope_="mmrazor", type="ModuleOutputs", source=name) for name in names}
        manager = RecorderManager(recorders)
        manager.initialize(model)
        with torch.no_grad(), manager:
            model.test_step(noise_batch(cfg, (64, 96)))
        listed = set()
        for name, record_idx, data_idx, deeper, rest in lines:
            cells = [cell for cell in re.split(r"  +", rest)]
            text = cells[column] if len(cells) > column else ""
            if name not in names or not text:
                continue
            listed.add(name)
            buffer = manager.get_recorder(name).data_buffer
            if text == "-":
                assert not any(isinstance(record, torch.Tensor) for record in buffer), name
                continue
            record = manager.get_recorder(name).get_record_data(int(record_idx or 0), data_idx and int(data_idx))
            for place in re.findall(r"\d+", deeper):
                record = record[int(place)]
            assert tuple(record.shape) == _shape(text), (role, name)
            seen.add(name)
        if role == "student":
            assert listed == set(names)
    assert {"neck", "backbone.layer4.1.conv2", "bbox_head.retina_cls"} < seen


def test_pairs_that_match_are_marked():
    printed = call_tool("list_modules.py", CANKD, "--input-shape", 96, 96, "--depth", 2).stdout
    rows = {re.split(r"  +", line)[0]: re.split(r"  +", line)[-1] for line in printed.splitlines()}
    assert rows["neck data_idx=3"] == "fits" and rows["backbone.layer2"] == "connector"
    assert "backbone.layer1.0" not in rows and "Other modules" not in printed


def test_a_level_shifted_pyramid_finds_its_partners(tmp_path):
    config = tmp_path / "shifted.py"
    neck = "dict(in_channels=[16, 32, 64, 128], start_level=1, num_outs=4, add_extra_convs='on_input')"
    config.write_text(f"_base_ = ['{CANKD}']\nmodel = dict(architecture=dict(neck={neck}))\n")
    printed = call_tool("list_modules.py", config, "--input-shape", 96, 96, "--depth", 1).stdout
    assert re.search(r"neck data_idx=0  +1 x 64 x 12 x 12  +1 x 64 x 24 x 24  +align", printed)
    assert re.search(r"neck data_idx=0  +1 x 64 x 12 x 12  +neck data_idx=1 \(fits\)", printed)


def test_bad_input_gives_one_clear_error(tmp_path):
    empty = tmp_path / "empty.py"
    empty.write_text("a = 1\n")
    for arguments, message in (
        ([tmp_path / "absent.py"], "expected an existing file"),
        ([empty], "has no `model`"),
        ([CANKD, "--depth", 0], "expected at least 1"),
    ):
        done = call_tool("list_modules.py", *arguments, check=False)
        assert done.returncode != 0 and message in done.stdout and "Traceback" not in done.stdout
