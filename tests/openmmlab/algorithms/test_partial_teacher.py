from __future__ import annotations

import copy
import importlib
import weakref

import pytest
import torch
from mmdet.models.necks import FPN
from mmdet.testing import demo_mm_inputs
from mmengine.logging import MMLogger
from mmengine.structures import PixelData
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from mmrazor.registry import MODELS, TASK_UTILS
from mmseg.structures import SegDataSample

from cankd.openmmlab.analysis.benchmark import peak_extra_bytes
from cankd.openmmlab.compat import CLASSIFICATION
from tests.conftest import ROOT, relative_error

pytestmark = pytest.mark.slow

RETINANET = dict(type="StockModel", cfg=str(ROOT / "configs/demo/quickstart_student.py"))
FASTER = dict(
    type="StockModel",
    cfg="mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=8, num_classes=10),
    ),
)
PSPNET = dict(
    type="StockModel",
    cfg="mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py",
    pretrained=None,
    backbone=dict(base_channels=8, init_cfg=None, norm_cfg=dict(type="BN")),
    decode_head=dict(in_channels=64, channels=8, norm_cfg=dict(type="BN"), dropout_ratio=0),
    auxiliary_head=dict(in_channels=32, channels=8, norm_cfg=dict(type="BN"), dropout_ratio=0),
)
RESNET = dict(
    type="StockModel",
    cfg="mmpretrain::resnet/resnet18_8xb32_in1k.py",
    backbone=dict(base_channels=8),
    head=dict(in_channels=64, num_classes=10),
)
SWIN = dict(
    RETINANET,
    backbone=dict(
        _replace_=True,
        type="SwinTransformer",
        embed_dims=8,
        depths=(1, 1, 2, 1),
        num_heads=(1, 1, 2, 2),
        drop_path_rate=0.5,
    ),
    neck=dict(in_channels=[8, 16, 32, 64]),
)
DINO = dict(
    type="StockModel",
    cfg="mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py",
    num_queries=20,
    backbone=dict(depth=18, init_cfg=None),
    neck=dict(in_channels=[128, 256, 512]),
    encoder=dict(num_layers=1),
    decoder=dict(num_layers=1),
    bbox_head=dict(num_classes=10),
)


def _config(teacher, recorder, records=({},), student=None, **options):
    """Student and teacher, by default of one architecture, and a loss for each record of one recorder."""
    losses = {f"loss_{i}": dict(type="FeatureMSELoss") for i in range(len(records))}
    mappings = {
        name: {
            key: dict(recorder="it", from_student=key == "s_feature", **record) for key in ("s_feature", "t_feature")
        }
        for name, record in zip(losses, records)
    }
    options.setdefault("type", "PartialTeacherDistill")
    return dict(
        architecture=student or teacher,
        teacher=teacher,
        distiller=dict(
            type="ConfigurableDistiller",
            student_recorders=dict(it=recorder),
            teacher_recorders=dict(it=recorder),
            distill_losses=losses,
            loss_forward_mappings=mappings,
        ),
        **options,
    )


def _build(*args, **kwargs):
    """An algorithm in training, its weights and batch norm statistics random, but always the same."""
    MMLogger.get_current_instance().setLevel("WARNING")  # every initialised tensor is a line
    torch.manual_seed(0)
    algorithm = MODELS.build(_config(*args, **kwargs))
    algorithm.init_weights()
    for module in algorithm.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.get_buffer("running_mean").normal_(std=0.1)
            module.get_buffer("running_var").uniform_(0.8, 1.2)
    algorithm.train()
    return algorithm


def _detection_batch(algorithm):
    packed = demo_mm_inputs(2, [[3, 64, 64]] * 2, num_items=[3, 2], num_classes=10)
    data = algorithm.data_preprocessor(packed, True)
    return data["inputs"], data["data_samples"]


def _segmentation_batch(algorithm):
    labels = torch.randint(0, 19, (2, 1, 64, 64))
    return torch.randn(2, 3, 64, 64), [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]


def _classification_batch(algorithm):
    structures = importlib.import_module(f"{CLASSIFICATION}.structures")
    sample = structures.DataSample if hasattr(structures, "DataSample") else structures.ClsDataSample
    return torch.randn(4, 3, 64, 64), [sample().set_gt_label(label) for label in range(4)]


