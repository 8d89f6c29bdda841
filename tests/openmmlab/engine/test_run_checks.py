"""Tests which runs are refused, warned of or accepted; each run is a real one on generated scenes."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cankd.openmmlab.checkpoint_files import load_checkpoint_file
from cankd.openmmlab.engine.run_checks import _caller, check_classes, datasets_in, not_loaded
from cankd.openmmlab.maps import weightless
from cankd.openmmlab.models import stock_model
from cankd.openmmlab.own_data import categories_of
from tests.conftest import free_port, run_command
from tests.demo import DATA, DEMO, TEACHER_CKPT
from tests.in_process import call_tool

POISON = """
custom_imports = dict(imports=['cankd.openmmlab', 'tests.recording'])
custom_hooks = [dict(type='PoisonHook', at=1)]
train_cfg = dict(max_iters=3, val_interval=9)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=-1))
"""


@pytest.fixture()
def train(mini_data, tmp_path):
    """Trains the quickstart's pair with further configuration, and returns the finished process."""

    def run(more: str = "", *options: str, check: bool = True):
        base, config = tmp_path / "base.py", tmp_path / "config.py"
        base.write_text(f"_base_ = ['{DEMO}/quickstart_cankd.py']\n{DATA.format(data=mini_data)}")
        config.write_text(f"_base_ = ['{base}']\n{more}")
        arguments = ["--cfg-options", *options] if options else []
        return call_tool("train.py", config, "--work-dir", tmp_path / "run", *arguments, check=check)

    return run


@pytest.mark.slow
def test_what_the_losses_do_not_read_may_be_missing(train, tmp_path):
    teacher = load_checkpoint_file(TEACHER_CKPT)["state_dict"]
    headless = {name: value for name, value in teacher.items() if not name.startswith("bbox_head")}
    torch.save(headless, tmp_path / "headless.pth")
    printed = train("", f"teacher_ckpt={tmp_path}/headless.pth").stdout
    assert "12 tensors of the teacher are not those of" in printed and "bbox_head.cls_convs.0.conv.weight" in printed
    del headless["neck.fpn_convs.3.conv.bias"]
    torch.save(headless, tmp_path / "headless.pth")
    printed = train("", f"teacher_ckpt={tmp_path}/headless.pth", check=False).stdout
    assert "1 tensors that the distillation needs are missing or do not fit the teacher: neck.fpn_convs.3" in printed


@pytest.mark.slow
def test_an_untrained_teacher_and_other_ways_to_load_one_pass(train, tmp_path):
    assert "208 tensors" in train("", "teacher_ckpt=None", "allow_untrained_teacher=True").stdout
    assert "tensors of the teacher are not" in train("", "teacher_ckpt=None", check=False).stdout
    pretrained = f"dict(init_cfg=dict(type='Pretrained', checkpoint='{TEACHER_CKPT}'))"
    assert "tensors of the teacher" not in train(f"model = dict(teacher={pretrained}, teacher_ckpt=None)").stdout
    whole = {f"teacher.{name}": value for name, value in load_checkpoint_file(TEACHER_CKPT)["state_dict"].items()}
    torch.save({"state_dict": whole}, tmp_path / "whole.pth")
    assert "tensors of the teacher" not in train("", "teacher_ckpt=None", f"load_from={tmp_path}/whole.pth").stdout


def test_a_tensor_that_was_renamed_while_it_was_loaded_counts_as_loaded(tmp_path):
    model, file = nn.Linear(3, 2), str(tmp_path / "old.pth")
    torch.save({"module.old_name": model.weight.detach().clone(), "module.bias": model.bias.detach().clone()}, file)
    assert not_loaded(model, file) == []
    nn.init.ones_(model.weight)
    assert not_loaded(model, file) == ["weight"]


def test_torchs_attention_uses_the_weights_of_its_parts_itself():
    model = nn.Sequential(nn.MultiheadAttention(8, 2), nn.Linear(8, 8))
    assert _caller(model, "0.out_proj") is model[0] and _caller(model, "1") is model[1] and _caller(model, "") is model


def test_the_categories_of_a_file_are_found_wherever_they_stand(tmp_path):
    file, names = tmp_path / "a.json", ["köter", "cat[0]"]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    for parts in ({"categories": categories, "images": [{"id": 1}]}, {"images": [], "categories": categories}):
        file.write_text(json.dumps(parts), encoding="utf-8")
        assert categories_of(str(file)) == names
    for text in ('{"images": []}', '{"categories": 3}', '{"categories": ["a"]}', '{"categories": ['):
        file.write_text(text)
        assert categories_of(str(file)) == []


