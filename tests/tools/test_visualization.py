"""The visualization tools, run as commands on real checkpoints, and what their pictures show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Sequence

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from mmrazor.registry import MODELS
from sklearn.datasets import load_digits

from cankd.losses import NLKDINLoss
from cankd.losses.cankd_naive import NaiveNLKDINLoss
from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.checkpoint_files import load_checkpoint_file
from cankd.openmmlab.commands.arguments import LoadedModel, feature_recorder
from cankd.openmmlab.compat import CLASSIFICATION
from cankd.openmmlab.configs import in_scope, read_config
from cankd.openmmlab.inference import predict, prepare
from cankd.openmmlab.loading import build_model, load_distillation, load_model
from cankd.openmmlab.visualization import Boxes, View, draw_label_panel, draw_map_grid
from cankd.openmmlab.visualization.attention import (
    Attention,
    attend,
    attention_row,
    draw_attention,
    fractions,
    residual_share,
)
from cankd.openmmlab.visualization.cam import backbone_stages, class_scores, grad_cam
from cankd.openmmlab.visualization.features import (
    FeatureRecorder,
    image_names,
    map_differences,
    network_view,
    panel_row,
    predicted_boxes,
    reduce_channels,
)
from cankd.openmmlab.visualization.ground_truth import ground_truth
from tests.conftest import ROOT, enliven, relative_error
from tests.in_process import call_tool

DEMO = ROOT / "configs/demo"
STUDENT, CANKD, TEACHER = (DEMO / f"quickstart_{name}.py" for name in ("student", "cankd", "teacher"))
TEACHER_CKPT = DEMO / "quickstart_teacher.pth"
VIS = ROOT / "tools/visualizations/vis_configs"
FPN = VIS / "fpn_from_p2_feature_visualization.py"
NECK = dict(neck=dict(type="ModuleOutputs", source="neck"))
P2 = dict(p2=dict(recorder="neck", data_idx=0))
# As the authors' own file names its source and maps.
PUBLISHED_FPN = """
recorders = dict(neck=dict(_scope_='mmrazor', type='ModuleOutputs', source='architecture.neck'))
mappings = dict(p3=dict(recorder='neck', data_idx=0), p4=dict(recorder='neck', data_idx=1),
                p5=dict(recorder='neck', data_idx=2), p6=dict(recorder='neck', data_idx=3))
"""

SEGMENTER = """
_base_ = ["mmseg::_base_/default_runtime.py"]
custom_imports = dict(imports=["cankd.openmmlab"])
model = dict(
    type="mmrazor.StockModel", cfg="mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py",
    backbone=dict(base_channels=8), decode_head=dict(in_channels=64, channels=16, num_classes=3),
    auxiliary_head=dict(in_channels=32, channels=16, num_classes=3))
pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(128, 128), keep_ratio=True),
            dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
test_dataloader = dict(dataset=dict(
    type="BaseSegDataset", data_root="{data}", data_prefix=dict(img_path="images", seg_map_path="labels"),
    img_suffix=".png", metainfo=dict(classes=("sky", "road", "car"), palette=[[255, 0, 0], [0, 255, 0], [0, 0, 255]]),
    test_mode=True, pipeline=pipeline))
"""
SEGMENTATION = """
_base_ = ["{root}/configs/_base_/segmentation_cityscapes.py"]
def sizes(base):
    head = dict(channels=16, num_classes=3)
    return dict(cfg="mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py", backbone=dict(base_channels=base),
                decode_head=dict(in_channels=8 * base, **head), auxiliary_head=dict(in_channels=4 * base, **head))
model = dict(architecture=sizes(8), teacher=sizes(16), teacher_ckpt=None, distiller=dict(
    connectors=dict(backbone=dict(in_channel=64, out_channel=128)),
    distill_losses=dict(loss_backbone=dict(in_channels=128))))
sizes = None
pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(128, 128), keep_ratio=True),
            dict(type="PackSegInputs")]
test_dataloader = dict(dataset=dict(pipeline=pipeline))
"""
CLASSIFIER = """
_base_ = ["mmpretrain::_base_/default_runtime.py"]
custom_imports = dict(imports=["cankd.openmmlab"])
model = dict(
    type="mmrazor.StockModel", cfg="mmpretrain::resnet/resnet18_8xb32_in1k.py",
    backbone=dict(base_channels=8, frozen_stages=1), head=dict(in_channels=64, num_classes=5, topk=(1,)))
pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=96), dict(type="{pack}")]
test_dataloader = dict(dataset=dict(type="CustomDataset", data_root="", pipeline=pipeline))
"""


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, mini_data, run_tool) -> Path:
    """Checkpoint of a distillation of three iterations under the shipped teacher."""
    work_dir = tmp_path_factory.mktemp("distilled")
    options = ["train_cfg.max_iters=3", "train_cfg.val_interval=3", "default_hooks.checkpoint.interval=3"]
    options += [f"{split}_dataloader.dataset.data_root={mini_data}/" for split in ("train", "val")]
    options += [f"val_evaluator.ann_file={mini_data}/annotations/val.json", "train_dataloader.batch_size=4"]
    run_tool("train.py", CANKD, "--work-dir", work_dir, "--cfg-options", *options)
    return work_dir / "iter_3.pth"


@pytest.fixture(scope="module")
def converted(distilled) -> Path:
    """Its student, converted."""
    call_tool("model_converters/convert_kd_ckpt_to_student.py", distilled)
    return distilled.with_name("iter_3_student.pth")


@pytest.fixture(scope="module")
def scene(mini_data) -> Path:
    return sorted((mini_data / "val").iterdir())[0]


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Configuration, checkpoint and one image of a segmenter with random weights; its data set has one label map."""
    folder = tmp_path_factory.mktemp("segmenter")
    for name in ("images", "labels"):
        (folder / name).mkdir()
    labels = np.zeros((60, 100), np.uint8)
    labels[30:, :50], labels[30:, 50:], labels[:5] = 1, 2, 255
    cv2.imwrite(str(folder / "labels/street.png"), labels)
    image = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "images/street.png"), image)
    config = folder / "segmenter.py"
    config.write_text(SEGMENTER.format(data=folder))
    return config, _random_checkpoint(config), folder / "images/street.png"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> tuple[Path, Path]:
    """Configuration and checkpoint of a classifier with random weights."""
    config = tmp_path_factory.mktemp("classifier") / "classifier.py"
    config.write_text(CLASSIFIER.format(pack="PackInputs" if CLASSIFICATION == "mmpretrain" else "PackClsInputs"))
    return config, _random_checkpoint(config)


def _random_checkpoint(config: Path) -> Path:
    torch.manual_seed(1)
    model = build_model(read_config(config))
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    file = config.with_suffix(".pth")
    torch.save({"state_dict": model.state_dict()}, file)
    return file


def _refused(tool: str, *arguments) -> str:
    """The single line with which a tool refuses its input."""
    done = call_tool(f"visualizations/{tool}.py", *arguments, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout, done.stdout
    return done.stdout.strip().splitlines()[-1]


def _pixels(file: Path) -> np.ndarray:
    return cv2.imread(str(file))[..., ::-1].astype(int)


def _where(picture: np.ndarray, color: Sequence[int], near: int = 12) -> tuple[np.ndarray, ...]:
    """Rows and columns of the pixels of a colour."""
    return np.nonzero((np.abs(picture - color) <= near).all(axis=2))


# Loading


@pytest.mark.slow
def test_each_pair_of_config_and_checkpoint_gives_the_same_student(distilled, converted, scene):
    expected = load_checkpoint_file(converted)["state_dict"]
    for config, checkpoint in ((CANKD, distilled), (STUDENT, distilled), (CANKD, converted), (STUDENT, converted)):
        model, cfg = load_model(config, checkpoint)
        assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
        assert not model.training and model.dataset_meta["classes"] == tuple("0123456789")
        assert "pred_instances" in predict(model, cfg, scene)


@pytest.mark.slow
def test_the_teacher_comes_from_either_checkpoint(distilled, tmp_path):
    expected = load_checkpoint_file(TEACHER_CKPT)["state_dict"]
    bare = load_checkpoint_file(distilled)
    bare["state_dict"] = {key: value for key, value in bare["state_dict"].items() if not key.startswith("teacher.")}
    torch.save(bare, tmp_path / "bare.pth")
    # a checkpoint that leaves the teacher out has it in the configuration's teacher_ckpt
    for config, file in (
        (CANKD, distilled),
        (TEACHER, distilled),
        (CANKD, TEACHER_CKPT),
        (CANKD, tmp_path / "bare.pth"),
    ):
        teacher, _ = load_model(config, file, role="teacher")
        assert all(torch.equal(value, expected[key]) for key, value in teacher.state_dict().items())
    with pytest.raises(FileNotFoundError, match=r"holds no teacher.*teacher_ckpt=FILE"):
        away = {"model.teacher_ckpt": "https://127.0.0.1/away.pth"}
        load_model(CANKD, tmp_path / "bare.pth", role="teacher", cfg_options=away)


@pytest.mark.slow
def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="does not fit the model of .*quickstart_student.py.*layer1.2.conv1"):
        load_model(STUDENT, TEACHER_CKPT)
    with pytest.raises(ValueError, match="role: got 'pupil', expected one of student, teacher"):
        load_model(TEACHER, TEACHER_CKPT, role="pupil")


def test_segmenters_and_classifiers_predict(segmenter, classifier, scene):
    model, cfg = load_model(*segmenter[:2])
    assert predict(model, cfg, segmenter[2]).pred_sem_seg.data.shape == (1, 60, 100)
    model, cfg = load_model(*classifier)
    assert class_scores(model, model.data_preprocessor(prepare(cfg, scene), False)).sum().item() == pytest.approx(1)


# Features


def test_a_planted_feature_peaks_where_it_was_planted(tmp_path):
    digit = cv2.resize(load_digits().images[3] * 16, (28, 28)).clip(0, 255).astype(np.uint8)
    model, cfg = load_model(TEACHER, TEACHER_CKPT)
    recorder = FeatureRecorder(model, cfg, NECK, P2)
    for top, left in ((8, 8), (8, 60), (60, 34)):
        image = np.full((96, 96, 3), 60, np.uint8)
        image[top : top + 28, left : left + 28, 1] = np.maximum(digit, 60)
        cv2.imwrite(str(tmp_path / "digit.png"), image)
        recorded = recorder(tmp_path / "digit.png")
        assert np.array_equal(recorded.view.image, image[..., ::-1]) and recorded.view.covered == (96, 96)
        energy = panel_row(recorded.maps, None, True, None)[0]
        row, column = np.unravel_index(energy.argmax(), energy.shape)
        assert top <= 4 * row + 2 <= top + 28 and left <= 4 * column + 2 <= left + 28


