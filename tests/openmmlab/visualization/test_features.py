"""Feature maps: how they are recorded, reduced, compared and drawn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from sklearn.datasets import load_digits

from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.checkpoint_files import load_checkpoint_file
from cankd.openmmlab.commands.picture_arguments import LoadedModel, feature_recorder
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.inference import prepare
from cankd.openmmlab.loading import load_distillation, load_model
from cankd.openmmlab.visualization import View, draw_map_grid
from cankd.openmmlab.visualization.features import (
    FeatureRecorder,
    image_names,
    map_differences,
    panel_row,
    reduce_channels,
)
from tests.demo import CANKD, STUDENT, TEACHER, TEACHER_CKPT
from tests.in_process import call_tool
from tests.openmmlab.visualization.shared import FPN, NECK, P2, VIS, pixels, refused, where

# As the authors' own file names its source and maps.
PUBLISHED_FPN = """
recorders = dict(neck=dict(_scope_='mmrazor', type='ModuleOutputs', source='architecture.neck'))
mappings = dict(p3=dict(recorder='neck', data_idx=0), p4=dict(recorder='neck', data_idx=1),
                p5=dict(recorder='neck', data_idx=2), p6=dict(recorder='neck', data_idx=3))
"""


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
    picture = pixels(tmp_path / "map.png")[:, :-60]  # without the colour scale
    rows, columns = where(picture, (68, 1, 84))  # viridis at 0 and at 1
    top, left, height, width = rows.min(), columns.min(), np.ptp(rows), np.ptp(columns)
    rows, columns = where(picture, (253, 231, 37))
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
        pictures.append([pixels(path) for path in sorted(tmp_path.glob(f"{name}*"))])
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
    drawn = {path.stem[-2:]: pixels(path)[:, :-120] for path in tmp_path.glob("diff_*.png")}
    assert set(drawn) == {"p3", "p4", "p5", "p6"}
    # without the colour scale, only the map that differs is not all of the lowest colour
    highest = {name: len(where(picture, (253, 231, 37))[0]) for name, picture in drawn.items()}
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
        assert message in refused(tool, *command[:3], changed, *command[4:], "--roles", *roles)
    single = [image, segmenter[0], config, command[3], segmenter[1], checkpoint, "--roles", "student", "teacher"]
    assert "expected a distillation's" in refused(tool, *single)


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
        assert message in refused("feature_visualization", *arguments)
        assert not out.exists() or not list(out.iterdir()), message
    assert "got no model" in refused("predictions", scene)
    assert "expected a classifier" in refused("grad_cam", scene, "--model", "a", CANKD, distilled, "--out-file", out)
