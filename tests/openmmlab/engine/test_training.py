"""Real runs through the command line tools, on a few generated images."""

from __future__ import annotations

import math
import pickle
import sys
from pathlib import Path

import pytest
import torch

from cankd.openmmlab.checkpoint_files import load_checkpoint_file
from cankd.openmmlab.models import stock_model
from tests.conftest import ROOT, free_port, relative_error, run_command, run_python
from tests.demo import CANKD, STUDENT, TEACHER, options_for, records_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def teacher_ckpt(tmp_path_factory) -> Path:
    """A teacher with random weights, as a file."""
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    teacher = stock_model(str(TEACHER))
    teacher.init_weights()
    torch.save({"state_dict": teacher.state_dict(), "meta": {}}, file)
    return file


@pytest.fixture(scope="session")
def distilled(tmp_path_factory, mini_data, teacher_ckpt, run_tool) -> Path:
    """The work dir of a run of three iterations, validation and a checkpoint."""
    work_dir = tmp_path_factory.mktemp("run") / "cankd"
    config = work_dir.parent / "recorded.py"
    config.write_text(
        f"_base_ = ['{CANKD}']\n"
        "custom_imports = dict(imports=['cankd.openmmlab', 'tests.recording'])\n"
        "custom_hooks = [dict(type='RecordingHook')]\n"
    )
    run_tool("train.py", config, "--work-dir", work_dir, *options_for(mini_data, teacher_ckpt))
    return work_dir


def test_losses_are_finite_and_gradients_reach_every_part(distilled):
    records = records_of(distilled)
    assert len(records) == 3
    for record in records:
        assert {f"distill.loss_fpn{level}" for level in range(4)} < set(record["losses"])
        assert all(math.isfinite(value) for value in record["losses"].values())
    first, last = records[0]["gradients"], records[-1]["gradients"]
    assert "teacher" not in first
    for level in range(4):
        block = f"distiller.distill_losses.loss_fpn{level}.block."
        # At its start only the block's batch norm has a gradient, one step later all of it has.
        assert first[block + "theta.weight"] == 0 < first[block + "bn.weight"]
        for name in ("theta.weight", "phi.weight", "g.weight", "w_z.weight"):
            assert last[block + name] > 1e-6 * last["architecture"], name


def test_the_teacher_stays_as_it_was(distilled, teacher_ckpt):
    trained = load_checkpoint_file(distilled / "iter_3.pth")["state_dict"]
    for name, value in load_checkpoint_file(teacher_ckpt)["state_dict"].items():
        assert torch.equal(trained[f"teacher.{name}"], value), name


def test_the_converted_student_predicts_what_the_distilled_one_did(
    distilled, mini_data, teacher_ckpt, run_tool, tmp_path
):
    checkpoint = distilled / "iter_3.pth"
    run_tool("model_converters/convert_kd_ckpt_to_student.py", checkpoint, "--out-path", tmp_path)
    student = tmp_path / "iter_3_student.pth"
    model = stock_model(str(STUDENT))
    model.load_state_dict(load_checkpoint_file(student)["state_dict"], strict=True)

    options = options_for(mini_data, teacher_ckpt)
    options = [option for option in options if not option.startswith("teacher_ckpt")]
    outputs = []
    for name, config, file, extra in (
        ("inside", CANKD, checkpoint, [f"teacher_ckpt={teacher_ckpt}", "model.architecture.test_cfg.score_thr=0.0"]),
        ("alone", STUDENT, student, ["model.test_cfg.score_thr=0.0"]),
        ("converted", CANKD, student, ["model.architecture.test_cfg.score_thr=0.0"]),
        ("taken out", STUDENT, checkpoint, ["model.test_cfg.score_thr=0.0"]),
    ):
        out = tmp_path / name / "predictions.pkl"
        run_tool("test.py", config, file, "--work-dir", out.parent, "--out", out, *options, *extra)
        outputs.append(_predictions(out))
    assert len(outputs[0]) == 8
    for inside, *others in zip(*outputs):
        assert len(inside["scores"]) > 0
        for other in others:
            assert all(torch.equal(inside[key], other[key]) for key in ("bboxes", "scores", "labels"))


def _predictions(file: Path) -> list[dict]:
    with file.open("rb") as stream:
        return [sample["pred_instances"] for sample in pickle.load(stream)]


def test_two_processes_evaluate_like_one(distilled, mini_data, teacher_ckpt, tmp_path):
    options = options_for(mini_data, teacher_ckpt)
    found = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.pkl"
        command = ["bash", "tools/dist_test.sh", str(CANKD), str(distilled / "iter_3.pth"), str(processes)]
        command += ["--work-dir", str(tmp_path / str(processes)), "--out", str(out), *options]
        run_command(*command, "model.architecture.test_cfg.score_thr=0.0", PORT=free_port(), OMP_NUM_THREADS="1")
        found.append(_predictions(out))
    assert len(found[0]) == len(found[1]) == 8
    for one, two in zip(*found):
        assert torch.allclose(one["scores"], two["scores"], atol=1e-6)


