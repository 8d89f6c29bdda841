"""CrossKD on mmdet's own heads: its parts, its predictions, its losses and what they leave alone."""

from __future__ import annotations

import copy
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.models.losses import CrossEntropyLoss, GIoULoss, IoULoss, KnowledgeDistillationKLDivLoss, QualityFocalLoss
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from mmrazor.registry import MODELS

from cankd.openmmlab.algorithms.crosskd import ADAPTERS, align, quality_focal_loss
from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.models import stock_model
from tests.conftest import GOLDEN, ROOT, TOLERANCE, free_port, needs_bfloat16, relative_error, run_command
from tests.demo import options_for, records_of

SMALL: dict[str, Any] = dict(
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(num_classes=10, in_channels=32, feat_channels=32),
)
STOCK = {
    "GFLHead": "mmdet::gfl/gfl_r50_fpn_1x_coco.py",
    "RetinaHead": "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
    "FCOSHead": "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "ATSSHead": "mmdet::atss/atss_r50_fpn_1x_coco.py",
}
PREDICTORS = {
    "GFLHead": ("gfl_cls", "gfl_reg"),
    "RetinaHead": ("retina_cls", "retina_reg"),
    "FCOSHead": ("conv_cls", "conv_reg"),
    "ATSSHead": ("atss_cls", "atss_reg"),
}
NO_LOSSES = {"type": "ConfigurableDistiller"}


def _detector(kind, seed, **head):
    torch.manual_seed(seed)
    model = stock_model(STOCK[kind], **{**SMALL, "bbox_head": {**SMALL["bbox_head"], **head}})
    # The stock initialisation leaves the towers' maps and scores all but equal everywhere.
    for name, parameter in model.bbox_head.named_parameters():
        if parameter.dim() == 4:
            torch.nn.init.kaiming_normal_(parameter)
        elif "scales" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.train()


def _crosskd(kind, distiller=None, student=None, teacher=None, **arguments):
    algorithm = MODELS.build(
        dict(
            type="CrossKD",
            architecture=student or _detector(kind, 1),
            teacher=teacher or _detector(kind, 2),
            distiller=distiller or NO_LOSSES,
            **arguments,
        )
    )
    return algorithm.train()


def _batch(images=2):
    torch.manual_seed(3)
    boxes = torch.tensor([[10.0, 12.0, 60.0, 50.0], [50.0, 40.0, 120.0, 120.0], [4.0, 70.0, 30.0, 100.0]])
    samples = []
    for image in range(images):
        sample = DetDataSample(
            metainfo=dict(img_shape=(128, 128), pad_shape=(128, 128), batch_input_shape=(128, 128), scale_factor=(1, 1))
        )
        chosen = boxes[image:]
        sample.gt_instances = InstanceData(bboxes=chosen, labels=torch.arange(len(chosen)) + image)
        sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=torch.zeros(0, dtype=torch.long))
        samples.append(sample)
    return torch.randn(images, 3, 128, 128), samples


@pytest.fixture(scope="module")
def golden():
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "crosskd_parts.npz").items()}


def test_quality_focal_loss_equals_the_published(golden):
    predicted = golden["qfl_pred"].requires_grad_()
    loss = quality_focal_loss(predicted, golden["qfl_target_logits"], golden["qfl_weight"]) / golden["qfl_avg_factor"]
    loss.backward()
    assert predicted.grad is not None
    assert relative_error(loss, golden["qfl_loss"]) < TOLERANCE[torch.float64]
    assert relative_error(predicted.grad, golden["qfl_grad"]) < TOLERANCE[torch.float64]


def test_alignment_equals_the_published(golden):
    got = align(golden["align_student"], golden["align_teacher"])
    assert relative_error(got, golden["align_out"]) < TOLERANCE[torch.float64]


def test_alignment_forgets_the_student_s_scale_and_offset():
    student, teacher = torch.randn(2, 2, 6, 5, 4, dtype=torch.float64).unbind()
    scale, offset = torch.rand(1, 6, 1, 1) + 0.5, torch.randn(1, 6, 1, 1)
    assert relative_error(align(student * scale + offset, teacher, eps=0), align(student, teacher, eps=0)) < 1e-10
    assert relative_error(align(teacher, teacher, eps=0), teacher) < 1e-10


