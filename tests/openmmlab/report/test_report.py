"""The page about trainings: what it shows is what the runs logged, and it needs nothing but its file."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from PIL import Image

from cankd.openmmlab.analysis.curves import find_scalars, read_curves
from cankd.openmmlab.report.runs import PLAIN, find_runs, group_runs
from cankd.openmmlab.statistics import t_interval
from tests.conftest import ROOT
from tests.demo import CANKD, STUDENT, options_for
from tests.in_process import call_tool

TOOL = "analysis_tools/report.py"
SECTIONS = ["What was trained", "AP over the training", "Losses", "Comparison", "Feature maps", "Predictions"]
SECTIONS += ["Confusion matrices", "Cost", "Robustness", "Environment and provenance"]


class Page(HTMLParser):
    """The content of a page: the text of each section, its charts, tables, pictures and addresses."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.pictures: list[dict[str, Any]] = []
        self.addresses: list[str] = []
        self.captions: list[str] = []
        self.chart_captions: list[str] = []
        self.scripts = [""]
        text = file.read_text(encoding="utf-8")
        self.feed(text)
        self.close()
        assert not self.open and text.startswith("<!DOCTYPE html>")
        (specifications,) = re.findall(r"^const charts = (.*);$", self.scripts[-1], re.M)
        charts = json.loads(specifications)
        assert len(charts) == len(self.chart_captions)
        self.charts: dict[str, dict[str, Any]] = dict(zip(self.chart_captions, charts))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.addresses += [values[name] for name in ("src", "href") if name in values]
        if tag == "img":
            self.pictures.append(values)
        if tag == "table":
            self.tables[list(self.sections)[-1]] = []
        if tag == "tr":
            self.tables[list(self.sections)[-1]].append([])
        if tag in ("th", "td"):
            self.tables[list(self.sections)[-1]][-1].append("")
        if tag == "figcaption":
            self.captions.append("")
        if values.get("class") == "chart":
            self.chart_captions.append(self.captions[-1])
        if tag == "script":
            self.scripts.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open:
            return
        if self.open[-1] == "h3":
            self.sections[data] = ""
        elif self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open[-1] == "figcaption":
            self.captions[-1] += data
        elif {"td", "th"} & set(self.open):
            self.tables[list(self.sections)[-1]][-1][-1] += data
        elif self.sections:
            self.sections[list(self.sections)[-1]] += data


def options(data: Path, *more: str) -> list[str]:
    return [*options_for(data, ROOT / "configs/demo/quickstart_teacher.pth", 2), "train_dataloader.batch_size=2", *more]


@pytest.fixture(scope="module")
def work_dirs(tmp_path_factory, mini_data, run_tool) -> Path:
    """A student that was trained alone and one under the teacher, for two iterations each."""
    folder = tmp_path_factory.mktemp("report") / "runs"
    # So low a score that there are detections to be evaluated.
    alone = [option for option in options(mini_data, "model.test_cfg.score_thr=0.001") if "teacher_ckpt" not in option]
    more = ["model.architecture.test_cfg.score_thr=0.001", "default_hooks.distill_monitor.interval=1"]
    run_tool("train.py", STUDENT, "--work-dir", folder / "student/seed0", *alone)
    run_tool("train.py", CANKD, "--work-dir", folder / "cankd/seed0", *options(mini_data, *more))
    return folder


@pytest.fixture(scope="module")
def page(work_dirs) -> Page:
    out = work_dirs.parent / "report.html"
    printed = call_tool(TOOL, work_dirs, "--out", out, "--images", 3, "--device", "cpu").stdout
    assert "2 runs: mini (2 methods)" in printed and f"Wrote {out}" in printed
    return Page(out)


def values(chart: dict[str, Any], series: str) -> list[tuple[int, float]]:
    return [(row["iteration"], row["value"]) for row in chart["data"]["values"] if row["series"] == series]


@pytest.mark.slow
def test_the_page_has_every_section_and_needs_no_network(page, work_dirs):
    assert list(page.sections) == SECTIONS
    assert (work_dirs.parent / "report.html").stat().st_size < 5e6
    assert page.addresses and all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "vegaEmbed" in page.scripts[1]
    captions = [picture["alt"] for picture in page.pictures]
    assert captions[0] == "Heatmaps of teacher, plain student, NLKDINLoss at fpn0, fpn1, fpn2, fpn3."
    assert captions[1] == "Ground truth and predictions of teacher, plain student, NLKDINLoss on 3 images."
    assert len(captions) == 5 and all("Confusion matrix." in caption for caption in captions[2:])
    for picture in page.pictures:
        kind, _, content = picture["src"].partition(";base64,")
        image = Image.open(io.BytesIO(base64.b64decode(content)))
        assert kind == "data:image/webp" and min(image.size) > 300
        assert len(image.convert("L").getcolors() or []) > 50  # something is drawn