def test_a_run_resumes(distilled, mini_data, teacher_ckpt, run_tool):
    config = distilled.parent / "recorded.py"
    done = run_tool(
        "train.py", config, "--work-dir", distilled, "--resume", *options_for(mini_data, teacher_ckpt, iterations=5)
    )
    assert "resumed epoch: 0, iter: 3" in done.stdout
    assert len(records_of(distilled)) == 5 and (distilled / "iter_5.pth").exists()


def test_converter_refuses_what_is_no_distillation_checkpoint(teacher_ckpt, run_tool, tmp_path):
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not a checkpoint")
    for file, message in (
        (teacher_ckpt, "not a distillation checkpoint"),
        (tmp_path / "absent.pth", "expected an existing .pth file"),
        (broken, "cannot be read as a checkpoint"),
    ):
        done = run_tool("model_converters/convert_kd_ckpt_to_student.py", file, check=False)
        assert done.returncode == 1 and message in done.stdout and "Traceback" not in done.stdout
    assert not list(tmp_path.glob("*_student.pth"))


def test_converter_cuts_the_prefix_only_where_it_is_the_prefix(run_tool, tmp_path):
    file = tmp_path / "run.pth"
    state = {"architecture.head.architecture.weight": torch.ones(1), "teacher.head.weight": torch.zeros(1)}
    torch.save({"state_dict": state, "meta": {"epoch": 3}}, file)
    run_tool("model_converters/convert_kd_ckpt_to_student.py", file, "--inplace")
    assert load_checkpoint_file(file) == {"meta": {"epoch": 3}, "state_dict": {"head.architecture.weight": 1}}
    assert [path.name for path in tmp_path.iterdir()] == ["run.pth"]


DISTRIBUTED = """
_base_ = ['{root}/configs/demo/quickstart_cankd.py']
custom_imports = dict(imports=['cankd.openmmlab', 'tests.recording'])
custom_hooks = [dict(type='RecordingHook')]
allow_untrained_teacher = True
# FCOS averages its normalisers over the processes, which RetinaNet does not. The student's batch
# norms are frozen; the distilled model and its teacher share architecture and random weights.
fcos = dict(
    type='StockModel', cfg='mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    backbone=dict(depth=18, base_channels=8, init_cfg=None, norm_cfg=dict(type='{norm}'), norm_eval={norm_eval}),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=64, num_outs=4),
    bbox_head=dict(num_classes=10, in_channels=64, feat_channels=32, strides=[8, 16, 32, 64],
                   regress_ranges=((-1, 16), (16, 32), (32, 64), (64, 1e8))))
model = dict(architecture=dict(_delete_=True, **fcos), teacher=dict(_delete_=True, **fcos), teacher_ckpt=None)
fcos = None
train_dataloader = dict(batch_size={batch}, sampler=dict(shuffle=False))
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
param_scheduler = []
randomness = dict(seed=3)
"""


def _distributed_run(
    work_dir: Path, data: Path, processes: int, batch: int, norm="BN", norm_eval=True, iterations=1, extra=(), **env
):
    """Runs the configuration above, in several processes through dist_train.sh; returns what it printed."""
    config = work_dir.with_suffix(".py")
    config.write_text(DISTRIBUTED.format(root=ROOT, batch=batch, norm=norm, norm_eval=norm_eval))
    own = ("teacher_ckpt", "train_dataloader.batch_size")
    options = [option for option in options_for(data, Path(), iterations) if not option.startswith(own)]
    arguments = ["--work-dir", str(work_dir), *options, *extra]
    if processes == 1 and not env:
        return run_python("tools/train.py", config, *arguments, OMP_NUM_THREADS="1")
    command = ["bash", "tools/dist_train.sh", str(config), str(processes)]
    if processes == 1:
        command = [sys.executable, "tools/train.py", str(config)]
    return run_command(*command, *arguments, PORT=free_port(), OMP_NUM_THREADS="1", **env)