def test_the_published_source_is_the_model_s_own(tmp_path, scene):
    (tmp_path / "published.py").write_text(PUBLISHED_FPN)
    vis = Config.fromfile(tmp_path / "published.py")
    model, cfg = load_model(TEACHER, TEACHER_CKPT)
    published = FeatureRecorder(model, cfg, vis.recorders, vis.mappings)(scene).maps
    expected = FeatureRecorder(model, cfg, NECK, vis.mappings)(scene).maps
    assert list(published) == ["p3", "p4", "p5", "p6"]
    assert all(torch.equal(published[name], expected[name]) for name in published)
    with pytest.raises(ValueError, match=r"got source='teacher.neck', which the model does not have"):
        FeatureRecorder(model, cfg, dict(neck=dict(type="ModuleOutputs", source="teacher.neck")), P2)


@pytest.mark.parametrize("covered", [(80, 160), (128, 192)])
def test_a_map_is_drawn_to_its_place_in_the_image(covered, tmp_path):
    values = np.zeros((8, 16))
    values[3, 5] = 1
    view = View(np.zeros((80, 160, 3), np.uint8), covered)
    draw_map_grid({"one": values}, view, "planted", tmp_path / "map.png")
    picture = _pixels(tmp_path / "map.png")[:, :-60]  # without the colour scale
    rows, columns = _where(picture, (68, 1, 84))  # viridis at 0 and at 1
    top, left, height, width = rows.min(), columns.min(), np.ptp(rows), np.ptp(columns)
    rows, columns = _where(picture, (253, 231, 37))
    # the peak's centre in the padded input, as a fraction of the image that is shown
    assert (rows.mean() - top) / height == pytest.approx(3.5 / 8 * covered[0] / 80, abs=0.01)
    assert (columns.mean() - left) / width == pytest.approx(5.5 / 16 * covered[1] / 160, abs=0.01)


def test_channel_reductions_show_what_they_say():
    feature = torch.arange(24.0).view(4, 2, 3) - 12
    feature[2] += 100
    assert np.array_equal(reduce_channels(feature, "squeeze_mean")["mean"], feature.mean(0).numpy())
    assert np.array_equal(reduce_channels(feature, "pixel_wise_max")["max"], feature[2].numpy())
    assert list(reduce_channels(feature, "select_max")) == ["channel 2"]
    assert list(reduce_channels(feature, topk=3)) == ["channel 2", "channel 3", "channel 1"]
    assert np.allclose(reduce_channels(feature, use_norm=True, topk=4)["channel 2"].std(), 1, atol=1e-4)
    assert reduce_channels(feature, resize_shape=(6, 9))["channel 0"].shape == (6, 9)
    assert len(reduce_channels(feature[:3], topk=0)) == 3
    with pytest.raises(ValueError, match="--topk: got 0 for a map of 4 channels"):
        reduce_channels(feature, topk=0)


@pytest.mark.slow
def test_published_command_lines_run_on_either_checkpoint(distilled, converted, scene, run_tool, tmp_path):
    published = ["--repo", "mmdet", "--use-norm", "--overlaid", "--channel-reduction", "select_max", "--topk", 20]
    published += ["--arrangement", 4, 5, "--resize-shape", 48, 48, "--alpha", 0.5, "--device", "cpu", "--draw-bbox"]
    published += ["--local_rank", 0]
    vis = tmp_path / "published_vis.py"
    vis.write_text(PUBLISHED_FPN)
    pictures = []
    commands = (("inside", (CANKD, vis, distilled), run_tool), ("alone", (STUDENT, vis, converted), call_tool))
    for name, files, run in commands:
        out = tmp_path / f"{name}.png"
        run("visualizations/feature_visualization.py", scene, *files, *published, "--out-file", out)
        assert sorted(path.name for path in tmp_path.glob(f"{name}*")) == [
            f"{name}_{scene.stem}_p{level}.png" for level in (3, 4, 5, 6)
        ]
        pictures.append([_pixels(path) for path in sorted(tmp_path.glob(f"{name}*"))])
    assert all(np.array_equal(*pair) for pair in zip(*pictures))


@pytest.mark.slow
def test_a_folder_gives_a_panel_for_each_image(distilled, mini_data, tmp_path):
    models = ["--title", "student", "--teacher", "teacher", CANKD, distilled]
    done = call_tool(
        "visualizations/feature_visualization.py", mini_data / "val", CANKD, FPN, distilled, "--panel", *models,
        "--out-file", tmp_path / "panels",
    )  # fmt: skip
    written = sorted((tmp_path / "panels").iterdir())
    assert [path.stem for path in written] == [path.stem for path in sorted((mini_data / "val").iterdir())]
    assert "[8/8]" in done.stdout


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["d/a.jpg", "d/b.jpg"], ["a", "b"]),
        (["x/a.jpg", "y/a.jpg", "y/b.jpg"], ["x_a", "y_a", "b"]),
        (["d/a.jpg", "d/a.png"], ["d_a", "d_a_2"]),
        (["x/s/a.jpg", "y/s/a.jpg"], ["s_a", "s_a_2"]),
        (["d/a.jpg"] * 3, ["d_a", "d_a_2", "d_a_3"]),
        (["d/a.jpg", "d/a.png", "e/d_a_2.jpg"], ["d_a", "d_a_2", "d_a_2_2"]),
    ],
    ids=" ".join,
)
def test_every_image_has_a_name_of_its_own(files, expected):
    assert image_names([Path(file) for file in files]) == expected


