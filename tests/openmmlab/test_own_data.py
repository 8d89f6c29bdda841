"""Data of one's own laid over stock configurations: what is described, found, refused and changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS

from cankd.openmmlab.config_sources import resolve
from cankd.openmmlab.configs import expand_config, in_scope, read_config
from cankd.openmmlab.loading import build_model
from cankd.openmmlab.own_data import CheckMask, OwnData, check_own_data, data_in
from cankd.openmmlab.own_recipe import with_classes

CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


@pytest.fixture(scope="module")
def boxes(mini_data) -> dict[str, Any]:
    splits = {name: dict(annotations=f"annotations/{name}.json", images=f"{name}/") for name in ("train", "val")}
    return dict(root=str(mini_data), classes=CLASSES, **splits)


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> dict[str, Any]:
    """Two images of each split with the labels 0, 1, 2 and 7, which is void."""
    root = tmp_path_factory.mktemp("masks")
    labels = np.zeros((96, 128), np.uint8)
    labels[40:, :64], labels[40:, 64:], labels[:8] = 1, 2, 7
    for split in ("train", "val"):
        for folder, image in (("images", np.full((96, 128, 3), 127, np.uint8)), ("masks", labels)):
            (root / folder / split).mkdir(parents=True)
            for number in range(2):
                cv2.imwrite(str(root / folder / split / f"{number}.png"), image)
    splits = {name: dict(images=f"images/{name}", masks=f"masks/{name}") for name in ("train", "val")}
    return dict(root=str(root), classes=("sky", "road", "car"), void=7, **splits)


def _counts(value: Any) -> list[int]:
    """The values of all num_classes in a configuration."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    own = [value["num_classes"]] if isinstance(value, dict) and "num_classes" in value else []
    return own + [count for part in parts for count in _counts(part)]


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        ("mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py", 1),
        ("mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py", 4),
        ("mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py", 1),
        ("mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py", 3),
    ],
)
def test_every_head_of_a_detector_gets_the_classes(config, heads, boxes):
    cfg = read_config(config, {"own_data": boxes})
    assert _counts(cfg.model) == [10] * heads
    for split in ("train", "val", "test"):
        dataset = cfg[f"{split}_dataloader"].dataset
        assert dataset.metainfo.classes == CLASSES and dataset.data_root == boxes["root"]
    assert cfg.test_evaluator.ann_file == f"{boxes['root']}/annotations/val.json"
    assert "segm" in cfg.val_evaluator.metric if heads > 1 else cfg.val_evaluator.metric == "bbox"


def test_weights_of_the_recipes_classes_do_not_stay(boxes, masks):
    queries = read_config("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py", {"own_data": boxes}).model
    assert (queries.panoptic_head.num_things_classes, queries.panoptic_head.num_stuff_classes) == (10, 0)
    assert queries.panoptic_head.loss_cls.class_weight == [1.0] * 10 + [0.1]
    assert queries.panoptic_fusion_head.num_things_classes == 10
    pidnet = read_config("mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py", {"own_data": masks}).model
    assert pidnet.decode_head.num_classes == 3
    assert not any("class_weight" in loss for loss in pidnet.decode_head.loss_decode)
    stdc = read_config("mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py", {"own_data": masks}).model
    assert [head.num_classes for head in stdc.auxiliary_head] == [3, 3, 2]  # the last one tells boundaries


@pytest.mark.parametrize(
    "config",
    [
        "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
        "mmdet::yolox/yolox_tiny_8xb8-300e_coco.py",  # a wrapper that mixes images
        "mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py",  # two data sets, joined and repeated
        "mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py",  # classes balanced
    ],
)
def test_wrapped_data_sets_give_images_of_the_size(config, boxes):
    cfg = read_config(config, {"own_data": {**boxes, "image_size": 96}})
    kept = cfg.train_dataloader.dataset
    while "dataset" in kept:
        kept = kept.dataset
    assert kept.type == "CocoDataset"
    with in_scope(cfg):
        sample = DATASETS.build(cfg.train_dataloader.dataset)[0]
    assert max(sample["inputs"].shape[1:]) <= 160  # YOLOX trains larger than it tests
    for hook in cfg.get("custom_hooks") or []:
        if "switch_pipeline" in hook:
            assert {t.type: t for t in hook.switch_pipeline}["RandomCrop"].crop_size == (96, 96)


