"""Writes the generated tables of README.md, configs/README.md and docs/*.md, and a chart, from what was recorded.

python tools/make_tables.py [--check]

Sources: configs/metafile.yml (the paper's figures, ours beside them) and the summaries that
quickstart runs and benchmarks wrote under logfile. With --check nothing is written, and the exit
status tells whether a table or the chart is out of date: the chart keeps the numbers that it shows.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from statistics import stdev
from typing import Any, Iterable, Sequence

import matplotlib
import matplotlib.pyplot as plt
import yaml
from PIL import Image

from cankd.__main__ import COMMANDS, module_of
from cankd.openmmlab.statistics import t_interval

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "logfile" / "quickstart"
STUDY = ROOT / "logfile" / "study"


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in lines)


def cell(value: Any, absent: str = "–") -> str:
    return absent if value is None else f"{value}"


def quickstart_table() -> str:
    rows = []
    for file in sorted(RUNS.glob("*/summary.json")):
        run = json.loads(file.read_text())
        cells = [f"{run[name]['AP']:.1f} / {run[name]['AP50']:.1f}" for name in ("teacher", "student", "cankd")]
        gain = run["cankd"]["AP"] - run["student"]["AP"]
        rows.append([run["iterations"], run["seed"], *cells, f"{gain:+.1f}"])
    return markdown(["iterations", "seed", "teacher", "student alone", "with CanKD", "AP gained"], sorted(rows))


def quickstart_output() -> str:
    """The first and the last lines of what the default run printed."""
    lines = (RUNS / "iter1200_seed0" / "output.txt").read_text().strip().splitlines()
    return "\n".join(["```text", *lines[:4], "...", *lines[-7:], "```"])


def paper_table(models: list[dict]) -> str:
    header = ["table", "row", "metric", "teacher", "student", "with CanKD, *paper*", "*measured here*"]
    rows = []
    for model in models:
        name = f"[{model['row']}](../configs/{model['config']})"
        measured = cell(model["measured"], "*not run*")
        rows.append(
            [model["table"], name, model["metric"], *(cell(model[key]) for key in ("teacher", "student", "paper"))]
            + [measured]
        )
    return markdown(header, rows)


def methods_table(models: list[dict], recipe: str) -> str:
    """Returns the rows of one kind of recipe; other methods with CanKD's settings stand beside CanKD's recipe."""
    header = ["pair", "method", "metric", "teacher", "student", "reported", "by", "*measured here*"]
    rows = []
    wanted = [
        model
        for model in models
        if ("method" in model or "/cankd_" in model["config"]) and model.get("recipe", "CanKD's") == recipe
    ]
    for pair in dict.fromkeys(model["row"] for model in wanted if "method" in model):
        for model in wanted:
            other = "method" in model
            if model["row"].split(",")[0] == pair:
                name = f"[{model.get('method', 'CanKD')}](../configs/{model['config']})"
                table = f"table {model['table']}".replace("table S", "supplement ")
                source = model["source"] if other else model["paper"] and f"CanKD, {table}"
                rows.append(
                    [pair, name, model["metric"], *(cell(model[key]) for key in ("teacher", "student", "paper"))]
                    + [cell(source), cell(model["measured"], "*not run*")]
                )
    return markdown(header, rows)


def benchmark_table(name: str) -> str:
    """What the benchmark of that name wrote, with the machine and the command above it."""
    folder = ROOT / "logfile" / "benchmark" / f"{name}_cpu"
    return f"\n{(folder / f'benchmark_{name}.md').read_text().strip()}\n"


def published_table(models: list[dict]) -> str:
    header = ["recipe", "table", "published configuration", "log"]
    rows = [
        [f"[{Path(m['config']).stem}]({m['config']})", m["table"], cell(m["published"]), cell(m["log"])] for m in models
    ]
    return markdown(header, rows)


def study_runs(data: str) -> dict[str, dict[int, dict]]:
    """The records of a study: row -> seed -> record, in the order of the matrix."""
    found: dict[str, dict[int, dict]] = {}
    for file in sorted((STUDY / data).glob("*_seed*.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault(file.stem.rsplit("_seed", 1)[0], {})[run["seed"]] = run
    matrix = yaml.safe_load((ROOT / "configs/study/study.yml").read_text(encoding="utf-8"))[data]
    order = [*matrix["teachers"], *matrix["rows"]]
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0]) if item[0] in order else 99, item[0])))


def study_cells(runs: dict[int, dict], *references: dict[int, dict]) -> list[str]:
    """Mean and deviation of a row's accuracy, the number of its seeds, and its differences to other rows."""
    differences = [study_difference(runs, reference) for reference in references]
    return [mean_of([run["accuracy"] for run in runs.values()]), str(len(runs)), *differences]