@pytest.mark.slow
def test_differences_are_those_between_the_models(distilled, scene, tmp_path):
    changed = load_checkpoint_file(distilled)
    changed["state_dict"]["architecture.neck.fpn_convs.1.conv.bias"][5] += 3
    torch.save(changed, tmp_path / "changed.pth")
    maps = []
    for file in (distilled, tmp_path / "changed.pth"):
        mappings = {f"p{level}": dict(recorder="neck", data_idx=level) for level in range(4)}
        maps.append(FeatureRecorder(*load_model(CANKD, file), NECK, mappings)(scene).maps)
    differences = map_differences(*maps)
    assert not differences["p0"].any() and not differences["p1"][:5].any()
    assert torch.allclose(differences["p1"][5], torch.tensor(3.0), atol=1e-4)

    arguments = [scene, CANKD, STUDENT, VIS / "fpn_feature_diff_visualization.py", distilled, tmp_path / "changed.pth"]
    out = tmp_path / "diff.png"
    for extra in (["--overlaid", "--topk", 2], ["--channel-reduction", "pixel_wise_max"], ["--topk", 2]):
        call_tool("visualizations/feature_diff_visualization.py", *arguments, *extra, "--out-file", out)
    drawn = {path.stem[-2:]: _pixels(path)[:, :-120] for path in tmp_path.glob("diff_*.png")}
    assert set(drawn) == {"p3", "p4", "p5", "p6"}
    # without the colour scale, only the map that differs is not all of the lowest colour
    highest = {name: len(_where(picture, (253, 231, 37))[0]) for name, picture in drawn.items()}
    assert highest["p4"] > 1000 and highest["p3"] == 0
    call_tool("visualizations/feature_diff_visualization.py", *arguments, "--panel", "--out-file", out)
    assert out.is_file()


def test_maps_of_other_shapes_are_not_compared():
    with pytest.raises(ValueError, match=r"\(4, 2, 2\) of p2 and \(4, 3, 3\) of p3, expected one shape"):
        map_differences({"p2": torch.zeros(4, 2, 2)}, {"p3": torch.zeros(4, 3, 3)})
    with pytest.raises(ValueError, match="got 1 maps of model 1 and 0 of model 2"):
        map_differences({"p2": torch.zeros(4, 2, 2)}, {})


@pytest.mark.slow
def test_segmenters_and_classifiers_show_their_stages(segmenter, classifier, scene, tmp_path):
    stages = VIS / "resnet_stages_feature_visualization.py"
    for (config, checkpoint), image in ((segmenter[:2], segmenter[2]), (classifier, scene)):
        out = tmp_path / f"{config.stem}.png"
        arguments = [image, config, stages, checkpoint, "--panel", "--overlaid", "--out-file", out]
        call_tool("visualizations/feature_visualization.py", *arguments)
        assert out.is_file()


def test_maps_of_a_sliding_window_are_refused(segmenter):
    slide = {"model.test_cfg": dict(_replace_=True, mode="slide", crop_size=(64, 64), stride=(32, 32))}
    with pytest.raises(ValueError, match="model.test_cfg.mode=whole"):
        FeatureRecorder(*load_model(segmenter[0], segmenter[1], cfg_options=slide), {}, {})


# Predictions


def test_the_ground_truth_is_the_annotations(mini_data, segmenter):
    annotations = json.loads((mini_data / "annotations/val.json").read_text())
    options = {"test_dataloader.dataset.data_root": f"{mini_data}/"}
    image = annotations["images"][2]
    (boxes,) = ground_truth(read_config(STUDENT, options), [Path("elsewhere") / image["file_name"]])
    own = [a for a in annotations["annotations"] if a["image_id"] == image["id"]]
    assert isinstance(boxes, Boxes) and len(boxes.corners) == len(own) > 0
    x, y, width, height = own[0]["bbox"]
    assert boxes.corners[0].tolist() == [x, y, x + width, y + height]
    assert boxes.captions[0] == annotations["categories"][own[0]["category_id"] - 1]["name"]

    config, _, street = segmenter
    (labels,) = ground_truth(read_config(config), [street])
    assert not isinstance(labels, Boxes)
    assert np.array_equal(labels, cv2.imread(str(street.parents[1] / "labels/street.png"), cv2.IMREAD_UNCHANGED))
    with pytest.raises(ValueError, match=r"absent.png is not in the test data set .*\(1 images\)"):
        ground_truth(read_config(config), [Path("absent.png")])


def test_shown_boxes_are_the_confident_ones(scene):
    model, cfg = load_model(TEACHER, TEACHER_CKPT)
    sample = predict(model, cfg, scene)
    boxes = predicted_boxes(sample, model.dataset_meta["classes"], 0.5)
    scores = sample.pred_instances.scores
    assert 0 < len(boxes.captions) == int((scores >= 0.5).sum()) < len(scores)
    first = sample.pred_instances[0]
    assert boxes.captions[0] == f"{first.labels.item()} {first.scores.item():.2f}"
    assert np.array_equal(boxes.corners[0], first.bboxes[0].numpy())


