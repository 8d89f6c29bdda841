"""Lists faults of command lines, configurations, checkpoints and data, each with its error message.

tests/openmmlab/commands/test_faults.py tries each; ``python -m tests.faults`` writes docs/faults.md from the list.
"""

from __future__ import annotations

from typing import NamedTuple

from cankd.utils.files import write_text
from tests.conftest import ROOT

DOC = ROOT / "docs" / "faults.md"


class Fault(NamedTuple):
    """Fault, command line that has it, and a part of the last line that is printed.

    ``arguments`` follow the tool; ``{name}`` in them and in ``config`` is a file that the test makes. ``config``, if
    any, is laid over the quickstart's distillation and given as ``{config}``.
    """

    what: str
    arguments: str
    message: str
    config: str = ""


TRAIN = "train.py {config} --work-dir {out}"
OPTIONS = f"{TRAIN} --cfg-options "
MAP = "dict(recorder='fpn', from_student=True, data_idx=0)"


def mapping(
    recorder: str = "fpn", student: object = True, level: int = 0, teacher: object = False, more: str = ""
) -> str:
    """Returns a configuration that changes the inputs of one loss."""
    s_feature = f"s_feature=dict(recorder='{recorder}', from_student={student!r}, data_idx={level}{more})"
    t_feature = f"t_feature=dict(from_student={teacher!r})"
    return f"model = dict(distiller=dict(loss_forward_mappings=dict(loss_fpn1=dict({s_feature}, {t_feature}))))"


def distiller(text: str) -> str:
    return f"model = dict(distiller=dict({text}))"


