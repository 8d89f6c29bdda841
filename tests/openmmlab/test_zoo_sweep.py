"""The sweep over the families of the zoo, on a few of them."""

from __future__ import annotations

import pytest

from cankd.openmmlab.configs import read_config
from cankd.openmmlab.pairing import load_side
from cankd.openmmlab.zoo_sweep import families, page, read_results, sweep, train_step
from tests.conftest import ROOT
from tests.demo import CANKD
from tests.in_process import call_tool

TOOL = "analysis_tools/zoo_sweep.py"


@pytest.mark.slow
def test_families_are_tried_once(tmp_path, run_tool):
    out, file = tmp_path / "results.jsonl", tmp_path / "page.md"
    for _ in range(2):
        for package, names in (("mmdet", ["yolox", "glip"]), ("mmseg", ["bisenetv1"])):
            run_tool(TOOL, "--package", package, "--families", *names, "--out", out, "--page", file)
    yolox, glip, bisenet = read_results(out)  # the second time nothing was left to do
    assert yolox["reason"] is bisenet["reason"] is None and "reads text" in glip["reason"]
    assert yolox["student"].endswith("yolox_tiny_8xb8-300e_coco.py") and "yolox_x" in yolox["teacher"]
    assert yolox["strides"] == [8, 16, 32] and yolox["losses"]["distill.loss_neck2"] > 0
    assert bisenet["teacher"].split("/")[-1] != bisenet["student"].split("/")[-1] and bisenet["lines"] <= 25
    text = file.read_text()
    assert f"2 of {len(families('mmdet'))} families were tried, 1 train." in text and "| 8, 16, 32 | trains, " in text


def test_a_step_that_is_not_as_it_should_be_is_refused():
    losses = train_step(read_config(CANKD), (96, 96))
    assert losses["distill.loss_fpn0"] > 0 and losses["student.loss_cls"] > 0
    unused = dict(type="ConvModuleConnector", in_channel=64, out_channel=64)
    for changes, message in (
        ({"model.distiller.distill_losses.loss_fpn1.loss_weight": float("nan")}, "loss_fpn1 is nan, expected a finite"),
        ({"model.distiller.connectors": dict(unused=unused)}, "the unused gets no gradient"),
    ):
        cfg = read_config(CANKD)
        cfg.merge_from_dict(changes)
        with pytest.raises(ValueError, match=message):
            train_step(cfg, (96, 96))


def test_a_model_of_one_image_size_is_outlined_without_weights():
    (beit,) = [model.config for model in families("mmseg")["beit"] if "base" in model.config]
    side = load_side(beit, outline=True)
    assert side.image == (640, 640) and all(parameter.is_meta for parameter in side.model.parameters())


def test_a_family_that_takes_too_long_is_given_up():
    (result,) = sweep("mmdet", ["yolox"], 0.01)
    assert result["reason"] == "not done after 0.01 s" and "losses" not in result


def test_an_unknown_family_is_one_line(tmp_path):
    done = call_tool(TOOL, "--families", "yolo9000", "--out", tmp_path / "results.jsonl", check=False)
    assert done.returncode and "--families: got yolo9000, expected some of mmdet's: albu_example, " in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1


def test_the_page_is_what_the_results_say():
    file = ROOT / "logfile/zoo_sweep/results.jsonl"
    results = read_results(file)
    assert {result["package"] for result in results} == {"mmdet", "mmseg"}
    assert (ROOT / "docs/zoo_sweep.md").read_text(encoding="utf-8") == page(results)
    assert len({(result["package"], result["family"]) for result in results}) == len(results)