def test_label_maps_are_drawn_in_their_colours(tmp_path):
    labels = np.full((40, 40), 255)
    labels[:20, :20], labels[20:, 20:] = 0, 1
    palette = [[255, 0, 0], [0, 0, 255]]
    image = np.full((40, 40, 3), 255, np.uint8)
    draw_label_panel([image], {"model": [labels]}, ["sky", "road"], palette, tmp_path / "labels.png", alpha=1.0)
    picture = _pixels(tmp_path / "labels.png")
    half = picture.shape[1] // 2
    picture = picture[: picture.shape[0] * 9 // 10]  # without the legend
    (red_rows, red_columns), (blue_rows, blue_columns) = (_where(picture, color) for color in palette)
    assert min(red_columns.min(), blue_columns.min()) > half
    assert red_rows.max() < blue_rows.min() and red_columns.max() < blue_columns.min()
    assert abs(len(red_rows) / len(blue_rows) - 1) < 0.05  # 255 has no colour: a quarter of the area each


@pytest.mark.slow
def test_predictions_of_several_checkpoints_stand_beside_the_ground_truth(distilled, mini_data, segmenter, tmp_path):
    images = sorted((mini_data / "val").iterdir())[:3]
    models = ["--model", "student", CANKD, distilled, "--teacher", "teacher", CANKD, distilled]
    data = ["--cfg-options", f"test_dataloader.dataset.data_root={mini_data}/"]
    call_tool(
        "visualizations/predictions.py", *images, *models, "--ground-truth", "--rows", 2,
        "--out-file", tmp_path / "boxes.png", *data,
    )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes_predictions_1.png", "boxes_predictions_2.png"]
    two, one = (_pixels(path) for path in sorted(tmp_path.iterdir()))
    assert two.shape[0] > 1.5 * one.shape[0] and two.shape[1] == one.shape[1]

    config, checkpoint, street = segmenter
    out = tmp_path / "labels.png"
    call_tool(
        "visualizations/predictions.py", street, "--model", "random", config, checkpoint, "--ground-truth",
        "--alpha", 1, "--out-file", out,
    )  # fmt: skip
    # the ground truth's lower half is green and blue, the first column is the image itself
    picture = _pixels(out)
    third = picture.shape[1] // 3
    truth = picture[: picture.shape[0] * 7 // 10, third : 2 * third]
    (green_rows, green_columns), (blue_rows, blue_columns) = (_where(truth, c) for c in ((0, 255, 0), (0, 0, 255)))
    assert len(green_rows) > 1000 and len(blue_rows) > 1000 and green_columns.max() < blue_columns.min()


# Grad-CAM


def test_grad_cam_is_its_formula_where_that_is_known(classifier, scene):
    model, cfg = load_model(*classifier)
    data = model.data_preprocessor(prepare(cfg, scene), False)
    layers = backbone_stages(model, data)
    assert layers == [f"backbone.layer{i}" for i in (1, 2, 3, 4)]
    (found,) = grad_cam(model, data, ["backbone.layer4"], category=3)
    # Behind layer 4 come only a mean over positions and a linear layer, so the gradient is its weight.
    recorders = dict(last=dict(type="ModuleOutputs", source="backbone.layer4"))
    feature = FeatureRecorder(model, cfg, recorders, dict(last=dict(recorder="last")))(scene).maps["last"]
    weight = model.get_parameter("head.fc.weight")[3].detach()
    expected = F.relu((weight[:, None, None] * feature).sum(0)).numpy()
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    assert expected.std() > 0.1
    assert np.abs(found - cv2.resize(expected, (96, 96))).max() < 1e-3


@pytest.mark.slow
def test_grad_cam_shows_frozen_stages_of_several_classifiers(classifier, scene, tmp_path):
    models = ["--model", "one", *classifier, "--model", "two", *classifier]
    call_tool("visualizations/grad_cam.py", scene, *models, "--out-file", tmp_path / "cam.png")
    call_tool("visualizations/grad_cam.py", scene, *models[:4], "--out-file", tmp_path / "one.png")
    both, one = (_pixels(tmp_path / name) for name in ("cam.png", "one.png"))
    assert both.shape[0] > 1.5 * one.shape[0] and both.shape[1] == one.shape[1]
    # stage 1 is frozen; its map has both ends of the scale
    model, cfg = load_model(*classifier)
    data = model.data_preprocessor(prepare(cfg, scene), False)
    (first,) = grad_cam(model, data, ["backbone.layer1"], category=0)
    assert first.min() < 0.05 and first.max() > 0.95
    message = _refused("grad_cam", scene, *models, "--category", 5)
    assert "--category: got 5, expected 0 to 4" in message
    message = _refused("grad_cam", scene, *models, "--target-layers", "backbone.layer9")
    assert "backbone.layer9" in message and "backbone.layer4" in message


# Attention


@pytest.mark.parametrize("pool_size", [1, 2])
@pytest.mark.parametrize("affinity", ["dot_product", "gaussian", "embedded_gaussian", "concatenation"])
def test_attention_rows_are_the_reference_matrix(affinity, pool_size):
    # The reference keeps its matrix A to itself. With one-hot values g_j = e_j, what it hands to W_z is A.
    height, width = 6, 8
    size = (height // pool_size, width // pool_size)
    pooled = size[0] * size[1]
    channels = 60 + pooled
    reference = NaiveNLKDINLoss(channels, pooled, affinity, pool_size).double()
    loss = NLKDINLoss(channels, pooled, affinity, pool_size).double()
    enliven(reference)
    with torch.no_grad():
        for parameter in reference.g.parameters():
            parameter.zero_()
        reference.g.weight[:, 60:, 0, 0] = torch.eye(pooled)
    loss.load_state_dict({f"block.{key}": value for key, value in reference.state_dict().items()})
    x, y = torch.randn(2, 1, channels, height, width).double() * 0.3
    y[:, 60:] = F.interpolate(torch.eye(pooled).view(1, pooled, *size).double(), (height, width), mode="nearest")
    matrix: list[torch.Tensor] = []
    reference.w_z.register_forward_hook(lambda module, inputs, output: matrix.append(inputs[0][0]))
    reference(x, y)
    assert matrix[0].std(dim=0).max() > 1e-5
    for row in range(height):
        for column in range(width):
            attention = attention_row(loss.block, x, y, (row, column))
            assert attention.shape == size
            assert relative_error(attention.flatten(), matrix[0][:, row, column]) < 1e-10


def test_the_share_is_the_part_that_the_block_adds():
    block = NLKDINLoss(6).block.eval()
    x, y = torch.randn(1, 6, 8, 8), torch.randn(1, 6, 8, 8)
    share, share_map = residual_share(block, x, y)
    assert share == 0 and not share_map.any()  # every training starts here
    enliven(block)
    added = block(x, y) - x
    share, share_map = residual_share(block, x, y)
    assert share == pytest.approx((added.norm() / (added.norm() + x.norm())).item(), rel=1e-4) and 0 < share < 1
    at = added[0, :, 2, 5].norm() / (added[0, :, 2, 5].norm() + x[0, :, 2, 5].norm())
    assert share_map[2, 5].item() == pytest.approx(at.item(), rel=1e-4)
    bare = NLKDINLoss(6, residual=False).block.eval()
    enliven(bare)
    assert residual_share(bare, x, y)[0] == 1


RESIZE = dict(type="Resize", scale=(160, 120), keep_ratio=True)
POINTED = {
    "classifier": (CLASSIFICATION, [dict(type="ResizeEdge", scale=64), dict(type="CenterCrop", crop_size=56)]),
    "padded": ("mmdet", [RESIZE, dict(type="Pad", size_divisor=32)]),
    "segmenter": ("mmseg", [dict(RESIZE, keep_ratio=False)]),
    "untouched": ("mmdet", []),
}


@pytest.mark.parametrize("kind", POINTED)
@pytest.mark.parametrize("size", [(180, 320), (320, 180)])
def test_a_point_lands_where_the_model_sees_it(kind, size, tmp_path):
    scope, steps = POINTED[kind]
    pack = {"mmdet": "PackDetInputs", "mmseg": "PackSegInputs", "mmpretrain": "PackInputs", "mmcls": "PackClsInputs"}
    pipeline = [dict(type="LoadImageFromFile"), *steps, dict(type=pack[scope])]
    cfg = Config(dict(default_scope=scope, model={}, test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    height, width = size
    for x, y in ((width / 2, height / 2), (0.37 * width, 0.63 * height)):
        image = np.zeros((*size, 3), np.uint8)
        cv2.circle(image, (round(x - 0.5), round(y - 0.5)), 8, (255, 255, 255), -1)
        cv2.imwrite(str(tmp_path / "image.png"), image)
        batch = prepare(cfg, tmp_path / "image.png")
        view = network_view(batch, (batch["inputs"][0].shape[1] + 40, batch["inputs"][0].shape[2] + 8))
        ((u, v),) = fractions([(x, y)], batch["data_samples"][0], view)
        rows, columns = np.nonzero(view.image[..., 0] > 127)
        assert u * view.covered[1] == pytest.approx(columns.mean() + 0.5, abs=0.8)
        assert v * view.covered[0] == pytest.approx(rows.mean() + 0.5, abs=0.8)
    (centre,) = fractions(None, batch["data_samples"][0], view)
    assert centre == fractions([(width / 2, height / 2)], batch["data_samples"][0], view)[0] and max(centre) < 1


def test_points_that_the_model_does_not_see_are_refused():
    sample = BaseDataElement(metainfo=dict(ori_shape=(360, 640), scale_factor=(455 / 640, 256 / 360)))
    view = View(np.zeros((224, 224, 3), np.uint8), (224, 224))
    assert fractions(None, sample, view) == [pytest.approx((0.5, 0.5), abs=0.01)]
    for point in ((640, 180), (-1, 180), (150, 180), (320, 10)):
        with pytest.raises(ValueError, match="640 x 360 pixels, of which the model sees x from 163.* to 478.* and y"):
            fractions([point], sample, view)


def test_attention_is_drawn_with_its_position(tmp_path):
    row = np.zeros((12, 12))
    row[9, 1] = 1
    view = View(np.full((96, 96, 3), 255, np.uint8), (96, 96))
    attention = Attention([row], [(2, 17)], (24, 24), (1.0, 1.0), 0.0, np.zeros((24, 24)))
    draw_attention(view, {"loss": attention}, tmp_path / "attention.png", alpha=1.0)
    picture = _pixels(tmp_path / "attention.png")
    # the upper map is where rows are mostly dark, down to the first that is not
    dark = np.all(np.abs(picture - (68, 1, 84)) <= 12, axis=2)
    full = np.nonzero(dark.sum(axis=1) > picture.shape[1] / 3)[0]
    bottom = full[0] + np.argmax(np.diff(np.append(full, full[-1] + 9)) > 1)
    inner = picture[
        full[0] + 3 : bottom - 2, np.nonzero(dark[full[0]])[0].min() + 3 : np.nonzero(dark[full[0]])[0].max() - 2
    ]
    for color, (y, x) in (((0, 0, 0), (2.5 / 24, 17.5 / 24)), ((253, 231, 37), (9.5 / 12, 1.5 / 12))):
        rows, columns = _where(inner, color, near=40)
        assert rows.mean() / inner.shape[0] == pytest.approx(y, abs=0.02)
        assert columns.mean() / inner.shape[1] == pytest.approx(x, abs=0.02)


@pytest.mark.slow
def test_the_attention_tool_prints_the_share_of_the_block(distilled, scene, tmp_path):
    checkpoint = load_checkpoint_file(distilled)
    generator = torch.Generator().manual_seed(0)
    for key, value in checkpoint["state_dict"].items():
        if ".block." in key and "running" not in key and value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    torch.save(checkpoint, tmp_path / "alive.pth")
    out = tmp_path / "attention.png"
    arguments = [scene, CANKD, tmp_path / "alive.pth", "--losses", "loss_fpn0", "--points", "70,10", "--out-file", out]
    printed = call_tool("visualizations/attention.py", *arguments).stdout

    student, teacher, distiller, cfg = load_distillation(CANKD, tmp_path / "alive.pth")
    data = student.data_preprocessor(prepare(cfg, scene), False)
    with torch.no_grad():
        x, y = (model.extract_feat(data["inputs"])[0] for model in (student, teacher))
        share, _ = residual_share(distiller.distill_losses["loss_fpn0"].block, x, y)
    assert f"loss_fpn0 {100 * share:.1f} %" in printed and share > 0.01

    assert out.is_file()
    for point, message in (("96,10", "expected a point within the image of 96 x 96"), ("1,2,3", "invalid point value")):
        done = call_tool("visualizations/attention.py", *arguments, "--points", point, check=False)
        assert done.returncode != 0 and message in done.stdout
    assert "got loss_fpn9" in _refused("attention", *arguments, "--losses", "loss_fpn9")
    assert "expected a distillation's" in _refused("attention", scene, STUDENT, tmp_path / "alive.pth")


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory) -> tuple[Path, Path]:
    """Configuration and checkpoint of a segmenter's distillation through a connector, with random weights."""
    folder = tmp_path_factory.mktemp("segmentation")
    config, checkpoint = folder / "distillation.py", folder / "distillation.pth"
    config.write_text(SEGMENTATION.format(root=ROOT))
    cfg = read_config(config)
    with in_scope(cfg):
        algorithm = MODELS.build(cfg.model)
    enliven(algorithm.distiller)
    torch.save({"state_dict": algorithm.state_dict()}, checkpoint)
    return config, checkpoint


@pytest.mark.slow
def test_a_difference_across_a_connector_is_of_what_the_loss_compares(segmenter, segmentation, tmp_path):
    image, (config, checkpoint) = segmenter[2], segmentation
    vis = Config.fromfile(VIS / "segmentation_feature_diff_visualization.py")
    roles = ("student", "teacher")
    cfg = read_config(config)
    models = [LoadedModel(role, *load_model(cfg, checkpoint, role=role), Checkpoint.read(checkpoint)) for role in roles]
    sources = (vis.recorders1, vis.mappings1), (vis.recorders2, vis.mappings2)
    maps = [feature_recorder(model, *source)(image).maps for model, source in zip(models, sources)]
    student, teacher, distiller, _ = load_distillation(config, checkpoint)
    with torch.no_grad(), distiller.student_recorders, distiller.teacher_recorders:
        for model in (student, teacher):
            model.extract_feat(model.data_preprocessor(prepare(cfg, image), False)["inputs"])
        expected = [
            distiller.get_record(**mapping)[0] for mapping in distiller.loss_forward_mappings["loss_backbone"].values()
        ]
    for found, wanted in zip(maps, expected):
        assert torch.equal(found["backbone"], wanted) and len(wanted) == 128
    difference = map_differences(*maps)["backbone"]
    assert torch.equal(difference, (expected[0] - expected[1]).abs())

    command = [image, config, config, VIS / "segmentation_feature_diff_visualization.py", checkpoint, checkpoint]
    out = tmp_path / "difference.png"
    tool = "feature_diff_visualization"
    call_tool(f"visualizations/{tool}.py", *command, "--roles", *roles, "--panel", "--out-file", out)
    assert out.is_file()
    base = f"_base_ = [{str(command[3])!r}]\n"
    for line, message in (
        ("mappings1 = dict(backbone=dict(connector=None))", "name the distillation's connector there"),
        ("mappings1 = dict(backbone=dict(connector='neck'))", "got connector='neck', expected one of backbone"),
        ("mappings2 = dict(backbone=dict(connector='backbone'))", "does not fit connector 'backbone'"),
    ):
        changed = tmp_path / "changed.py"
        changed.write_text(base + line)
        assert message in _refused(tool, *command[:3], changed, *command[4:], "--roles", *roles)
    single = [image, segmenter[0], config, command[3], segmenter[1], checkpoint, "--roles", "student", "teacher"]
    assert "expected a distillation's" in _refused(tool, *single)


@pytest.mark.slow
def test_attention_of_a_segmenter_goes_through_its_connector(segmenter, segmentation, tmp_path):
    config, checkpoint = segmentation
    out = tmp_path / "attention.png"
    call_tool("visualizations/attention.py", segmenter[2], config, checkpoint, "--out-file", out)
    student, teacher, distiller, cfg = load_distillation(config, checkpoint)
    data = student.data_preprocessor(prepare(cfg, segmenter[2]), False)
    attention = attend(student, teacher, distiller, data, [(0.5, 0.5)])["loss_backbone"]
    with torch.no_grad():
        x, y = (model.extract_feat(data["inputs"])[3] for model in (student, teacher))
        x = distiller.connectors["backbone"](x)
        expected = attention_row(distiller.distill_losses["loss_backbone"].block, x, y, attention.cells[0])
    assert attention.size == tuple(x.shape[2:]) == (10, 16) and attention.cells == [(5, 8)]
    assert np.array_equal(attention.rows[0], expected.numpy()) and attention.rows[0].shape == (5, 8)
    with pytest.raises(ValueError, match="expected at least one in distiller.distill_losses"):
        del distiller.distill_losses["loss_backbone"]
        attend(student, teacher, distiller, data, [])


# The gallery's data


def test_gallery_labels_cover_the_digits(tmp_path):
    out = tmp_path / "gallery"
    call_tool("dataset_tools/make_gallery_data.py", "--out", out, "--train", 2, "--val", 3)
    for number in range(3):
        scene, labels = (cv2.imread(str(out / f"val/{kind}/{number:05d}.png")) for kind in ("images", "labels"))
        cuts = [cv2.imread(str(path)) for path in (out / "val/digits").glob(f"*/{number:05d}_*.png")]
        assert set(np.unique(labels)) == {0, 1} and 1 <= len(cuts) <= 5
        covered = np.zeros_like(labels)
        for cut in cuts:
            _, _, (left, top), _ = cv2.minMaxLoc(cv2.matchTemplate(scene, cut, cv2.TM_SQDIFF))
            covered[top : top + cut.shape[0], left : left + cut.shape[1]] = 1
        assert labels[covered == 1].mean() > 0.2 and not labels[covered == 0].any()


# Bad input


@pytest.mark.slow
def test_bad_input_gives_one_clear_error_and_no_picture(distilled, scene, tmp_path):
    broken, file, empty, out = (tmp_path / name for name in ("broken.png", "file", "empty", "out"))
    broken.write_bytes(scene.read_bytes()[:60])
    file.write_text("")
    empty.mkdir()
    wrong, stray, deep = (tmp_path / name for name in ("wrong.py", "stray.py", "deep.py"))
    wrong.write_text(FPN.read_text().replace('source="neck"', 'source="nek"'))
    stray.write_text(FPN.read_text().replace('dict(recorder="neck"', 'dict(recorder="fpn"'))
    deep.write_text(FPN.read_text().replace("range(4)", "range(3, 5)"))
    good = [scene, CANKD, FPN, distilled]
    cases = [
        ([tmp_path / "absent.png", *good[1:]], "expected an image file or a folder"),
        ([broken, *good[1:]], "cannot be read as an image"),
        ([empty, *good[1:]], "holds no image"),
        ([scene, tmp_path / "absent.py", *good[2:]], "config: got"),
        ([scene, CANKD, tmp_path / "absent.py", distilled], "vis_config: got"),
        ([scene, CANKD, STUDENT, distilled], "has no recorders, mappings"),
        ([scene, CANKD, FPN, tmp_path / "absent.pth"], "expected an existing .pth file"),
        ([scene, TEACHER, FPN, distilled], "does not fit the model"),
        ([scene, CANKD, wrong, distilled], "the nearest are neck"),
        ([scene, CANKD, stray, distilled], "got recorder='fpn', expected one of neck"),
        ([scene, CANKD, deep, distilled], "data_idx=4, but the module put out 4 maps"),
        ([*good, "--repo", "mmseg"], "--repo: got mmseg"),
        ([*good, "--device", "nowhere"], "device: got 'nowhere'"),
        ([*good, "--arrangement", 2, 2], "--arrangement: got 2 x 2 places for 20 channels"),
        ([*good, "--out-file", file / "a.png"], str(file)),
        ([*good, "--out-file", out / "a.docx"], "expected a name that ends in"),
        ([*good, "--panel", "--title", "a", "--model", "a", CANKD, distilled], "expected different ones"),
    ]
    for arguments, message in cases:
        if "--out-file" not in arguments:
            arguments = [*arguments, "--out-file", out / "a.png"]
        assert message in _refused("feature_visualization", *arguments)
        assert not out.exists() or not list(out.iterdir()), message
    assert "got no model" in _refused("predictions", scene)
    assert "expected a classifier" in _refused("grad_cam", scene, "--model", "a", CANKD, distilled, "--out-file", out)