TRAINING = [
    # the configuration file
    Fault(
        "a configuration that does not exist", "train.py absent.py", "config: got absent.py, expected an existing file"
    ),
    Fault("a configuration without a model", "train.py {no_model}", "Give the configuration of a training."),
    Fault("a configuration with a syntax error", "train.py {syntax}", "SyntaxError"),
    Fault("a file that is no configuration", "train.py {text}", "Only py/yml/yaml/json type are supported"),
    Fault("a base that does not exist", TRAIN, "absent_base.py", "_base_ = ['absent_base.py']"),
    Fault(
        "a package that is not installed", TRAIN, "absent_package", "custom_imports = dict(imports=['absent_package'])"
    ),
    Fault(
        "a misspelt top-level key",
        TRAIN,
        "optim_wraper, which nothing reads. Did you mean optim_wrapper?",
        "optim_wraper = dict(optimizer=dict(lr=1))",
    ),
    Fault(
        "a misspelt key of the stock model",
        TRAIN,
        "expected one like backbone",
        "model = dict(architecture=dict(bakbone=dict(depth=18)))",
    ),
    Fault(
        "an unknown model",
        TRAIN,
        "AbsentDetector is not in the",
        "model = dict(architecture=dict(_delete_=True, type='AbsentDetector'))",
    ),
    Fault(
        "an unknown optimizer",
        TRAIN,
        "optim_wrapper.optimizer: got type AbsentSGD, expected one like",
        "optim_wrapper = dict(optimizer=dict(_delete_=True, type='AbsentSGD'))",
    ),
    Fault(
        "an argument that the optimizer lacks",
        TRAIN,
        "unexpected keyword argument 'speed'",
        "optim_wrapper = dict(optimizer=dict(speed=1))",
    ),
    Fault(
        "a negative learning rate", TRAIN, "Invalid learning rate: -1", "optim_wrapper = dict(optimizer=dict(lr=-1))"
    ),
    Fault("a hook that does not exist", TRAIN, "AbsentHook is not in the", "custom_hooks = [dict(type='AbsentHook')]"),
    # the distiller
    Fault(
        "all mappings deleted",
        TRAIN,
        "distill_losses.loss_fpn0: got no loss_forward_mappings.loss_fpn0",
        distiller("loss_forward_mappings=dict(_delete_=True)"),
    ),
    Fault(
        "a loss without a mapping",
        TRAIN,
        "distill_losses.loss_more: got no loss_forward_mappings.loss_more",
        distiller("distill_losses=dict(loss_more=dict(type='L2Loss'))"),
    ),
    Fault(
        "a mapping without a loss",
        TRAIN,
        "loss_forward_mappings.loss_fpn9: got no such loss, expected one of loss_fpn0",
        distiller(f"loss_forward_mappings=dict(loss_fpn9=dict(s_feature={MAP}))"),
    ),
    Fault(
        "no loss at all",
        TRAIN,
        "got no distill_losses, expected at least one",
        distiller("distill_losses=dict(_delete_=True), loss_forward_mappings=dict(_delete_=True)"),
    ),
    Fault(
        "the student on both sides of a loss",
        TRAIN,
        "got from_student=True for all of s_feature, t_feature",
        mapping(teacher=True),
    ),
    Fault("a side that is neither", TRAIN, "loss_fpn1.s_feature: got", mapping(student="yes")),
    Fault(
        "a mapping to a recorder that is not there",
        TRAIN,
        "loss_fpn1.s_feature: got 'neck', expected one of",
        mapping("neck"),
    ),
    Fault(
        "a mapping to a connector that is not there",
        TRAIN,
        "got 'absent', expected one of distiller.connectors: none",
        mapping(more=", connector='absent'"),
    ),
    Fault(
        "a level that the student's neck lacks",
        TRAIN,
        "loss_forward_mappings.loss_fpn1.s_feature (student recorder",
        mapping(level=7),
    ),
    Fault(
        "a record that the teacher does not make",
        TRAIN,
        "teacher recorder 'fpn': got 1 records of neck, expected 4",
        distiller("loss_forward_mappings=dict(loss_fpn1=dict(t_feature=dict(record_idx=3)))"),
    ),
    Fault(
        "a student recorder on no module",
        TRAIN,
        "distiller.student_recorders.fpn: got source='nek', expected a module",
        distiller("student_recorders=dict(fpn=dict(source='nek'))"),
    ),
    Fault(
        "a teacher recorder on no module",
        TRAIN,
        "teacher_recorders.fpn: got source='backbone.layer5', expected a module",
        distiller("teacher_recorders=dict(fpn=dict(source='backbone.layer5'))"),
    ),
    Fault(
        "a recorder of an unknown kind",
        TRAIN,
        "AbsentRecorder is not in the",
        distiller("student_recorders=dict(fpn=dict(type='Absent'))"),
    ),
    Fault(
        "an unknown loss",
        TRAIN,
        "AbsentLoss is not in the",
        distiller("distill_losses=dict(loss_fpn1=dict(_delete_=True, type='AbsentLoss'))"),
    ),
    Fault(
        "an argument that the loss lacks",
        TRAIN,
        "unexpected keyword argument 'loss_weigth'",
        distiller("distill_losses=dict(loss_fpn1=dict(loss_weigth=3))"),
    ),
    Fault(
        "an unknown affinity",
        TRAIN,
        "affinity: got 'cosine', expected one of dot_product",
        distiller("distill_losses=dict(loss_fpn1=dict(affinity='cosine'))"),
    ),
    Fault(
        "a loss for other channels than the teacher's",
        TRAIN,
        "distill_losses.loss_fpn1: teacher feature: got 64 channels",
        distiller("distill_losses=dict(loss_fpn1=dict(in_channels=256))"),
    ),
    Fault(
        "a student with other channels than the teacher",
        TRAIN,
        "In the configuration, add a connector to the student's side of the mapping: dict(type='ConvModuleConnector'",
        "model = dict(architecture=dict(neck=dict(out_channels=32), bbox_head=dict(in_channels=32)), "
        "distiller=dict(levels=[0, 1, 2, 3]))",
    ),
    Fault(
        "a connector for other channels than the student's",
        TRAIN,
        "connector='one'): Given groups=1",
        mapping(more=", connector='one'").replace(
            "distiller=dict(",
            "distiller=dict(connectors=dict(one=dict(type='ConvModuleConnector', in_channel=32, out_channel=64)), ",
        ),
    ),
    Fault(
        "a connector of tokens on a map",
        TRAIN,
        "expected tokens (B, N, C)",
        mapping(more=", connector='one'").replace(
            "distiller=dict(", "distiller=dict(connectors=dict(one=dict(type='TokensToMap')), "
        ),
    ),
    Fault(
        "a teacher with fewer levels than its neck can have",
        TRAIN,
        "assert ",
        "model = dict(teacher=dict(neck=dict(num_outs=3)))",
    ),
    Fault("maps of two strides", TRAIN, "distill_losses.loss_fpn1: got H x W", mapping(level=2)),
    # weights
    Fault(
        "a teacher's file that is not there",
        OPTIONS + "teacher_ckpt=absent.pth",
        "got absent.pth, expected an existing",
    ),
    Fault("a teacher's file of text", OPTIONS + "teacher_ckpt={text}", "cannot be read as a checkpoint"),
    Fault("an empty teacher's file", OPTIONS + "teacher_ckpt={empty}", "cannot be read as a checkpoint"),
    Fault("half a teacher's file", OPTIONS + "teacher_ckpt={half}", "cannot be read as a checkpoint"),
    Fault("a teacher's file that carries code", OPTIONS + "teacher_ckpt={code}", "reading it could run code"),
    Fault("a teacher's file that holds a list", OPTIONS + "teacher_ckpt={list}", "got a list, expected a checkpoint"),
    Fault("a list as state_dict", OPTIONS + "teacher_ckpt={state_list}", "got a list as state_dict"),
    Fault("a distillation's checkpoint for the teacher", OPTIONS + "teacher_ckpt={distilled}", "is a distillation's"),
    Fault(
        "the student's checkpoint for the teacher", OPTIONS + "teacher_ckpt={student_ckpt}", "do not fit the teacher"
    ),
    Fault("a teacher's file of batch counters alone", OPTIONS + "teacher_ckpt={counters}", "196 tensors that the"),
    Fault(
        "a teacher's file with one bias that fits",
        OPTIONS + "teacher_ckpt={one_bias}",
        "195 tensors that the distillation",
    ),
    Fault(
        "a teacher's file with its backbone alone",
        OPTIONS + "teacher_ckpt={backbone}",
        "neck.lateral_convs.0.conv.weight",
    ),
    Fault(
        "a teacher's file with its head alone",
        OPTIONS + "teacher_ckpt={head}",
        "196 tensors that the distillation needs",
    ),
    Fault("no weights for the teacher", OPTIONS + "teacher_ckpt=None", "got None, in which 196 tensors"),
    Fault(
        "CrossKD under a teacher without its head",
        OPTIONS + "teacher_ckpt={no_head}",
        "bbox_head.",
        "model = dict(type='CrossKD', start=2, distiller=dict(_delete_=True, type='ConfigurableDistiller'))",
    ),
    Fault(
        "inheriting from a teacher without its head",
        OPTIONS + "teacher_ckpt={no_head}",
        "bbox_head.",
        "custom_hooks = [dict(type='InheritTeacherHook', modules=['bbox_head'])]",
    ),
    Fault(
        "a checkpoint that cannot be fetched",
        OPTIONS + "teacher_ckpt=http://127.0.0.1:9/absent.pth",
        "could not be fetched",
    ),
    Fault(
        "an unknown name of torchvision's",
        TRAIN,
        "torchvision:// like resnet18",
        "model = dict(architecture=dict(init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18x')))",
    ),
    Fault("load_from that is not there", OPTIONS + "load_from=absent.pth", "got absent.pth, expected an existing .pth"),
    Fault("load_from of text", OPTIONS + "load_from={text}", "cannot be read as a checkpoint"),
    Fault(
        "load_from of which nothing fits",
        OPTIONS + "load_from={student_ckpt}",
        "load_from: no tensor of the checkpoint",
    ),
    # data
    Fault(
        "another number of classes in the student's head",
        TRAIN,
        "bbox_head: got num_classes=7, expected 10",
        "model = dict(architecture=dict(bbox_head=dict(num_classes=7)))",
    ),
    Fault(
        "classes as one word",
        TRAIN,
        "metainfo classes='digit', expected a tuple",
        "train_dataloader = dict(dataset=dict(metainfo=dict(classes='digit')))",
    ),
    Fault(
        "classes that the annotations do not have",
        TRAIN,
        "the labels of the others would be shifted",
        "train_dataloader = dict(dataset=dict(metainfo=dict(classes=tuple('abcdefghij'))))",
    ),
    Fault(
        "annotations that are not there",
        TRAIN,
        "absent.json",
        "train_dataloader = dict(dataset=dict(ann_file='absent.json'))",
    ),
    Fault(
        "images that are not there",
        TRAIN,
        "No such file or directory",
        "train_dataloader = dict(dataset=dict(data_prefix=dict(img='absent/')))",
    ),
    Fault(
        "a loss that is not a number",
        TRAIN,
        "got distill.loss_fpn1=nan, expected a finite number",
        distiller("distill_losses=dict(loss_fpn1=dict(loss_weight=float('nan')))"),
    ),
    # the command line
    Fault("an override of a key that does not exist", OPTIONS + "optim_wraper.optimizer.lr=1", "like optim_wrapper"),
    Fault(
        "an override without a value", OPTIONS + "optim_wrapper", "--cfg-options: got optim_wrapper, expected key=value"
    ),
    Fault("processes that nothing started", f"{TRAIN} --launcher pytorch", "RANK is not set. Start the run with"),
    Fault("Slurm without Slurm", f"{TRAIN} --launcher slurm", "SLURM_PROCID is not set. Start the run with"),
    Fault("MPI without MPI", f"{TRAIN} --launcher mpi", "OMPI_COMM_WORLD_LOCAL_RANK is not set"),
    Fault("--auto-scale-lr without a base batch size", f"{TRAIN} --auto-scale-lr", "no auto_scale_lr.base_batch_size"),
    Fault("a work dir that is a file", "train.py {config} --work-dir {text}", "{text}"),
    Fault("a work dir that cannot be made", "train.py {config} --work-dir /proc/run", "/proc/run"),
]