def test_sizes_of_a_pipeline_change_alike(boxes):
    cfg = read_config("mmdet::detr/detr_r50_8xb2-150e_coco.py", {"own_data": {**boxes, "image_size": 320}})
    resize, crops = cfg.train_dataloader.dataset.pipeline[3].transforms  # of images of 1333 x 800
    assert resize[0].scales[0] == (192, 320) and resize[0].scales[-1] == (320, 320)
    assert crops[0].scales[-1] == (240, 320) and crops[1].crop_size == (160, 240)
    yolox = read_config("mmdet::yolox/yolox_s_8xb8-300e_coco.py", {"own_data": {**boxes, "image_size": (320, 256)}})
    mosaic, affine = yolox.train_dataloader.dataset.pipeline[:2]
    assert mosaic.img_scale == (320, 256) and affine.border == (-160, -128)
    assert yolox.model.data_preprocessor.batch_augments[0].random_size_range == (192, 320)
    vit = "mmseg::segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py"
    own = dict(root="", classes=("a", "b"), train=dict(images="a", masks="b"), val=dict(images="a", masks="b"))
    windows = read_config(vit, {"own_data": {**own, "image_size": 256}}).model.test_cfg
    assert (windows.crop_size, windows.stride) == ((256, 256), (240, 240))


def test_the_length_of_a_schedule(boxes):
    stock = "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py"
    cfg = read_config(stock, {"own_data": {**boxes, "epochs": 30, "batch_size": 4}})
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval, cfg.train_cfg.dynamic_intervals) == (
        30,
        10,
        [(28, 1)],
    )
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, cosine.begin, cosine.end, cosine.T_max) == (100, 15, 30, 15)
    assert cfg.custom_hooks[1].switch_epoch == 28 and cfg.train_dataloader.batch_size == 4
    own = dict(type="LinearLR", start_factor=0.1, end=30)  # laid over the recipe for the new length
    (kept,) = read_config(stock, {"own_data": {**boxes, "epochs": 30}, "param_scheduler": [own]}).param_scheduler
    assert kept == own
    yolox = read_config("mmdet::yolox/yolox_tiny_8xb8-300e_coco.py", {"own_data": {**boxes, "epochs": 60}})
    assert yolox.custom_hooks[0].num_last_epochs == 3
    with pytest.raises(ValueError, match="got no epochs, which this recipe counts"):
        read_config(stock, {"own_data": {**boxes, "iterations": 100}})


def test_a_segmenter_loads_masks_without_void(masks):
    config = "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"  # whose data leave the label 0 out
    cfg = read_config(config, {"own_data": {**masks, "image_size": (128, 96)}})
    assert cfg.model.decode_head.num_classes == 3 and cfg.model.data_preprocessor.size == (96, 128)
    assert cfg.data_preprocessor.size == (96, 128)
    with in_scope(cfg):
        for split, allowed in (("train", {0, 1, 2, 255}), ("test", {0, 1, 2, 255})):
            dataset = DATASETS.build(cfg[f"{split}_dataloader"].dataset)
            assert len(dataset) == 2 and dataset.metainfo["classes"] == ("sky", "road", "car")
            labels = set(dataset[0]["data_samples"].gt_sem_seg.data.unique().tolist())
            assert labels <= allowed
        assert labels == {0, 1, 2, 255}


def test_a_segmenters_base_without_cityscapes(masks, tmp_path):
    files = ["cankd::_base_/segmentation_own_data.py", "cankd::_base_/segmenter_backbone.py"]
    (tmp_path / "masks.py").write_text(f"own_data = {masks!r}\n")
    pspnet = "mmseg::pspnet/pspnet_{}-d8_4xb2-80k_cityscapes-512x1024.py"
    models = [
        f"{side}=dict(cfg='{pspnet.format(depth)}')" for side, depth in (("architecture", "r18"), ("teacher", "r101"))
    ]
    (tmp_path / "mine.py").write_text(f"_base_ = {[*files, 'masks.py']!r}\nmodel = dict({', '.join(models)})\n")
    cfg = read_config(tmp_path / "mine.py")
    assert "ityscapes" not in str(cfg.train_dataloader) and cfg.val_cfg.type == "DistillValLoop"
    assert build_model(cfg).decode_head.num_classes == 3
    sources = resolve(tmp_path / "mine.py").sources
    assert sources["train_dataloader", "dataset", "metainfo", "classes"].endswith("masks.py")
    assert sources["train_dataloader", "sampler", "type"].endswith("segmentation_own_data.py")


def test_the_student_gets_the_classes_and_the_teacher_what_it_says(boxes):
    stock = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
    cfg = read_config("cankd::distill/mmdet/cankd/cankd_fpn_retinanet_r101_retinanet_r50_2x_coco.py")
    cfg = Config({**cfg.to_dict(), "own_data": boxes})
    cfg.model.architecture.cfg = cfg.model.teacher.cfg = stock
    expand_config(cfg)
    assert build_model(cfg).bbox_head.num_classes == 10 and build_model(cfg, "teacher").bbox_head.num_classes == 80
    cfg.model.teacher.num_classes = 7
    assert build_model(cfg, "teacher").bbox_head.num_classes == 7