def _losses(algorithm, batch=_detection_batch):
    """What the distillation losses are on a random, but always the same batch, on the algorithm's device."""
    torch.manual_seed(1)
    device = next(algorithm.parameters()).device
    images, samples = batch(algorithm)
    inputs = images.to(device), [sample.to(device) for sample in samples]
    torch.manual_seed(2)
    return {name: value for name, value in algorithm.loss(*inputs).items() if name.startswith("distill")}


def _trace(model):
    """A list that grows by the names of the modules that ran to their end."""
    names: list = []
    for name, module in model.named_modules():
        # Before the recorders' hooks, which end the teacher's pass.
        module.register_forward_hook(lambda *_, name=name: names.append(name), prepend=True)
    return names


def _source(source, kind="ModuleOutputs"):
    return dict(type=kind, source=source)


FULL = "SingleTeacherDistill"
LEVELS = [dict(data_idx=level) for level in range(4)]
FPN_FORWARD = _source("mmdet.models.necks.fpn.FPN.forward", "MethodOutputs")
# Teacher, recorder, what is read of it, the batch, the teacher's first part that must not run.
CASES: dict = {
    "neck": (RETINANET, _source("neck"), LEVELS, _detection_batch, "bbox_head.cls_convs.0"),
    "inside a backbone": (RETINANET, _source("backbone.layer2.0"), [{}], _detection_batch, "backbone.layer2.1"),
    "a head's third call and its first": (
        RETINANET,
        _source("bbox_head.retina_cls"),
        [dict(record_idx=2), {}],
        _detection_batch,
        None,
    ),
    "inputs of a module": (
        RETINANET,
        _source("neck.fpn_convs.1", "ModuleInputs"),
        [dict(data_idx=0)],
        _detection_batch,
        "neck.fpn_convs.2",
    ),
    "a method's outputs": (RETINANET, FPN_FORWARD, LEVELS, _detection_batch, "neck"),
    "a method's inputs": (
        RETINANET,
        _source("mmdet.models.dense_heads.retina_head.RetinaHead.forward_single", "MethodInputs"),
        [dict(record_idx=1, data_idx=0)],
        _detection_batch,
        None,
    ),
    "two stages, neck": (FASTER, _source("neck"), LEVELS, _detection_batch, "rpn_head.rpn_conv"),
    "two stages, RPN": (FASTER, _source("rpn_head.rpn_conv"), [dict(record_idx=3)], _detection_batch, "rpn_head"),
    "segmentation": (PSPNET, _source("backbone.layer4"), [{}], _segmentation_batch, "decode_head.psp_modules"),
    "segmentation, logits": (PSPNET, _source("decode_head.conv_seg"), [{}], _segmentation_batch, "auxiliary_head"),
    "a function's outputs": (
        PSPNET,
        _source("mmseg.models.decode_heads.psp_head.resize", "FunctionOutputs"),
        [dict(record_idx=1)],
        _segmentation_batch,
        "decode_head.bottleneck",
    ),
    "classification": (RESNET, _source("backbone.layer4"), [{}], _classification_batch, "neck"),
    "classification, logits": (RESNET, _source("head.fc"), [{}], _classification_batch, None),
    "DETR": (DINO, _source("neck"), [dict(data_idx=1)], _detection_batch, "encoder"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_losses_are_the_full_teachers_bit_for_bit(case):
    model, recorder, records, batch, _ = CASES[case]
    found = []
    for kind in ("PartialTeacherDistill", FULL):
        algorithm = _build(model, recorder, records, type=kind)
        losses = _losses(algorithm, batch)
        sum(losses.values()).backward()
        gradients = {name: value.grad for name, value in algorithm.student.named_parameters() if value.grad is not None}
        found.append({**losses, **gradients})
    partial, full = found
    assert len(partial) > len(records) and set(partial) == set(full)
    assert all(value > 0 for name, value in partial.items() if name.startswith("distill"))
    for name, value in full.items():
        assert torch.equal(partial[name], value), name


@pytest.mark.parametrize("case", CASES)
def test_the_teacher_runs_no_further_than_its_records(case):
    model, recorder, records, batch, beyond = CASES[case]
    algorithm = _build(model, recorder, records)
    ran = _trace(algorithm.teacher)
    for module in algorithm.teacher.modules():
        if hasattr(module, "loss_by_feat"):  # heads compute their losses there, in all three libraries but mmcls
            module.loss_by_feat = _must_not_be_called
    _losses(algorithm, batch)
    if recorder["type"].startswith("Module"):
        calls = max(record.get("record_idx", 0) for record in records) + 1
        assert ran.count(recorder["source"]) == calls and ran[-1] == recorder["source"]
    assert beyond not in ran and "" not in ran


def _must_not_be_called(*_, **__):
    raise AssertionError("the teacher computes its losses")


def test_a_record_counted_from_the_end_needs_the_whole_teacher():
    last = [dict(record_idx=-1)]
    partial = _build(RETINANET, _source("bbox_head.retina_cls"), last)
    ran = _trace(partial.teacher)
    assert _losses(partial) == _losses(_build(RETINANET, _source("bbox_head.retina_cls"), last, type=FULL))
    assert ran[-1] == ""


def test_parameters_need_no_teacher_at_all():
    algorithm = _build(RETINANET, _source("bbox_head.retina_cls.weight", "Parameter"))
    ran = _trace(algorithm.teacher)
    assert _losses(algorithm)["distill.loss_0"] > 0 and not ran
    # A parameter beside a module waits for the module.
    config = _config(RETINANET, _source("neck.fpn_convs.0.conv.bias", "Parameter"))
    config["distiller"]["teacher_recorders"]["neck"] = config["distiller"]["student_recorders"]["neck"] = _source(
        "neck"
    )
    config["distiller"]["distill_losses"]["loss_neck"] = dict(type="FeatureMSELoss")
    config["distiller"]["loss_forward_mappings"]["loss_neck"] = {
        key: dict(recorder="neck", from_student=key == "s_feature", data_idx=3) for key in ("s_feature", "t_feature")
    }
    algorithm = MODELS.build(config)
    ran = _trace(algorithm.teacher)
    assert set(_losses(algorithm)) == {"distill.loss_0", "distill.loss_neck"} and ran[-1] == "neck"


def test_with_deliveries_the_whole_teacher_runs():
    """The student's box assignment is the teacher's: its anchors come from there."""
    found = []
    for kind in ("PartialTeacherDistill", FULL):
        config = _config(RETINANET, _source("neck"), LEVELS, type=kind)
        # The random flips of mmdet's inputs do not go through a function; the assigner's targets do.
        source = "mmdet.models.dense_heads.anchor_head.AnchorHead.get_targets"
        config["distiller"]["distill_deliveries"] = dict(
            targets=dict(type="MethodOutputs", max_keep_data=1, method_path=source)
        )
        torch.manual_seed(0)
        algorithm = MODELS.build(config)
        ran = _trace(algorithm.teacher)
        found.append(_losses(algorithm))
        assert ran[-1] == ""
    assert found[0] == found[1]


@TASK_UTILS.register_module(name="SingleSlotRecorder")
class SingleSlotRecorder(BaseRecorder):
    """A recorder of one's own, which cannot be watched: it keeps the last record only."""

    def prepare_from_model(self, model=None):
        model.get_submodule(self.source).register_forward_hook(self._keep)

    def _keep(self, module, inputs, outputs):
        self._data_buffer = [outputs]


def test_a_recorder_that_cannot_be_watched_gets_the_whole_teacher():
    algorithm = _build(RETINANET, _source("neck", "SingleSlot"), LEVELS)
    ran = _trace(algorithm.teacher)
    losses = _losses(algorithm)
    assert ran[-1] == "" and losses == _losses(_build(RETINANET, _source("neck"), LEVELS, type=FULL))


def test_a_stopped_distillation_runs_no_teacher():
    algorithm = _build(RETINANET, _source("neck"), LEVELS)
    ran = _trace(algorithm.teacher)
    algorithm.distillation_stopped = True
    assert not _losses(algorithm) and not ran


def test_a_record_that_is_never_made_is_named():
    algorithm = _build(RETINANET, _source("bbox_head.retina_cls"), [dict(record_idx=4)])
    with pytest.raises(RuntimeError, match="recorder 'it': got 4 records of bbox_head.retina_cls, expected 5"):
        _losses(algorithm)


def test_an_error_in_the_teacher_is_not_swallowed():
    algorithm = _build(RETINANET, FPN_FORWARD, LEVELS)
    forward = FPN.forward
    del algorithm.teacher.backbone.layer3
    with pytest.raises(AttributeError, match="layer3"):
        _losses(algorithm)
    assert FPN.forward is forward


def test_no_map_outlives_its_step():
    algorithm = _build(RETINANET, _source("neck"), LEVELS)
    kept: list = []
    for model in (algorithm.student, algorithm.teacher):
        model.neck.register_forward_hook(lambda *call: kept.extend(map(weakref.ref, call[2])), prepend=True)

    def steps(count):
        for _ in range(count):
            kept.clear()
            sum(_losses(algorithm).values()).backward()
            assert len(kept) == 8 and not any(ref() is not None for ref in kept)

    steps(10)
    assert peak_extra_bytes(lambda: steps(40), "cpu") < 4 << 20  # the levels of 40 steps are 14 MB


def test_a_copy_has_a_teacher_of_its_own():
    """As in an exponential moving average."""
    algorithm = _build(RETINANET, _source("neck"), LEVELS)
    expected = _losses(algorithm)
    copied = copy.deepcopy(algorithm)
    ran, ran_in_copy = _trace(algorithm.teacher), _trace(copied.teacher)
    assert _losses(copied) == expected
    assert not ran and ran_in_copy[-1] == "neck"


def test_a_copy_after_options_has_a_teacher_of_its_own_too():
    algorithm = _build(RETINANET, _source("neck"), LEVELS, teacher_fuse_conv_bn=True)
    expected = _losses(algorithm)
    copied = copy.deepcopy(algorithm)
    algorithm.teacher.neck = algorithm._running_teacher = None
    assert _losses(copied) == expected


def test_options_leave_the_registered_teacher_as_it_was():
    options = {name: value for name, (value, _) in OPTIONS.items()}
    algorithm = _build(RETINANET, _source("neck"), LEVELS, **options)
    before = copy.deepcopy(algorithm.state_dict())
    _losses(algorithm)
    after = algorithm.state_dict()
    assert list(after) == list(before)
    for name, value in before.items():
        assert torch.equal(after[name], value) or not name.startswith("teacher."), name
    running, registered = (dict(t.named_parameters()) for t in (algorithm._running_teacher[0], algorithm.teacher))
    assert running["neck.fpn_convs.0.conv.weight"] is registered["neck.fpn_convs.0.conv.weight"]


def test_a_teacher_that_is_loaded_later_is_the_one_that_runs():
    algorithm = _build(RETINANET, _source("neck"), LEVELS, teacher_fuse_conv_bn=True)
    before = _losses(algorithm)
    algorithm.load_state_dict({name: value * 1.1 for name, value in algorithm.state_dict().items()})
    plain = _build(RETINANET, _source("neck"), LEVELS)
    plain.load_state_dict(algorithm.state_dict())
    expected = _losses(plain)
    for name, loss in _losses(algorithm).items():
        assert relative_error(loss, expected[name]) < 1e-4 < relative_error(loss, before[name]), name


# Option -> its value, how far the losses may be from the plain teacher's: rounding, or the narrow type's.
OPTIONS: dict = {
    "teacher_channels_last": (True, 1e-4),
    "teacher_fuse_conv_bn": (True, 1e-4),
    "teacher_compile": (dict(backend="aot_eager"), 1e-4),
    "teacher_dtype": ("bfloat16", 5e-2),
    "teacher_eval": (True, 1e-6),
}


def _compare_with_plain(
    device, tolerance, model=RETINANET, source="neck", records=LEVELS, batch=_detection_batch, **options
):
    expected = _losses(_build(model, _source(source), records).to(device), batch)
    algorithm = _build(model, _source(source), records, **options).to(device)
    for _ in range(2):
        for name, loss in _losses(algorithm, batch).items():
            assert loss.dtype == torch.float32 and relative_error(loss, expected[name]) <= tolerance, name
    assert not any(parameter.requires_grad for parameter in algorithm._running_teacher[0].parameters())
    return algorithm._running_teacher[0]


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_changes_the_losses_by_rounding_only(option, device):
    value, tolerance = OPTIONS[option]
    _compare_with_plain(device, tolerance, **{option: value})
    _compare_with_plain(device, tolerance, source="backbone.layer2", records=[{}], **{option: value})


def test_all_options_together(device):
    teacher = _compare_with_plain(device, 5e-2, **{name: value for name, (value, _) in OPTIONS.items()})
    weight = teacher.backbone.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert isinstance(teacher.backbone.layer1[0].bn1, torch.nn.Identity)
    assert "forward" in vars(teacher.backbone) and "forward" in vars(teacher.neck)  # compiled
    assert not teacher.backbone.training
    types = []
    teacher.neck.register_forward_pre_hook(lambda _, inputs: types.append(inputs[0][0].dtype))
    with torch.autocast(device, torch.bfloat16):
        teacher.neck(teacher.backbone(torch.randn(1, 3, 64, 64, device=device)))
    assert types == [torch.bfloat16]


def test_compiled_with_the_default_compiler(device):
    case: tuple = (RESNET, "backbone.layer1", [{}], _classification_batch)
    teacher = _compare_with_plain(device, 1e-4, *case, teacher_compile=True)
    compiled = {name for name, module in teacher.named_modules() if "forward" in vars(module)}
    assert "backbone.layer1" in compiled and not compiled & {"backbone", "backbone.layer1.0"}


def test_a_teacher_in_eval_mode_has_no_stochastic_depth():
    for teacher_eval in (False, True):
        algorithm = _build(SWIN, _source("neck"), LEVELS, student=RETINANET, teacher_eval=teacher_eval)
        inputs = _detection_batch(algorithm)
        first, second = (algorithm.loss(*inputs)["distill.loss_0"].item() for _ in range(2))
        assert (first == second) == teacher_eval
        assert algorithm.student.training and algorithm.teacher.training != teacher_eval


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_trainable": True}, "type='SingleTeacherDistill'"),
        ({"teacher_dtype": "fp16"}, "bfloat16, float16"),
        ({"teacher_fuse_conv_bn": True, "teacher_norm_eval": False}, "running statistics"),
        ({"teacher_compile": True, "recorder": FPN_FORWARD}, "Record modules instead"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, message):
    recorder = options.pop("recorder", _source("neck"))
    with pytest.raises(ValueError, match=message):
        MODELS.build(_config(RETINANET, recorder, LEVELS, **options))


@pytest.mark.parametrize("source", ["backbone.conv1", "backbone.bn1"])
def test_fusing_what_is_recorded_is_refused(source):
    algorithm = _build(RETINANET, _source(source), teacher_fuse_conv_bn=True)
    with pytest.raises(ValueError, match=f"source {source} is a convolution or batch norm"):
        _losses(algorithm)


def test_a_teacher_s_file_that_fits_nothing_is_refused(tmp_path):
    algorithm = _build(RETINANET, _source("neck"), LEVELS)
    for name, state_dict, message in (
        ("distillation", algorithm.state_dict(), "is a distillation's checkpoint.*cankd convert"),
        ("another", {"conv.weight": torch.zeros(2)}, "no tensor of .*another.pth fits the teacher.*conv.weight"),
    ):
        torch.save({"state_dict": state_dict}, tmp_path / f"{name}.pth")
        with pytest.raises(ValueError, match=message):
            MODELS.build(_config(RETINANET, _source("neck"), LEVELS, teacher_ckpt=str(tmp_path / f"{name}.pth")))
    torch.save(
        {f"module.{name}": value for name, value in algorithm.teacher.state_dict().items()}, tmp_path / "own.pth"
    )
    loaded = MODELS.build(_config(RETINANET, _source("neck"), LEVELS, teacher_ckpt=str(tmp_path / "own.pth")))
    loaded.init_weights()
    for name, value in algorithm.teacher.state_dict().items():
        assert torch.equal(loaded.teacher.state_dict()[name], value), name