TEST = "test.py {config} "
TESTING = [
    Fault("a checkpoint that is not there", TEST + "absent.pth", "got absent.pth, expected an existing .pth file"),
    Fault("a checkpoint of text", TEST + "{text}", "cannot be read as a checkpoint"),
    Fault("a checkpoint that carries code", TEST + "{code}", "reading it could run code"),
    Fault("half a checkpoint", TEST + "{half}", "cannot be read as a checkpoint"),
    Fault("the teacher's checkpoint for the student", TEST + "{teacher_ckpt}", "does not fit the model of"),
    Fault("a checkpoint without the student's head", TEST + "{student_headless}", "Missing key(s)"),
    Fault("predictions that are no .pkl", TEST + "{student_ckpt} --out a.json", "--out: got a.json"),
    Fault("a configuration without test data", TEST + "{student_ckpt}", "test_dataloader", "test_dataloader = None"),
    Fault(
        "test annotations that are not there",
        TEST + "{student_ckpt}",
        "absent.json",
        "test_dataloader = dict(dataset=dict(ann_file='absent.json'))",
    ),
    Fault(
        "an override of a key that does not exist",
        TEST + "{student_ckpt} --cfg-options test_dataloder.batch_size=1",
        "like test_dataloader",
    ),
]

IMAGE = "visualizations/predictions.py {image} --out-file {out} "
TOOLS = [
    Fault(
        "a download that lacks files of the data set",
        "dataset_tools/prepare_public_data.py camvid {base}.absent --out {out}",
        "got 1402 of 1402 files that are not camvid's",
    ),
    Fault(
        "a checkpoint that is not there", "model_converters/convert_kd_ckpt_to_student.py absent.pth", "got absent.pth"
    ),
    Fault(
        "a student's own checkpoint",
        "model_converters/convert_kd_ckpt_to_student.py {student_ckpt}",
        "not a distillation checkpoint",
    ),
    Fault("a checkpoint that carries code", "model_converters/convert_kd_ckpt_to_student.py {code}", "could run code"),
    Fault(
        "a checkpoint of text", "model_converters/shrink_ckpt.py {text} {out}/a.pth", "cannot be read as a checkpoint"
    ),
    Fault("no model", IMAGE, "got no model, expected at least one"),
    Fault(
        "two models of one title",
        IMAGE + "--model a {config} {student_ckpt} --model a {config} {student_ckpt}",
        "titles: got a, a",
    ),
    Fault("a model of another library", IMAGE + "--model a {config} {student_ckpt} --repo mmseg", "--repo: got mmseg"),
    Fault(
        "a device that is not there", IMAGE + "--model a {config} {student_ckpt} --device warp", "device: got 'warp'"
    ),
    Fault(
        "an image that is not there",
        "visualizations/predictions.py absent.png --out-file {out} --model a {config} {student_ckpt}",
        "absent.png",
    ),
    Fault("a checkpoint of another model", IMAGE + "--model a {config} {teacher_ckpt}", "does not fit the model of"),
    Fault(
        "the attention of a student alone",
        "visualizations/attention.py {image} {student} {student_ckpt} --out-file {out}",
        "expected a distillation's",
    ),
    Fault("a configuration that does not exist", "list_modules.py absent.py", "got absent.py"),
    Fault("a data file that does not exist", "make_config.py rtmdet-t --data absent.py", "--data: got absent.py"),
    Fault("data without classes", "make_config.py rtmdet-t --data {data_no_classes}", "expected classes, too"),
    Fault(
        "classes that the annotations do not have",
        "make_config.py rtmdet-t --data {data_other_classes}",
        "own_data.classes: got cat, which",
    ),
    Fault(
        "images that are not there",
        "make_config.py rtmdet-t --data {data_no_images}",
        "absent, expected an existing folder",
    ),
    Fault(
        "masks with labels beyond the classes",
        "make_config.py segformer_mit-b0_8xb2-160k_ade20k-512x512 --data {data_masks}",
        "got the label 5 in a mask, expected 0 to 1 or 255",
    ),
    Fault(
        "masks for a detector",
        "make_config.py rtmdet-t --data {data_right_masks}",
        "got masks, which train a segmenter; this recipe is none",
    ),
    Fault(
        "a folder without a known layout",
        "make_config.py rtmdet-t --data-root {out} --classes cat,dog",
        "--data-root: got",
    ),
    Fault(
        "a configuration that does not exist", "deployment/export_student.py absent.py {student_ckpt}", "got absent.py"
    ),
    Fault(
        "a checkpoint that does not fit",
        "deployment/export_student.py {student} {teacher_ckpt} --out {out}/a.onnx",
        "does not fit the model of",
    ),
    Fault(
        "predictions that are not there", "analysis_tools/confusion_matrix.py {student} absent.pkl {out}", "absent.pkl"
    ),
    Fault(
        "CrossKD of heads that do not fit",
        "make_config.py retinanet_r18_fpn_1x_coco faster-rcnn_r50_fpn_1x_coco --method crosskd --out {out}",
        "got a teacher whose bbox_head is NoneType, expected one of GFLHead",
    ),
    Fault(
        "CrossKD of maps",
        "make_config.py retinanet_r18_fpn_1x_coco retinanet_r50_fpn_1x_coco --method crosskd --source neck --out {out}",
        "--source, --levels: got them with crosskd, which compares predictions",
    ),
    Fault(
        "an unknown family",
        "analysis_tools/zoo_sweep.py --families yolo9000 --out {out}",
        "--families: got yolo9000, expected some of mmdet's",
    ),
    Fault(
        "a work dir that is not there",
        "analysis_tools/report.py absent --out {out}/a.html",
        "work_dir: got absent, expected an existing folder",
    ),
    Fault(
        "a folder without a training",
        "analysis_tools/report.py . --out {out}/a.html",
        "expected a folder that `cankd train` wrote, or one that contains such folders",
    ),
    Fault("a run that is not there", "analysis_tools/plot_curves.py absent --out {out}/a.png", "absent"),
]


