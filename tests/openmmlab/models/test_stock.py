from __future__ import annotations

import pytest

from cankd.openmmlab.models import stock_model
from cankd.openmmlab.models.stock import merge_differences, stock_config

RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"


def test_differences_are_merged_deeply_and_the_rest_is_stock():
    model = stock_model(RETINANET, backbone=dict(depth=18, init_cfg=None), neck=dict(in_channels=[64, 128, 256, 512]))
    assert len(model.backbone.layer1) == 2 and model.bbox_head.num_classes == 80
    model = stock_model(RETINANET, backbone=dict(init_cfg=None), bbox_head=dict(num_classes=3))
    assert model.bbox_head.num_classes == 3 and model.backbone.frozen_stages == 1


def test_arguments_that_the_stock_config_leaves_at_their_default_are_known():
    backbone, neck = dict(base_channels=16, init_cfg=None), dict(in_channels=[64, 128, 256, 512])
    model = stock_model(RETINANET, backbone=backbone, neck=neck)
    assert model.backbone.conv1.out_channels == 16


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({"bbox_head": {"num_class": 3}}, "bbox_head.num_class.*num_classes"),
        ({"head": {"num_classes": 3}}, "head"),
        ({"train_cfg": {"asigner": {}}}, "assigner"),
        ({"bbox_head": {"anchor_generator": {"stride": [4]}}}, "strides"),
    ],
    ids=str,
)
def test_unknown_keys_are_refused_with_the_nearest_names(differences, message):
    with pytest.raises(KeyError, match=message):
        stock_model(RETINANET, **differences)


@pytest.mark.parametrize("key", ["_replace_", "_delete_"])
def test_a_dict_can_be_replaced(key):
    stock = {"loss": {"type": "A", "w": 1, "inner": {"x": 1}}, "parts": [{"type": "A"}], "scale": [1]}
    differences = {"loss": {key: True, "type": "B", "inner": {key: True, "y": 2}}, "parts": [{key: True, "type": "C"}]}
    merged = merge_differences(stock, differences, "model")
    assert merged == {"loss": {"type": "B", "inner": {"y": 2}}, "parts": [{"type": "C"}], "scale": [1]}
    assert merge_differences({"loss": {"w": 1}}, {"loss": {key: False, "w": 2}}, "model") == {"loss": {"w": 2}}


def test_what_the_libraries_take_out_themselves_is_known():
    model = stock_model(
        RETINANET,
        _scope_="mmdet",
        backbone=dict(
            init_cfg=dict(_replace_=True, type="Kaiming", layer="Conv2d"), norm_cfg=dict(requires_grad=False)
        ),
    )
    assert not model.backbone.bn1.weight.requires_grad
    config = stock_config(RETINANET, backbone=dict(init_cfg=dict(prefix="backbone.")))
    assert config["backbone"]["init_cfg"]["prefix"] == "backbone."


def test_the_models_own_preprocessor_wins(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "data_preprocessor = dict(type='DetDataPreprocessor', pad_size_divisor=1)\n"
        "model = dict(type='RetinaNet', data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=64))\n"
    )
    assert stock_config(str(file))["data_preprocessor"]["pad_size_divisor"] == 64


def test_a_dict_over_a_list_goes_into_each_of_its_dicts():
    cascade = "mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py"
    heads = stock_config(cascade, roi_head=dict(bbox_head=dict(num_classes=3)))["roi_head"]["bbox_head"]
    assert [head["num_classes"] for head in heads] == [3, 3, 3]


def test_a_configuration_file_of_ones_own_can_be_the_stock(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"model = dict(type='mmrazor.StockModel', cfg='{RETINANET}', bbox_head=dict(num_classes=5))\n")
    config = stock_config(str(file), backbone=dict(depth=101))
    assert config["bbox_head"]["num_classes"] == 5 and config["backbone"]["depth"] == 101