@pytest.mark.slow
def test_the_charts_show_what_the_runs_logged(page, work_dirs):
    logged = {name: read_curves(find_scalars(work_dirs / name / "seed0")) for name in ("student", "cankd")}
    accuracy = page.charts["AP of each validation; the strong curve is the mean over the seeds"]
    for method, name in ((PLAIN, "student"), ("NLKDINLoss", "cankd")):
        curve = logged[name]["coco/bbox_mAP"]
        assert values(accuracy, method) == [(x, pytest.approx(100 * y)) for x, y in zip(*curve)]
    both = page.charts["NLKDINLoss: task and distillation loss"]
    levels = page.charts["NLKDINLoss: distillation loss of each level"]
    shares = page.charts["NLKDINLoss: share of the gradient at the student's maps"]
    found = logged["cankd"]
    task = [a + b for a, b in zip(found["loss_cls"].values, found["loss_bbox"].values)]
    assert [y for _, y in values(both, "task")] == pytest.approx(task, rel=1e-4)
    total = [sum(y) for y in zip(*(found[f"distill.loss_fpn{level}"].values for level in range(4)))]
    assert [y for _, y in values(both, "distillation")] == pytest.approx(total, rel=1e-4)
    for level in range(4):
        assert values(levels, f"loss_fpn{level}") == [
            (x, pytest.approx(y, rel=1e-4)) for x, y in zip(*found[f"distill.loss_fpn{level}"])
        ]
        assert [y for _, y in values(shares, f"fpn{level}")] == pytest.approx(
            [100 * share for share in found[f"distill_share/fpn{level}"].values], rel=1e-4
        )
    for chart in page.charts.values():  # each is a chart that Vega-Lite draws
        assert vl_convert.vegalite_to_svg(chart).startswith("<svg")


@pytest.mark.slow
def test_the_page_says_what_ran_where_and_what_is_missing(page, work_dirs):
    text = " ".join(page.sections["What was trained"].split())
    assert "Student: RetinaNet, ResNet-18, FPN, RetinaHead. Teacher: RetinaNet, ResNet-34, FPN, RetinaHead, " in text
    assert text.endswith("Schedule: 2 iterations, batch 2. Optimizer: AdamW, lr 0.001.")
    header, *rows = page.tables["What was trained"]
    assert header == ["method", "distillation losses", "seeds"]
    assert rows == [[PLAIN, "-", "0"], ["NLKDINLoss", "4 × NLKDINLoss, weight 4", "0"]]
    lines = [json.loads(line) for line in find_scalars(work_dirs / "cankd/seed0")[0].read_text().splitlines()]
    seconds = sorted(line["time"] for line in lines if "loss" in line)[1]
    assert page.tables["Cost"][2][:2] == ["NLKDINLoss", f"{seconds:.3f}"]
    provenance = page.tables["Environment and provenance"]
    (environment,) = (json.loads(file.read_text()) for file in work_dirs.glob("cankd/seed0/*/environment.json"))
    assert provenance[2][0] == "runs/cankd/seed0" and provenance[2][2:5] == [
        environment[key] for key in ("commit", "command", "device")
    ]
    assert "--work-dir" in environment["command"] and "randomness = dict(seed=0)" in page.sections[SECTIONS[-1]]
    assert "cankd robustness CONFIG CHECKPOINT --out WORK_DIR/robustness.pkl" in page.sections["Robustness"]


@pytest.mark.slow
def test_seeds_are_paired_and_robustness_is_shown(work_dirs, tmp_path):
    """Runs of further seeds, whose accuracies are set here, and measured results of the quickstart's students."""
    accuracies = {"student": [0.20, 0.24, 0.22], "cankd": [0.25, 0.27, 0.29, 0.3], "cankd_mu5": [0.21]}
    for name, found in accuracies.items():
        for seed, accuracy in enumerate(found):
            copied = tmp_path / f"all/{name}/seed{seed}"
            shutil.copytree(work_dirs / f"{'student' if name == 'student' else 'cankd'}/seed0", copied)
            (config,), (log,) = copied.glob("*/vis_data/config.py"), copied.glob("*/vis_data/scalars.json")
            weight = 5 if name == "cankd_mu5" else 4
            text = config.read_text().replace("seed=0", f"seed={seed}")
            config.write_text(text.replace("loss_weight=4", f"loss_weight={weight}"))
            log.write_text(re.sub(r'"coco/bbox_mAP": [-\d.]+', f'"coco/bbox_mAP": {accuracy}', log.read_text()))
    shutil.copy(ROOT / "logfile/analysis/robustness.json", tmp_path / "all/robustness.json")
    out = tmp_path / "report.html"
    call_tool(TOOL, tmp_path / "all", "--out", out, "--images", 0)
    page = Page(out)
    _, plain, cankd, other = page.tables["Comparison"]
    assert [row[:2] for row in (plain, cankd, other)] == [[PLAIN, "3"], ["cankd", "4"], ["cankd_mu5", "1"]]
    paired = t_interval([5.0, 3.0, 7.0])
    assert cankd[5:] == ["+5.00", f"{paired.low:.2f} to {paired.high:.2f}", "3"]
    assert other[3:] == ["-", "-", "+1.00", "-", "1"]
    assert plain[2:] == ["22.00", "2.00", "17.03 to 26.97", "-", "-", "-"]
    chart = page.charts["Difference to the plain student of the same seed (ticks), mean and 95 % interval"]
    bars = [row for layer in chart["layer"] for row in layer["data"]["values"] if "low" in row]
    assert {"method": "cankd", "mean": 5.0, "low": 0.031725, "high": 9.9683} in bars
    assert "cankd report WORK_DIR --images 100" in page.sections["Feature maps"] and not page.pictures
    rows = {row[0]: row[1:] for row in page.tables["Robustness"]}
    printed = (ROOT / "logfile/analysis/robustness.txt").read_text()
    for name in ("student alone", "CanKD", "teacher"):
        (line,) = re.findall(rf"^{name} +([\d. -]+)$", printed, re.M)[:1]
        assert rows[name] == line.split()[:3]