def test_classes_of_a_model_are_a_copy():
    model = dict(rpn_head=dict(num_classes=1), roi_head=dict(bbox_head=[dict(num_classes=80)] * 3))
    assert _counts(with_classes(model, 4)) == [1, 4, 4, 4] and _counts(model) == [1, 80, 80, 80]


# What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(classes="cat"), "own_data.classes: got 'cat', expected names such as"),
        (dict(classes=("0", "0")), "expected names that differ"),
        (dict(klasses=1), "got an unknown key klasses, expected one like classes"),
        (dict(train=dict(images="train")), "own_data.train: got {'images': 'train'}, expected dict"),
        (dict(val=dict(images="train", masks="masks")), "alike in all splits"),
        (dict(void=3), "own_data.void: got 3, expected a label of masks that is no class's"),
        (dict(palette=[(0, 0, 0)]), "got 1 colours for 10 classes"),
        (dict(image_size="96"), "own_data.image_size: got"),
        (dict(batch_size=0), "own_data.batch_size: got 0, expected a positive integer"),
    ],
)
def test_a_faulty_description(changes, message, boxes):
    with pytest.raises(ValueError, match="own_data") as raised:
        OwnData.of({**boxes, **changes})
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_description_without_classes_and_of_another_task(boxes, masks):
    with pytest.raises(ValueError, match="expected classes, too"):
        OwnData.of({key: value for key, value in boxes.items() if key != "classes"})
    with pytest.raises(ValueError, match="got masks, which train a segmenter; this recipe is none"):
        read_config("mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py", {"own_data": masks})
    with pytest.raises(ValueError, match="got a recipe that also learns maps of stuff"):
        read_config("mmdet::htc/htc_r50_fpn_1x_coco.py", {"own_data": boxes})
    with pytest.raises(ValueError, match="got annotations, which train a detector"):
        read_config("mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py", {"own_data": boxes})


def _refused(values: dict[str, Any], message: str, error: type[Exception] = ValueError, **options: Any) -> None:
    with pytest.raises(error) as raised:
        check_own_data(OwnData.of(values), **options)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_detection_data_that_are_not_there_or_others(boxes, tmp_path):
    check_own_data(OwnData.of(boxes))
    annotations = boxes["train"]["annotations"]
    there = dict(annotations=annotations, images="absent")
    _refused({**boxes, "train": there}, "own_data.train.images: got", FileNotFoundError)
    there = dict(annotations="absent.json", images="train")
    _refused({**boxes, "train": there}, "absent.json, expected an existing file", FileNotFoundError)
    _refused({**boxes, "train": dict(annotations=annotations, images="val/..")}, "which has no", FileNotFoundError)
    _refused({**boxes, "classes": ("0", "cat")}, "got cat, which")
    _refused({**boxes, "classes": ("1", "0")}, "has the order 0, 1")
    content = json.loads(Path(boxes["root"], annotations).read_text())
    for found in content["annotations"]:
        found.pop("segmentation", None)
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    there = dict(annotations=str(tmp_path / "boxes.json"), images="train")
    _refused({**boxes, "train": there}, "got no segmentation of the objects", with_masks=True)


def test_masks_with_other_labels(masks):
    check_own_data(OwnData.of(masks))
    _refused({**masks, "void": None}, "got the label 7 in a mask, expected 0 to 2 or 255")
    _refused({**masks, "classes": ("sky", "road")}, "got the label 2 in a mask, expected 0 to 1, 7 (void) or 255")
    absent = dict(images="images/train", masks="images")
    _refused({**masks, "train": absent}, "own_data.train.masks: got no", FileNotFoundError)
    image = dict(images="images/train", masks="images/train")
    _refused({**masks, "train": image}, "got a mask with 3 channels, expected one with a label for each pixel")
    labels = np.array([[0, 1], [7, 255]], np.uint8)
    done = CheckMask(num_classes=2, void=7)({"gt_seg_map": labels, "seg_map_path": "a.png"})
    assert done["gt_seg_map"].tolist() == [[0, 1], [255, 255]]
    with pytest.raises(ValueError, match="a.png: got the label 1 in a mask, expected 0 to 0"):
        CheckMask(num_classes=1)({"gt_seg_map": labels, "seg_map_path": "a.png"})


# Layouts that need no description.


def test_standard_layouts(masks, mini_data, tmp_path):
    found = data_in(Path(masks["root"]), masks["classes"])
    assert {key: found[key] for key in ("train", "val")} == {key: masks[key] for key in ("train", "val")}
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").symlink_to(mini_data / split)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        content = json.loads((mini_data / f"annotations/{split}.json").read_text())
        (tmp_path / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    found = data_in(tmp_path, CLASSES)
    assert found["train"] == dict(annotations="annotations/instances_train.json", images="train2017")
    check_own_data(OwnData.of(found))
    with pytest.raises(FileNotFoundError, match="--data-root: got .*, expected annotations/instances_train.json"):
        data_in(tmp_path / "val2017", CLASSES)
