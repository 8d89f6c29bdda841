"""The models that the installed packages describe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mmengine.hub import get_config

from cankd.openmmlab.zoo import PACKAGES, ZooModel, find_config, rivals, zoo, zoo_model
from tests.configs.stock_models import weights_of

RTMDET = "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py"
PSPNET = "mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py"


def _model(config: str) -> ZooModel:
    model = zoo_model(config)
    assert model and model.config == config
    return model


def _name_of(checkpoint: str | None) -> str:
    """The name of a checkpoint's file, which is the same on every mirror."""
    return str(checkpoint).rsplit("/", 1)[-1]


@pytest.mark.parametrize(("package", "least"), [("mmdet", 550), ("mmseg", 550), ("mmpretrain", 200)])
def test_every_configuration_exists_and_is_there_once(package, least):
    models = zoo(package)
    configs = [model.config for model in models]
    assert len(configs) == len(set(configs)) > least
    assert all(config.startswith(f"{package}::") for config in configs)
    assert sum(model.checkpoint is not None for model in models) > least
    assert sum(bool(model.accuracies) for model in models) > 0.9 * least
    for config in configs[:: len(configs) // 5]:
        assert get_config(config).model


@pytest.mark.parametrize("config", [RTMDET, PSPNET])
def test_a_model_has_its_checkpoint(config):
    expected = weights_of(config.split("::")[0])[Path(config).stem]
    assert _name_of(_model(config).checkpoint) == _name_of(expected)


def test_a_model_has_its_accuracies():
    accuracies = {config: _model(config).accuracies for config in (RTMDET, PSPNET)}
    assert accuracies == {RTMDET: {("COCO", "box AP"): 40.9}, PSPNET: {("Cityscapes", "mIoU"): 74.87}}
    mask_rcnn = _model("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py")
    assert list(mask_rcnn.accuracies) == [("COCO", "box AP"), ("COCO", "mask AP")]
    resnet = _model("mmpretrain::resnet/resnet18_8xb32_in1k.py")
    assert resnet.accuracies[("ImageNet-1k", "top-1")] == 69.9 and resnet.parameters == 11690000 and resnet.flops


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("rtmdet-t", RTMDET),
        ("rtmdet_tiny_8xb32-300e_coco", RTMDET),
        ("rtmdet_tiny", RTMDET),
        ("RTMDet-T", RTMDET),
        ("yolox-s", "mmdet::yolox/yolox_s_8xb8-300e_coco.py"),
        (RTMDET, RTMDET),
        (RTMDET[:-3], RTMDET),
        ("yolox_tiny_8x8_300e_coco", "mmdet::yolox/yolox_tiny_8xb8-300e_coco.py"),  # the index's name, not the file's
        ("faster-rcnn_r50_fpn_gn-ws-all_1x", "mmdet::gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py"),  # URL-encoded
        ("mask-rcnn_r50_fpn_albu-1x_coco", "mmdet::albu_example/mask-rcnn_r50_fpn_albu-1x_coco.py"),  # without a folder
        ("ddq-detr-4scale_swinl", "mmdet::ddq/ddq-detr-4scale_swinl_8xb2-30e_coco.py"),  # of a wrong folder
        ("mmdet::_base_/models/retinanet_r50_fpn.py", "mmdet::_base_/models/retinanet_r50_fpn.py"),  # in no index
    ],
)
def test_a_name_leads_to_its_configuration(name, config):
    assert find_config(name) == config


def test_a_file_is_its_own_name(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("model = dict()\n")
    assert find_config(str(file)) == str(file)
    assert find_config("cankd::demo/quickstart_student.py") == "cankd::demo/quickstart_student.py"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "retinanet_r18",
            r"'retinanet_r18', with which the names of \d+ models begin: retinanet_r18_fpn_1x_coco, .*more",
        ),
        ("rtmdet_tyni_8xb32-300e_coco", f"no installed package describes. The nearest are {re.escape(RTMDET)}"),
        ("mmdet::rtmdet/rtmdet_tyni_8xb32-300e_coco.py", f"The nearest are {re.escape(RTMDET)}"),
        ("yolox-m", "The nearest are .*mmdet::yolox/yolox_s_8xb8-300e_coco.py"),
        ("mmfoo::a/b.py", "no installed package describes. The nearest are none; give the path of a file"),
        ("absent.py", "got the configuration absent.py, expected an existing file"),
        ("cankd::absent.py", "got the configuration cankd::absent.py, expected an existing file"),
    ],
)
def test_an_unknown_name_is_one_line(name, message):
    with pytest.raises(ValueError, match=message) as error:
        find_config(name)
    assert "\n" not in str(error.value)


def test_of_two_entries_the_one_with_the_configurations_name_counts():
    expected = {
        "pspnet_r50b-d32_4xb2-80k_cityscapes-512x1024": "pspnet_r50b-d32",
        "twins_pcpvt-l_uperhead_8xb2-160k_ade20k-512x512": "twins_pcpvt-l",
        "ocrnet_hr18s_4xb4-80k_ade20k-512x512": "ocrnet_hr18s_512x512_80k",
    }
    for name, start in expected.items():
        assert _name_of(_model(find_config(name)).checkpoint).startswith(start)


def test_rivals_are_better_and_come_best_first():
    benchmark = ("COCO", "box AP")
    student = _model(RTMDET)
    found = list(rivals(student, benchmark))
    accuracies = [model.accuracies[benchmark] for model in found]
    assert accuracies == sorted(accuracies, reverse=True) and min(accuracies) > 40.9
    assert all(model.checkpoint and model.config.startswith("mmdet::") for model in found)
    assert "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py" in {model.config for model in found}
    assert not any("soft-teacher" in model.config or "track" in model.config for model in found)
    best = next(model for model in zoo("mmdet") if model.config == found[0].config)
    assert list(rivals(best, benchmark)) == []


def test_all_packages_are_read_at_once():
    assert len(zoo()) == sum(len(zoo(package)) for package in PACKAGES)
