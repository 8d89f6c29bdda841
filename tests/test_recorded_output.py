"""Output that docs/analysis.md shows is output that was recorded."""

from __future__ import annotations

import json
import re

from cankd.openmmlab.analysis.robustness import GROUPS, summarise
from tests.conftest import ROOT
from tests.openmmlab.analysis.shared import read_matrix

DOCS = (ROOT / "docs/analysis.md").read_text(encoding="utf-8")


RECORDED = ROOT / "logfile/analysis"


def test_shown_output_is_recorded_output():
    blocks = re.findall(r"<!-- (logfile/analysis/\S+) -->\n```text\n(.*?)\n```", DOCS, re.S)
    assert len(blocks) == DOCS.count("```text") >= 4
    for file, shown in blocks:
        assert shown in (ROOT / file).read_text(encoding="utf-8"), file
    for name in re.findall(r"\]\(([^)#:]+)\)", DOCS):
        assert (ROOT / "docs" / name).exists(), name


def test_recorded_output_is_of_the_recorded_numbers():
    text = (RECORDED / "robustness.txt").read_text()
    state = json.loads((RECORDED / "robustness.json").read_text())
    teacher = summarise(state["models"]["teacher"], "coco/bbox_mAP", GROUPS["benchmark"])["mPC"]
    for name, results in state["models"].items():
        summary = summarise(results, "coco/bbox_mAP", GROUPS["benchmark"])
        figures = [summary["P"], summary["mPC"], summary["rPC"]]
        figures += [] if name == "teacher" else [100 * summary["mPC"] / teacher]
        row = re.search(rf"^{name} +(.*)$", text, re.M)
        assert row and [float(cell) for cell in row.group(1).split() if cell != "-"] == [round(f, 1) for f in figures]
        assert sum(map(len, results["corrupted"].values())) == 75
    for name in ("complexity", "complexity_p3"):
        costs = json.loads((RECORDED / f"{name}.json").read_text())["multiply_adds"]
        text = (RECORDED / f"{name}.txt").read_text()
        assert all(re.search(rf"^{loss} .* {cost['counted'] / 1e9:.3f}$", text, re.M) for loss, cost in costs.items())
    for name in ("student_alone", "CanKD"):
        matrix = read_matrix(RECORDED / f"confusion_matrix_{name}.csv")
        share = 100 * matrix.trace() / matrix.sum()
        line = f"{name.replace('_', ' ')}: {matrix.sum()} counted, {share:.1f} % on the diagonal"
        assert line in (RECORDED / "confusion_matrix.txt").read_text()