def _write_run(folder: Path, config: str, lines: list[dict]) -> None:
    (folder / "1/vis_data").mkdir(parents=True)
    (folder / "1/vis_data/config.py").write_text(config)
    (folder / "1/vis_data/scalars.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_runs_are_grouped_by_data_method_and_seed(tmp_path):
    student = "model = dict(type='A')\nval_dataloader = dict(dataset=dict(data_root='data/{}', pipeline=[]))\n"
    student += "train_cfg = dict(max_iters={})\nrandomness = dict(seed={})\n"
    losses = "model = dict(type='D', architecture=dict(type='A'), teacher=dict(type='B'), "
    losses += "distiller=dict(distill_losses=dict(a=dict(type='mmrazor.{}', loss_weight={}))))\n"
    runs = {"plain/seed0": ("x", 5, 0), "plain/seed1": ("x", 5, 1), "long/seed0": ("x", 50, 0), "y/plain": ("y", 5, 0)}
    for name, parts in runs.items():
        _write_run(tmp_path / name, student.format(*parts), [{"loss": 1.0, "step": 1}])
    methods = {"pkd/seed1": ("PKDLoss", 1, 1), "pkd/seed0": ("PKDLoss", 1, 0), "a/seed0": ("L2Loss", 1, 0)}
    methods["b/seed0"] = ("L2Loss", 2, 0)
    for name, (loss, weight, seed) in methods.items():
        text = student.format("x", 5, seed) + losses.format(loss, weight)
        _write_run(tmp_path / name, text, [{"loss": 1.0, "step": 1}])
    (tmp_path / "broken/1/vis_data").mkdir(parents=True)
    (tmp_path / "broken/1/vis_data/scalars.json").write_text("")
    read, unreadable = find_runs([tmp_path, tmp_path / "plain"])
    assert len(read) == 8 and len(unreadable) == 1 and "config.py" in unreadable[0]
    first, second = group_runs(read)
    found = {group.name: [run.seed for run in group.runs] for group in first.groups}
    assert found == {PLAIN: [0, 1], "long": [0], "PKDLoss": [0, 1], "a": [0], "b": [0]}
    assert [(study.name, list(study.groups)[0].name) for study in (first, second)] == [("x", PLAIN), ("y", PLAIN)]


def test_records_of_a_study_are_runs(tmp_path):
    log = [{"loss": 1.0, "time": 0.5, "step": 1}, {"mIoU": 40.0, "step": 1}]
    record = {"scalars": log, "environment": {"commit": "abc", "cuda": None}}
    for name, more in (("plain_seed3", {"seed": 3, "peak_bytes": 2e6}), ("plain-try2_seed0", {"held_out": True})):
        config = f"model = dict(type='A')\nrandomness = dict(seed={more.get('seed')})\n"
        (tmp_path / f"{name}.json").write_text(json.dumps({**record, **more, "config": config}))
    ((run,), _) = find_runs([tmp_path])
    assert (run.seed, run.metric, run.accuracy, run.seconds_per_step, run.memory) == (3, "mIoU", 40.0, 0.5, 2.0)
    assert run.environment == {"commit": "abc"} and run.checkpoint() is None


def test_folders_without_a_run_and_a_missing_library_give_one_line(tmp_path, monkeypatch):
    for arguments, message in (
        ([tmp_path / "absent"], "expected an existing folder. Check the path."),
        ([tmp_path], "expected a folder that `cankd train` wrote"),
    ):
        done = call_tool(TOOL, *arguments, "--out", tmp_path / "report.html", check=False)
        assert done.returncode == 1 and done.stdout.count("\n") == 0 and message in done.stdout
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    done = call_tool(TOOL, tmp_path, "--out", tmp_path / "report.html", check=False)
    assert done.returncode == 1 and done.stdout.endswith("Install it with `pip install vl-convert-python`.")
    assert list(tmp_path.iterdir()) == []