def test_alignment_of_a_single_position_is_finite():
    student = torch.randn(1, 6, 1, 1, requires_grad=True)
    teacher = torch.randn(1, 6, 1, 1)
    aligned = align(student, teacher)
    aligned.sum().backward()
    assert torch.equal(aligned, teacher) and student.grad is not None and torch.isfinite(student.grad).all()


@pytest.mark.parametrize("value", [0.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_gradient_of_a_constant_channel_stays_in_range(dtype, value, device):
    student, teacher = (torch.randn(2, 4, 5, 6).to(device, dtype) for _ in range(2))
    student[:, 0] = value
    upstream = torch.randn(2, 4, 5, 6, device=device)
    wide = student.double().requires_grad_()
    (align(student.requires_grad_(), teacher) * upstream).sum().backward()
    (align(wide, teacher.double()) * upstream).sum().backward()
    assert student.grad is not None and wide.grad is not None
    limit = torch.finfo(dtype).max
    if dtype == torch.float16:
        assert wide.grad.abs().max() > limit
    assert relative_error(student.grad, wide.grad.clamp(-limit, limit)) < TOLERANCE[dtype]
    assert relative_error(student.grad[:, 1:], wide.grad[:, 1:]) < TOLERANCE[dtype]


def _before_activation(convolution, x):
    return convolution.norm(convolution.conv(x)) if convolution.with_norm else convolution.conv(x)


def _begin(head, x, tower, start):
    """The map behind convolution ``start``, before its activation."""
    before = x
    for convolution in getattr(head, tower)[:start]:
        before = _before_activation(convolution, x)
        x = torch.relu(before)
    return before


def _finish(head, kind, x, tower, start, level):
    """The predictions of one tower from the map that enters convolution ``start``."""
    for convolution in getattr(head, tower)[start:]:
        x = torch.relu(_before_activation(convolution, x))
    outputs = [getattr(head, PREDICTORS[kind][tower == "reg_convs"])(x)]
    if tower == "reg_convs" and kind != "RetinaHead":
        outputs[0] = outputs[0] * head.scales[level].scale
        outputs[0] = outputs[0].exp() if kind == "FCOSHead" else outputs[0]
        if kind == "ATSSHead":
            outputs.append(head.atss_centerness(x))
    return outputs


def _by_hand(algorithm, kind, start, inputs, samples):
    """CrossKD's losses with the layers called one by one and mmdet's own loss modules."""
    student, teacher = algorithm.student, algorithm.teacher
    s_levels, t_levels = student.extract_feat(inputs), teacher.extract_feat(inputs)
    crossed, expected = [], []
    for level, (s_map, t_map) in enumerate(zip(s_levels, t_levels)):
        cross_outputs, own_outputs = [], []
        for tower in ("cls_convs", "reg_convs"):
            s_inner, t_inner = (
                _begin(model.bbox_head, x, tower, start) for model, x in ((student, s_map), (teacher, t_map))
            )
            mean = t_inner.mean((0, 2, 3), keepdim=True)
            deviation = t_inner.transpose(0, 1).flatten(1).std(1)[None, :, None, None]
            own = s_inner.transpose(0, 1).flatten(1)
            normed = (s_inner - own.mean(1)[None, :, None, None]) / (own.std(1)[None, :, None, None] + 1e-6)
            aligned = normed * deviation + mean
            aligned, t_inner = (torch.relu(aligned), torch.relu(t_inner)) if start else (aligned, t_inner)
            cross_outputs += _finish(teacher.bbox_head, kind, aligned, tower, start, level)
            own_outputs += _finish(teacher.bbox_head, kind, t_inner, tower, start, level)
        crossed.append(cross_outputs)
        expected.append(own_outputs)
    return _losses_by_mmdet(student.bbox_head, kind, s_levels, crossed, expected, samples)


def _losses_by_mmdet(head, kind, levels, crossed, expected, samples):
    gt, metas = [sample.gt_instances for sample in samples], [sample.metainfo for sample in samples]
    sizes = [level.shape[2:] for level in levels]

    def flat(level, output, width):
        return level[output].permute(0, 2, 3, 1).reshape(-1, width)

    if kind == "FCOSHead":
        points = head.prior_generator.grid_priors(sizes, dtype=levels[0].dtype, device="cpu")
        labels, boxes = head.get_targets(points, gt)
        weights = [torch.ones(len(level)) for level in labels]
        average = head.centerness_target(torch.cat(boxes)[torch.cat(labels) < 10]).sum().item()
        priors = [level.repeat(len(gt), 1) for level in points]
    else:
        anchors, flags = head.get_anchors(sizes, metas, device="cpu")
        targets = head.get_targets([list(image) for image in anchors], flags, gt, metas)
        labels, weights = (targets[0], targets[1]) if kind == "RetinaHead" else (targets[1], targets[2])
        average = targets[4] if kind == "RetinaHead" else targets[5]
        priors = [torch.stack([image[level] for image in anchors]).view(-1, 4) for level in range(5)]
        weights = [level.flatten() for level in weights]
    sums = {"cls": 0.0, "reg": 0.0, "centerness": 0.0}
    quality_sum = 0.0
    for level, (cross, own) in enumerate(zip(crossed, expected)):
        cls, t_cls = flat(cross, 0, 10), flat(own, 0, 10)
        quality_focal = QualityFocalLoss(use_sigmoid=True, beta=1.0)
        sums["cls"] += quality_focal(cls, t_cls.sigmoid(), weights[level], avg_factor=average)
        quality = t_cls.sigmoid().max(1)[0] * (weights[level] > 0)
        if kind == "GFLHead":
            divergence = KnowledgeDistillationKLDivLoss(T=1)
            sides = quality[:, None].expand(-1, 4).reshape(-1)
            # mmdet's takes the mean over the 17 bins, CrossKD the sum.
            sums["reg"] += 4 * 17 * divergence(flat(cross, 1, 17), flat(own, 1, 17), sides, avg_factor=4)
            quality_sum += quality.sum()
        else:
            decoded = [head.bbox_coder.decode(priors[level], flat(side, 1, 4)) for side in (cross, own)]
            module = IoULoss(loss_weight=0.75) if kind == "FCOSHead" else GIoULoss()
            sums["reg"] += module(*decoded, quality, avg_factor=average)
        if kind == "ATSSHead":
            positive = labels[level].flatten() < 10
            module = CrossEntropyLoss(use_sigmoid=True)
            if positive.any():
                centerness, t_centerness = (flat(side, 2, 1)[positive, 0] for side in (cross, own))
                sums["centerness"] += module(centerness, t_centerness.sigmoid(), avg_factor=average)
    if kind == "FCOSHead":
        sums["cls"] *= 0.4
    if kind == "GFLHead":
        sums["reg"] /= quality_sum
    return {f"crosskd.loss_{name}": value for name, value in sums.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize(
    ("kind", "start"), [(kind, start) for kind in STOCK for start in (None, 0)] + [("GFLHead", 4), ("RetinaHead", 1)]
)
def test_equals_the_layers_and_mmdet_s_losses_by_hand(kind, start, device):
    algorithm = _crosskd(kind, start=start)
    inputs, samples = _batch()
    got = _cross_losses(copy.deepcopy(algorithm).to(device), inputs, samples)
    published = ADAPTERS[type(algorithm.student.bbox_head)].start
    assert published == (2 if kind == "FCOSHead" else 3)
    expected = _by_hand(algorithm, kind, published if start is None else start, inputs, samples)
    assert set(got) == set(expected)
    for name in expected:
        assert expected[name] > 1e-3
        assert relative_error(got[name], expected[name]) < TOLERANCE[torch.float32], name


def _cross_losses(algorithm, inputs, samples):
    """What CrossKD's losses are on the algorithm's device."""
    device = next(algorithm.parameters()).device
    losses = algorithm.loss(inputs.to(device), [sample.to(device) for sample in samples])
    return {name: loss for name, loss in losses.items() if name.startswith("crosskd.")}


@needs_bfloat16
@pytest.mark.parametrize("kind", STOCK)
def test_mixed_precision_changes_the_losses_by_rounding_only(kind, device):
    algorithm = _crosskd(kind)
    expected = _cross_losses(algorithm, *_batch())
    algorithm.to(device)
    dtype = torch.float16 if device == "cuda" else torch.bfloat16  # mmcv's focal loss on a GPU has no bfloat16
    with torch.autocast(device, dtype):
        got = _cross_losses(algorithm, *_batch())
    for name in expected:
        # Two whole detectors round.
        assert relative_error(got[name], expected[name]) < 2 * TOLERANCE[dtype], name
    sum(got.values()).backward()
    gradients = [parameter.grad for parameter in algorithm.student.parameters() if parameter.grad is not None]
    assert len(gradients) > 40 and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("kind", STOCK)
def test_the_student_s_own_losses_and_gradients_are_those_of_plain_training(kind):
    inputs, samples = _batch()
    student = _detector(kind, 1)
    expected = student(inputs, samples, mode="loss")
    total, _ = student.parse_losses(expected)
    total.backward()
    algorithm = _crosskd(kind)
    losses = algorithm.loss(inputs, samples)
    own = {name[len("student.") :]: loss for name, loss in losses.items() if name.startswith("student.")}
    assert set(own) == set(expected)
    for name, value in expected.items():
        for got, plain in zip(*(part if isinstance(part, list) else [part] for part in (own[name], value))):
            assert torch.equal(got, plain), name
    algorithm.student.parse_losses(own)[0].backward()
    for (name, plain), got in zip(student.named_parameters(), algorithm.student.parameters()):
        assert (got.grad is None) == (plain.grad is None), name
        assert plain.grad is None or torch.equal(got.grad, plain.grad), name


@pytest.mark.parametrize("kind", STOCK)
def test_gradients_reach_the_student_s_first_layers_through_the_frozen_head(kind):
    algorithm = _crosskd(kind)
    start = algorithm.start
    losses = algorithm.loss(*_batch())
    sum(loss for name, loss in losses.items() if name.startswith("crosskd.")).backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in algorithm.teacher.parameters())
    assert not algorithm.teacher.training and algorithm.student.training
    reached = {
        name for name, p in algorithm.student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    for index in range(4):
        for tower in ("cls_convs", "reg_convs"):
            assert (f"bbox_head.{tower}.{index}.conv.weight" in reached) == (index < start)
    assert not any(f"bbox_head.{name}.weight" in reached for name in PREDICTORS[kind])
    assert {"neck.fpn_convs.0.conv.weight", "backbone.layer4.1.conv2.weight"} <= reached
    # Nothing is left on the heads.
    for head in (algorithm.student.bbox_head, algorithm.teacher.bbox_head):
        assert "get_targets" not in vars(head)
        assert not any(module._forward_pre_hooks for module in head.modules())


@pytest.mark.parametrize("kind", STOCK)
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(kind):
    algorithm = _crosskd(kind, student=_detector(kind, 2), teacher=_detector(kind, 2))
    # In training mode the student's batch norms would differ from the teacher's.
    losses = algorithm.eval().loss(*_batch())
    different = _crosskd(kind).loss(*_batch())
    for name in ("crosskd.loss_cls", "crosskd.loss_reg"):
        assert losses[name] < 1e-3 * different[name], name


def _feature_distiller(loss, names):
    return dict(
        type="ConfigurableDistiller",
        student_recorders=dict(fpn=dict(type="ModuleOutputs", source="neck")),
        teacher_recorders=dict(fpn=dict(type="ModuleOutputs", source="neck")),
        distill_losses=dict(loss_fpn0=loss),
        loss_forward_mappings=dict(
            loss_fpn0={
                name: dict(recorder="fpn", from_student=student, data_idx=0)
                for name, student in zip(names, (True, False))
            }
        ),
    )


@pytest.mark.parametrize(
    ("loss", "names"),
    [
        (dict(type="PKDLoss", loss_weight=6), ("preds_S", "preds_T")),
        (dict(type="NLKDINLoss", in_channels=32, loss_weight=10), ("s_feature", "t_feature")),
    ],
    ids=["PKD", "CanKD"],
)
def test_composes_with_feature_losses(loss, names):
    inputs, samples = _batch()
    alone = _crosskd("GFLHead").loss(inputs, samples)
    both = _crosskd("GFLHead", distiller=_feature_distiller(loss, names))
    together = both.loss(inputs, samples)
    features = MODELS.build(
        dict(
            type="FpnTeacherDistill",
            architecture=_detector("GFLHead", 1),
            teacher=_detector("GFLHead", 2).eval(),
            distiller=_feature_distiller(loss, names),
        )
    )
    features.student.train()
    expected = features.loss(inputs, samples)["distill.loss_fpn0"]
    assert set(together) == {*alone, "distill.loss_fpn0"}
    assert torch.equal(together["crosskd.loss_cls"], alone["crosskd.loss_cls"])
    assert relative_error(together["distill.loss_fpn0"], expected) < TOLERANCE[torch.float32]
    for recorders in (both.distiller.teacher_recorders, both.distiller.student_recorders):
        assert not recorders.get_recorder("fpn").data_buffer


def test_weights_and_a_stopped_distillation():
    published, weighted = _crosskd("ATSSHead"), _crosskd("ATSSHead", cls_weight=2, reg_weight=3, centerness_weight=5)
    inputs, samples = _batch()
    one, other = published.loss(inputs, samples), weighted.loss(inputs, samples)
    for name, factor in (("cls", 2), ("reg", 3), ("centerness", 5)):
        assert torch.isclose(other[f"crosskd.loss_{name}"], factor * one[f"crosskd.loss_{name}"])
    weighted.distillation_stopped = True
    assert all(name.startswith("student.") for name in weighted.loss(inputs, samples))


def test_in_place_activations_do_not_change_the_recorded_maps():
    inputs, samples = _batch()
    expected = _crosskd("RetinaHead").loss(inputs, samples)
    got = _crosskd("RetinaHead", module_inplace=True, teacher_module_inplace=True).loss(inputs, samples)
    for name in ("crosskd.loss_cls", "crosskd.loss_reg"):
        assert torch.equal(got[name], expected[name])


def test_images_without_objects_give_finite_losses():
    inputs, samples = _batch()
    for sample in samples:
        sample.gt_instances = sample.gt_instances[:0]
    for kind in STOCK:
        losses = _crosskd(kind).loss(inputs, samples)
        assert all(torch.isfinite(loss) for name, loss in losses.items() if name.startswith("crosskd.")), kind


def _rank_losses(rank: int, port: str, folder: str) -> None:
    """What a process gets alone, and then as one of two, for images of its own."""
    torch.set_num_threads(1)
    inputs, samples = _batch(3)
    inputs, samples = inputs[rank : rank + 2], samples[rank : rank + 2]
    results: dict = {}
    for together in (False, True):
        if together:
            address = f"tcp://127.0.0.1:{port}"
            torch.distributed.init_process_group("gloo", address, timedelta(minutes=2), 2, rank)
        for kind in STOCK:
            losses = _crosskd(kind).loss(inputs, samples)
            cross = {
                f"{kind} {name[len('crosskd.loss_') :]}": loss.item()
                for name, loss in losses.items()
                if "cross" in name
            }
            results.setdefault(str(together), {}).update(cross)
    Path(folder, f"{rank}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_average_factors_are_those_of_all_processes(tmp_path):
    code = (
        "import sys, cankd.openmmlab, tests.openmmlab.algorithms.test_crosskd as test\n"
        "test._rank_losses(int(sys.argv[1]), *sys.argv[2:])"
    )
    port = free_port()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda rank: run_command(sys.executable, "-c", code, rank, port, str(tmp_path)), "01"))
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert len(ranks[0]["True"]) == 9
    for name in ranks[0]["False"]:
        ratios = [rank["True"][name] / rank["False"][name] for rank in ranks]
        if name.startswith("Retina") or name == "GFLHead reg":
            assert ratios == pytest.approx([1, 1]), name  # normalised in each process
        else:
            # Each process's own factor over the mean of both factors.
            assert sum(ratios) == pytest.approx(2, rel=1e-4) and abs(ratios[0] - 1) > 0.05, name


DISTRIBUTED = """
_base_ = ['{root}/configs/demo/quickstart_cankd.py']
custom_imports = dict(imports=['cankd.openmmlab', 'tests.recording'])
custom_hooks = [dict(type='RecordingHook')]
allow_untrained_teacher = True
atss = dict(type='StockModel', cfg='{stock}', **{small})
model = dict(type='CrossKD', architecture=dict(_delete_=True, **atss), teacher=dict(_delete_=True, **atss),
             distiller=dict(_delete_=True, type='ConfigurableDistiller'), teacher_ckpt=None)
atss = None
train_dataloader = dict(batch_size={batch}, sampler=dict(shuffle=False), dataset=dict(ann_file='{annotations}'))
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.1), clip_grad=None)
param_scheduler = []
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=-1))
"""


def _with_twins(annotations: Path) -> dict:
    """The content of an annotation file whose images 1 and 3 are images 0 and 2 once more."""
    content = json.loads(annotations.read_text())
    for twin in (1, 3):
        content["images"][twin]["file_name"] = content["images"][twin - 1]["file_name"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != twin]
        originals = [a for a in content["annotations"] if a["image_id"] == twin - 1]
        content["annotations"] += [{**a, "id": 1000 * twin + a["id"], "image_id": twin} for a in originals]
    return content


@pytest.mark.slow
def test_two_processes_train_the_student_like_one_with_the_doubled_batch(mini_data, tmp_path):
    """In the first iteration both processes see the same two images, in the second each sees its own.

    Alignment takes statistics of a process's own batch, so only in the first can CrossKD's losses agree.
    """
    annotations = tmp_path / "twins.json"
    annotations.write_text(json.dumps(_with_twins(mini_data / "annotations/train.json")))
    own = ("teacher_ckpt", "train_dataloader.batch_size", "default_hooks.checkpoint")
    options = [option for option in options_for(mini_data, Path(), 2) if not option.startswith(own)]
    records, students = {}, {}
    for processes, batch in ((1, 4), (2, 2)):
        config = tmp_path / f"{processes}.py"
        values = dict(batch=batch, small=SMALL, stock=STOCK["ATSSHead"], annotations=annotations)
        config.write_text(DISTRIBUTED.format(root=ROOT, **values))
        work_dir = config.with_suffix("")
        command = f"bash tools/dist_train.sh {config} {processes} --work-dir {work_dir}".split()
        run_command(*command, *options, PORT=free_port(), OMP_NUM_THREADS="1")
        records[processes] = [records_of(work_dir, rank) for rank in range(processes)]
        students[processes] = Checkpoint.read(work_dir / "iter_1.pth").part("student")
    (single,), ranks = records[1], records[2]
    parts = {"student": ("cls", "bbox", "centerness"), "crosskd": ("cls", "reg", "centerness")}
    names = {f"{owner}.loss_{part}" for owner, found in parts.items() for part in found}
    for record in (*single, *ranks[0], *ranks[1]):
        assert names <= set(record["losses"])
        assert "teacher" not in record["gradients"] and record["gradients"]["architecture"] > 0

    for name in names:
        assert single[0]["losses"][name] > 1e-3, name
        for rank in ranks:
            assert rank[0]["losses"][name] == pytest.approx(single[0]["losses"][name], rel=1e-5), name
    for rank in ranks:
        assert rank[0]["gradients"] == pytest.approx(single[0]["gradients"], rel=1e-5)
    assert list(students[1]) == list(students[2])
    for name, value in students[1].items():
        assert relative_error(students[2][name], value) < 1e-5, name

    for name in names:
        both = [rank[1]["losses"][name] for rank in ranks]
        assert min(both) > 0 and both[0] != both[1], name
        if name.startswith("student."):
            assert sum(both) / 2 == pytest.approx(single[1]["losses"][name], rel=1e-5), name
    assert ranks[0][1]["gradients"] == pytest.approx(ranks[1][1]["gradients"])


def test_unsupported_heads_are_refused_by_name():
    two_stage = stock_model("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", backbone=dict(depth=18, init_cfg=None),
                            neck=dict(in_channels=[64, 128, 256, 512]))  # fmt: skip
    reppoints = stock_model("mmdet::reppoints/reppoints-moment_r50_fpn_1x_coco.py", backbone=dict(init_cfg=None))
    supported = "GFLHead, RetinaHead, FCOSHead, ATSSHead"
    for model, name in ((reppoints, "RepPointsHead"), (two_stage, "NoneType")):
        with pytest.raises(TypeError, match=f"student whose bbox_head is {name}, expected one of {supported}"):
            _crosskd("GFLHead", student=model)
    with pytest.raises(TypeError, match="RetinaHead under a GFLHead"):
        _crosskd("GFLHead", student=_detector("RetinaHead", 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 5}, "start: got 5, expected 0 to 4"),
        ({"start": -1}, "start: got -1"),
        ({"teacher_trainable": True}, "teacher_trainable=True"),
        ({"student": {"feat_channels": 64}}, "channels .* 64 .* 32"),
        ({"student": {"anchor_generator": {"strides": [8, 16, 32, 64, 96]}}}, "strides"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments, message):
    if "student" in arguments:
        arguments = {"student": _detector("GFLHead", 1, **arguments["student"])}
    with pytest.raises(ValueError, match=message):
        _crosskd("GFLHead", **arguments)


@pytest.mark.parametrize(("convolutions", "expected"), [(4, 3), (3, 3), (2, 1), (1, 0)])
def test_short_towers_share_their_last_convolution_with_the_teacher(convolutions, expected):
    student, teacher = (_detector("RetinaHead", seed, stacked_convs=convolutions) for seed in (1, 2))
    assert _crosskd("RetinaHead", student=student, teacher=teacher).start == expected