def test_two_processes_equal_one_with_the_doubled_batch(mini_data, tmp_path, device):
    one, two, still = (tmp_path / name for name in ("one", "two", "still"))
    env = {}
    if device == "cuda":  # with NCCL and without TF32 on two GPUs; a single one is hidden, and gloo used
        env = {"NVIDIA_TF32_OVERRIDE": "0"} if torch.cuda.device_count() > 1 else {"CUDA_VISIBLE_DEVICES": ""}
    _distributed_run(one, mini_data, processes=1, batch=4, **env)
    _distributed_run(two, mini_data, processes=2, batch=2, **env)
    # The initial weights: the same run with learning rate 0.
    _distributed_run(still, mini_data, processes=1, batch=4, extra=["optim_wrapper.optimizer.lr=0.0"], **env)
    single = records_of(one)[0]["losses"]
    ranks = [records_of(two, rank)[0]["losses"] for rank in (0, 1)]
    assert ranks[0]["distill.loss_fpn0"] != ranks[1]["distill.loss_fpn0"]
    assert len([name for name in single if "loss" in name]) == 8
    for name, value in single.items():
        if "loss" in name:
            assert abs((ranks[0][name] + ranks[1][name]) / 2 - value) < 1e-5 * abs(value), name
    *states, start = (load_checkpoint_file(run / "iter_1.pth")["state_dict"] for run in (one, two, still))
    # The batch norm inside the loss takes each process's own statistics, as published.
    names = [name for name, value in start.items() if name.startswith("architecture") and value.is_floating_point()]
    steps = [{name: state[name].double() - start[name].double() for name in names} for state in states]
    largest = max(step.norm().item() for step in steps[0].values())
    assert sum(step.norm() > 1e-3 * largest for step in steps[0].values()) > 30
    for name in names:
        # Steps that are rounding beside the largest one are compared in absolute terms.
        assert relative_error(steps[1][name], steps[0][name], floor=1e-2 * largest) < 1e-3, name


def test_sync_bn_becomes_bn_on_cpus(mini_data, tmp_path):
    work_dir = tmp_path / "sync"
    done = _distributed_run(work_dir, mini_data, processes=2, batch=2, norm="SyncBN", norm_eval=False, iterations=2)
    assert "SyncBN needs GPUs: it is replaced by BN" in done.stdout
    assert (work_dir / "iter_2.pth").exists()


def test_bad_configurations_give_one_clear_error(run_tool, tmp_path):
    done = run_tool("train.py", tmp_path / "absent.py", check=False)
    assert done.returncode != 0 and "expected an existing file" in done.stdout
    done = run_tool("test.py", CANKD, tmp_path / "absent.pth", check=False)
    assert done.returncode != 0 and "expected an existing .pth file" in done.stdout


def test_weights_of_another_model_are_not_evaluated(mini_data, teacher_ckpt, run_tool, tmp_path):
    options = options_for(mini_data, teacher_ckpt)  # a model without a teacher has no use for the first
    done = run_tool("test.py", STUDENT, teacher_ckpt, "--work-dir", tmp_path, *options, check=False)
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode != 0 and "teacher.pth does not fit the model of" in last and "size mismatch" in last


def test_pretrained_weights_that_cannot_be_fetched_are_named(mini_data, run_tool, tmp_path):
    url = "http://127.0.0.1:9/pretrained.pth"
    own = ["model.init_cfg.type=Pretrained", f"model.init_cfg.checkpoint={url}"]
    options = [*options_for(mini_data, Path()), *own]
    done = run_tool("train.py", STUDENT, "--work-dir", tmp_path, *options, check=False, TORCH_HOME=str(tmp_path))
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode != 0 and f"{url} could not be fetched" in last
    assert f"put it at {tmp_path}/hub/checkpoints/pretrained.pth." in last


def test_an_unreachable_teacher_names_its_url_and_the_option(mini_data, run_tool, tmp_path):
    url = "http://127.0.0.1:9/teacher.pth"
    options = [option.replace("teacher_ckpt=.", f"teacher_ckpt={url}") for option in options_for(mini_data, Path())]
    done = run_tool("train.py", CANKD, "--work-dir", tmp_path, *options, check=False)
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode != 0 and url in last and "--cfg-options teacher_ckpt=FILE" in last


def test_a_teacher_that_must_be_trained_first_is_named(run_tool, tmp_path):
    recipe = ROOT / "configs/distill/mmdet/cankd/cankd_neck_dino_r101_dino_r50_12e_coco.py"
    absent = tmp_path / "teacher.pth"
    done = run_tool("train.py", recipe, "--work-dir", tmp_path, "--cfg-options", f"teacher_ckpt={absent}", check=False)
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode != 0 and str(absent) in last and "--cfg-options teacher_ckpt=FILE" in last


def test_auto_scale_lr_reaches_the_runner(mini_data, teacher_ckpt, run_tool, tmp_path):
    config = tmp_path / "scaled.py"
    config.write_text(f"_base_ = ['{CANKD}']\nauto_scale_lr = dict(enable=False, base_batch_size=16)\n")
    options = options_for(mini_data, teacher_ckpt, iterations=1)
    done = run_tool("train.py", config, "--work-dir", tmp_path, "--auto-scale-lr", *options)
    assert "Scaling the original LR by 0.25" in done.stdout
    done = run_tool("train.py", CANKD, "--work-dir", tmp_path, "--auto-scale-lr", *options, check=False)
    assert done.returncode != 0 and "auto_scale_lr.base_batch_size" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU --amp trains; this is about machines without one")
def test_amp_without_a_gpu_is_refused(mini_data, teacher_ckpt, run_tool, tmp_path):
    options = options_for(mini_data, teacher_ckpt)
    done = run_tool("train.py", CANKD, "--work-dir", tmp_path, "--amp", *options, check=False)
    assert done.returncode != 0 and "--amp: got a machine without a GPU" in done.stdout