def test_a_head_that_tells_boundaries_has_classes_of_its_own():
    with weightless():
        student = stock_model("mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py", backbone=dict(init_cfg=None))
    data = SimpleNamespace(metainfo=dict(classes=[f"class{number}" for number in range(19)]))
    check_classes(student, data, "train")
    student.auxiliary_head[0].num_classes = 18
    with pytest.raises(ValueError, match="auxiliary_head.0: got num_classes=18, expected 19, the classes"):
        check_classes(student, data, "train")


def test_data_sets_are_found_inside_their_wrappers():
    class Data:
        metainfo: dict = {}

    class Wrapper:
        def __init__(self, **parts):
            vars(self).update(parts)

    first, second = Data(), Data()
    assert list(datasets_in(Wrapper(dataset=Wrapper(datasets=[first, Wrapper(dataset=second)])))) == [first, second]


RENAMED = {
    "one more": (
        lambda names: [*names, "extra"],
        "objects of extra are left out",
    ),
    "the last absent": (lambda names: names[:-1], "has no category 9, which the configuration's classes name."),
    "another order": (
        lambda names: names[::-1],
        "labels follow the file, so pictures and tables would name them wrongly",
    ),
    "one in the middle renamed": (
        lambda names: ["three" if name == "3" else name for name in names],
        "would be shifted",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", RENAMED)
def test_categories_and_classes_that_differ(change, train, mini_data, tmp_path):
    rename, message = RENAMED[change]
    annotations = json.loads((mini_data / "annotations/train.json").read_text())
    names = rename([category["name"] for category in annotations["categories"]])
    annotations["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    annotations["annotations"] = [a for a in annotations["annotations"] if a["category_id"] <= len(names)]
    (tmp_path / "train.json").write_text(json.dumps(annotations))
    done = train(f"train_dataloader = dict(dataset=dict(ann_file='{tmp_path}/train.json'))", check=False)
    assert message in done.stdout and ("Error" in done.stdout) is False
    assert done.returncode == (message == "would be shifted")


@pytest.mark.slow
def test_the_first_loss_that_is_not_finite_stops_the_run(train, tmp_path):
    done = train(POISON, check=False)
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 1 and "loss at iteration 2: got distill.loss_fpn0=nan, expected a finite number" in last
    saved = load_checkpoint_file(tmp_path / "run" / "non_finite_iter_2_rank0.pth")
    assert saved["losses"]["distill.loss_fpn0"] != saved["losses"]["distill.loss_fpn0"]
    assert saved["losses"]["distill.loss_fpn1"] > 0 and saved["meta"] == {"iter": 1, "epoch": 0}
    assert len(saved["images"]) == 2 and all(image in last for image in saved["images"])
    assert [tuple(image.shape) for image in saved["inputs"]] == [(3, 96, 96)] * 2
    before = load_checkpoint_file(tmp_path / "run" / "iter_1.pth")["state_dict"]
    assert not any(name.startswith("teacher.") for name in saved["state_dict"])
    weights = [name for name in saved["state_dict"] if name.endswith("weight")]
    assert weights and all(torch.equal(saved["state_dict"][name], before[name]) for name in weights)
    assert not (tmp_path / "run" / "iter_2.pth").exists()


@pytest.mark.slow
def test_a_step_whose_loss_is_not_finite_can_be_left_out(train, tmp_path):
    printed = train(POISON, "default_hooks.finite_loss.skip=True").stdout
    assert "loss at iteration 2: got distill.loss_fpn0=nan" in printed and "The step is left out." in printed
    first, second, third = (load_checkpoint_file(tmp_path / "run" / f"iter_{i}.pth")["state_dict"] for i in (1, 2, 3))
    trained = [name for name in first if name.startswith("architecture.neck") and name.endswith("weight")]
    assert trained and all(torch.equal(first[name], second[name]) for name in trained)
    assert not any(torch.equal(second[name], third[name]) for name in trained)


@pytest.mark.slow
def test_two_processes_leave_the_same_step_out(mini_data, tmp_path):
    config = tmp_path / "config.py"
    poison = POISON.replace("at=1", "at=1, rank=1")
    config.write_text(f"_base_ = ['{DEMO}/quickstart_cankd.py']\n{DATA.format(data=mini_data)}{poison}")
    command = ["bash", "tools/dist_train.sh", str(config), "2", "--work-dir", str(tmp_path / "run"), "--cfg-options"]
    done = run_command(*command, "default_hooks.finite_loss.skip=True", PYTHON=sys.executable, PORT=free_port())
    assert done.stdout.count("Saving checkpoint at") == 3
    first, second, third = (load_checkpoint_file(tmp_path / "run" / f"iter_{i}.pth")["state_dict"] for i in (1, 2, 3))
    name = "architecture.neck.fpn_convs.0.conv.weight"
    assert torch.equal(first[name], second[name]) and not torch.equal(second[name], third[name])


@pytest.mark.slow
def test_a_hook_of_ours_can_be_left_out(train):
    assert train("default_hooks = dict(run_checks=None)", "teacher_ckpt=None").returncode == 0