INTRODUCTION = """\
# Error messages

Before its first step, `train.py` checks that

- the keys of the configuration exist, and every loss of the distiller has a mapping to recorders that exist,
- every tensor of the teacher that the distillation losses or the inheriting strategy use was loaded from a checkpoint,
- the heads have as many classes as the data, and `load_from` fits the model.

A run stops at the first loss that is not finite, and writes the losses, the images and the weights of that step to the
work dir. A checkpoint that contains code is not read. Each check can be switched off:

| to | use |
| --- | --- |
| distil from a teacher that is not trained | `--cfg-options allow_untrained_teacher=True` |
| skip the steps whose loss is not finite | `--cfg-options default_hooks.finite_loss.skip=True` |
| read a checkpoint that contains code, and run that code | `--trust-checkpoints` |
| see the traceback of an error | `--debug` |

## Errors and their messages

Every error below ends the tool with exit status 1 (2 for a wrong command line). The tables show a part of the last
line that the tool prints. `tests/openmmlab/commands/test_faults.py` produces each of them; this page is written by
`python -m tests.faults`.
"""


def document() -> str:
    """Returns docs/faults.md: each fault with the part of the message that the test expects."""
    lines = [INTRODUCTION.rstrip()]
    for title, faults in (("Training", TRAINING), ("Testing", TESTING), ("Other tools", TOOLS)):
        lines += ["", f"### {title}", "", "| cause | message |", "| --- | --- |"]
        for fault in faults:
            tool = f"{fault.arguments.split()[0].split('/')[-1]}: " if faults is TOOLS else ""
            message = fault.message.replace("{text}", "FILE").replace("|", "\\|").replace("`", "'").strip()
            lines.append(f"| {tool}{fault.what} | `{message}` |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_text(DOC, document())