def mean_of(values: list[float]) -> str:
    """Mean and, of several values, standard deviation."""
    return f"{sum(values) / len(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def study_difference(runs: dict[int, dict], reference: dict[int, dict]) -> str:
    """The difference of two rows' accuracies over the seeds of both; nothing for a teacher or a row and itself."""
    pairs = [runs[seed]["accuracy"] - reference[seed]["accuracy"] for seed in runs if seed in reference]
    if runs is reference or not pairs or runs[min(runs)]["method"] == "teacher":
        return ""
    mean, low, high, count = t_interval(pairs)
    return f"{mean:+.1f}" + (f" [{low:+.1f}, {high:+.1f}], n = {count}" if count > 1 else "")


def ending(row: str) -> str:
    """What the names of a row and of those that it is compared with end in."""
    return next((end for end in ("-x4", "-again") if row.endswith(end)), "")


def study_table(data: str, kind: str = "") -> str:
    """All rows of a data set but those about weights; with a kind those of it, and the plain student.

    Differences are those to the rows plain and CanKD, of rows ending in -x4 or -again to those with that ending.
    """
    found = study_runs(data)
    file = STUDY / data / f"costs{kind}.json"
    costs = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else {}
    shown = {
        row: runs
        for row, runs in found.items()
        if not (runs[min(runs)]["held_out"] or "-best" in row) and (row == "plain" or ("scratch" in row) == bool(kind))
    }
    rows = []
    for row, runs in shown.items():
        cost, iterations = costs.get(row), runs[min(runs)]["iterations"]
        measured = [f"{cost['median']:.2f}", f"{cost['peak_bytes'] / 2**20:.0f}"] if cost else ["", ""]
        plain, cankd = found.get(f"plain{ending(row)}", {}), found.get(f"cankd{ending(row) or kind}", {})
        rows.append([row, iterations, *study_cells(runs, plain, cankd), *measured])
    difference = "difference to {} [95 % interval]"
    header = ["row", "iterations", "mean", "seeds", *map(difference.format, ("plain", "CanKD")), "s / step", "MiB"]
    return markdown(header, rows) + f"\n\n{study_machine(shown)}"


def study_numbers(data: str) -> dict[str, Any]:
    """What the chart of a data set shows.

    ``curves`` has by row of the long trainings, and by seed, (iteration, AP on the validation images); ``differences``
    has by row those of the test AP to the plain student of the same seed, after as many iterations.
    """
    found = study_runs(data)
    plain = found["plain"]
    key = plain[0]["metric"]
    return {
        "curves": {
            row: [[(line["step"], 100 * line[key]) for line in run["scalars"] if key in line] for run in runs.values()]
            for row, runs in found.items()
            if row in ("plain-x4", "cankd-x4")
        },
        "differences": {
            row: [run["accuracy"] - plain[seed]["accuracy"] for seed, run in runs.items() if seed in plain]
            for row, runs in found.items()
            if runs[min(runs)]["method"] not in (None, "teacher")
            and runs[min(runs)]["iterations"] == plain[0]["iterations"]
            and not re.search("-scratch|-try|-best|-again", row)
        },
    }


def draw_study(numbers: dict[str, Any], file: Path) -> None:
    """Draws the study's chart, which keeps its numbers in the picture's description."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for (row, curves), color in zip(numbers["curves"].items(), ("#777777", "#c0392b")):
        for curve in curves:
            left.plot(*zip(*curve), color=color, alpha=0.35)
        steps = [step for step, _ in curves[0]]
        means = [sum(accuracy for _, accuracy in values) / len(curves) for values in zip(*curves)]
        left.plot(steps, means, "o-", color=color, lw=2, label=f"{row}, mean of {len(curves)}")
    left.set(title="BCCD, the long training", xlabel="iterations", ylabel="AP on validation images, %")
    left.legend(loc="lower right")
    for height, (row, pairs) in enumerate(reversed(numbers["differences"].items())):
        mean, low, high, count = t_interval(pairs)
        right.plot(pairs, [height] * count, ".", color="#aaaaaa")
        right.plot([mean], [height], "o", color="#c0392b" if row.startswith("cankd") else "#2c5f8a")
        if count > 1:
            right.plot([low, high], [height] * 2, color="#444444", lw=1.2, zorder=1)
    right.axvline(0, color="#444444", lw=0.8)
    labels = [f"{row}, n = {len(pairs)}" for row, pairs in reversed(numbers["differences"].items())]
    right.set_yticks(range(len(labels)), labels)
    right.set(title="BCCD, as many iterations, 95 % interval", xlabel="test AP minus that of the plain student, %")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110, metadata={"Description": json.dumps(numbers)})


def study_weights_table(data: str) -> str:
    """Each method with several weights on held-out images, and with the best of them on the test images."""
    found = study_runs(data)
    trials: dict[str, dict[float, float]] = {}
    for name, runs in found.items():
        if runs[0]["held_out"]:
            trials.setdefault(name.rsplit("-try", 1)[0], {})[runs[0]["weight"]] = runs[0]["accuracy"]
    weights = sorted({weight for results in trials.values() for weight in results})
    best = {
        method: max(results, key=lambda weight: results[weight])
        for method, results in trials.items()
        if len(results) == len(weights)
    }
    chosen = {
        method: found.get(method if weight == 1 else f"{method}-best{weight:g}", {}) for method, weight in best.items()
    }
    rows = []
    for method, results in trials.items():
        tested = chosen.get(method, {})
        cells = study_cells(tested, found["plain"], chosen.get("cankd", {})) if tested else [""] * 4
        tried = (f"{results[w]:.1f}" if w in results else "" for w in weights)
        rows.append([method, *tried, cell(best.get(method), ""), *cells])
    columns = ["test", "seeds", "difference to plain", "difference to CanKD"]
    return markdown(["method", *(f"x {weight:g}" for weight in weights), "best", *columns], rows)


def scenes_runs() -> dict[str, dict[int, dict]]:
    """The quickstart's runs of its default length as rows of the study: row -> seed -> accuracy."""
    found: dict[str, dict[int, dict]] = {"plain": {}, "cankd": {}}
    for file in sorted(RUNS.glob("iter1200_*/summary.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        for row, name in (("plain", "student"), ("cankd", "cankd")):
            found[row][run["seed"]] = {"accuracy": run[name]["AP"], "method": None, "seconds": run["seconds"][name]}
    return found


def scenes_table() -> str:
    found = scenes_runs()
    rows = []
    for row, runs in found.items():
        seconds = sorted(run["seconds"] for run in runs.values())
        times = f"{seconds[0]:.0f} to {seconds[-1]:.0f}"
        rows.append([row, 1200, *study_cells(runs, found["plain"]), times])
    header = ["row", "iterations", "mean", "seeds", "difference to plain [95 % interval]", "seconds, two side by side"]
    return markdown(header, rows)


def study_robustness_table(data: str) -> str:
    """Accuracy on corrupted images of each row that was examined, and the paired difference of mPC to the plain row."""
    found: dict[str, dict[int, dict]] = {}
    for file in sorted((STUDY / data / "robustness").glob("*.json")):
        known = json.loads(file.read_text(encoding="utf-8"))
        (percent,) = known["summary"]["percent"].values()
        found.setdefault(known["row"], {})[known["seed"]] = {**percent, "accuracy": percent["mPC"], "method": None}
    rows = []
    for row, runs in found.items():
        clean, robust = (mean_of([run[key] for run in runs.values()]) for key in ("P", "rPC"))
        mpc, seeds, difference = study_cells(runs, found.get(f"plain{ending(row)}", {}))
        rows.append([row, seeds, clean, mpc, difference, robust])
    header = ["row", "seeds", "clean", "mPC", "mPC minus plain's [95 % interval]", "rPC, %"]
    return markdown(header, rows) if rows else "*Not run* yet."


def study_summary() -> str:
    """Plain student and CanKD of each data set that has both."""
    rows = []
    for data, found in {"bccd": study_runs("bccd"), "camvid": study_runs("camvid"), "scenes": scenes_runs()}.items():
        if {"plain", "cankd"} <= set(found):
            plain, seeds = study_cells(found["plain"])
            distilled, _, difference = study_cells(found["cankd"], found["plain"])
            rows.append([data, seeds, plain, distilled, difference])
    return markdown(["data", "seeds", "student alone", "with CanKD", "difference [95 % interval]"], rows)


def study_machine(found: dict[str, dict[int, dict]]) -> str:
    """Where and when the runs of a study were made."""
    runs = [run for seeds in found.values() for run in seeds.values()]
    if not runs:
        return "*Not run* yet."
    machines = {tuple(str(run["environment"][key]) for key in ("device", "torch", "python")) for run in runs}
    dates = sorted(run["environment"]["date"] for run in runs)
    hours = sum(run["cpu_seconds"] for run in runs) / 3600
    where = "; ".join(f"{device}, torch {torch}, Python {python}" for device, torch, python in sorted(machines))
    return f"*Measured here*: {len(runs)} runs, {hours:.1f} hours of one core, {dates[0]} to {dates[-1]}, {where}."


def commands_table() -> str:
    """Each command with the script that runs the same function."""
    scripts = {}
    for file in sorted((ROOT / "tools").rglob("*.py")):
        found = re.search(r"from (cankd\.[\w.]+) import (\w+)\n", file.read_text(encoding="utf-8"))
        if found:
            scripts[found.groups()] = file.relative_to(ROOT).as_posix()
    rows = [
        [f"`cankd {name}`", f"`{scripts[module_of(name), function]}`", description]
        for name, (_, function, description) in COMMANDS.items()
    ]
    return markdown(["command", "script", "what it does"], rows)


def fill(text: str, name: str, table: str) -> str:
    """Replaces what stands between a table's two markers."""
    pattern = re.compile(rf"(<!-- {name} -->\n)(?:.*?\n)?(<!-- end of {name} -->)", re.S)
    if not pattern.search(text):
        sys.exit(f"marker '<!-- {name} -->' not found; put it and '<!-- end of {name} -->' where the table belongs.")
    return pattern.sub(lambda match: match.group(1) + table + "\n" + match.group(2), text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table is out of date")
    args = parser.parse_args()
    models = yaml.safe_load((ROOT / "configs" / "metafile.yml").read_text(encoding="utf-8"))["models"]
    cankd = [model for model in models if "method" not in model]
    benchmarks = {f"{name} benchmark": benchmark_table(name) for name in ("loss", "step")}
    tables = {
        "README.md": {"quickstart table": quickstart_table(), "study summary": study_summary()},
        "configs/README.md": {"published table": published_table(cankd)},
        "docs/results.md": {
            "quickstart table": quickstart_table(),
            "quickstart output": quickstart_output(),
            "paper table": paper_table([model for model in cankd if model["table"] != "-"]),
            "methods table": methods_table(models, "CanKD's"),
            "recipes table": methods_table(models, "own"),
            "pairs table": methods_table(models, "zoo"),
        },
        "docs/study.md": {
            **{f"study {data}": study_table(data) for data in ("bccd", "camvid")},
            "study scenes": scenes_table(),
            "study bccd scratch": study_table("bccd", "-scratch"),
            "study bccd weights": study_weights_table("bccd"),
            "study bccd robustness": study_robustness_table("bccd"),
        },
        "docs/commands.md": {"commands table": commands_table()},
        "docs/performance.md": benchmarks,
    }
    stale = []
    chart, numbers = ROOT / "docs" / "study.png", study_numbers("bccd")
    if not chart.exists() or Image.open(chart).info["Description"] != json.dumps(numbers):
        stale.append("docs/study.png")
        if not args.check:
            draw_study(numbers, chart)
    for name, parts in tables.items():
        file = ROOT / name
        old = text = file.read_text(encoding="utf-8")
        for marker, table in parts.items():
            text = fill(text, marker, table)
        if text != old:
            stale.append(name)
            if not args.check:
                file.write_text(text, encoding="utf-8")
    if args.check and stale:
        sys.exit(f"out of date: {', '.join(stale)}. Run python tools/make_tables.py.")
    print("Tables are current." if not stale else f"Wrote {', '.join(stale)}.")


if __name__ == "__main__":
    main()
