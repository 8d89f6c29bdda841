"""Writes the report: one HTML file that shows what trainings did, without a network."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Sequence, Tuple

import jinja2
from markupsafe import Markup, escape

import cankd
from cankd.openmmlab.analysis.curves import Curve
from cankd.openmmlab.analysis.robustness import GROUPS, METRICS, find_metric, summarise
from cankd.openmmlab.engine.distill_monitor_hook import loss_name
from cankd.openmmlab.report.charts import curve_chart, figures, heatmap_chart, interval_chart, thinned
from cankd.openmmlab.report.pictures import TEACHER, NoCheckpoint, Picture, Pictures
from cankd.openmmlab.report.runs import (
    METRIC_NAMES,
    PLAIN,
    Group,
    Run,
    Study,
    described_model,
    distillation_losses,
    find_runs,
    group_runs,
    has_student_of,
    student_model,
    validation_data,
)
from cankd.openmmlab.statistics import Interval, t_interval
from cankd.utils.command_line import figure
from cankd.utils.files import write_text

SHARE = "distill_share/"
SHARE_TITLE = "share of the gradient at the student's maps"
COMMON = ("student", "teacher", "schedule", "optimizer")  # parts of a recipe that methods can have in common
OPEN_METHODS = 4  # of more methods the losses are folded
Chart = Tuple[str, Dict[str, Any]]  # a caption, and the specification
TEACHERS = "teacher."  # prefix of the metrics of a teacher that is evaluated beside its student


@dataclass
class Table:
    """A table; a cell may contain `code`."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Fold:
    """A folded part of a section: charts as in a section, or a long text."""

    title: str
    charts: list[Chart] = field(default_factory=list)
    text: str = ""
    is_open: bool = False


@dataclass
class Section:
    """A part of the page; its text may contain `code`."""

    title: str
    text: str = ""
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    folded: list[Fold] = field(default_factory=list)

    def all_charts(self) -> list[Chart]:
        """Returns the charts in the order of the page."""
        return self.charts + [chart for fold in self.folded for chart in fold.charts]


def write_report(
    work_dirs: Sequence[Path],
    out: Path,
    images: int = 100,
    device: str = "cpu",
    cfg_options: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Writes the report of all trainings in some folders.

    Args:
        work_dirs: work dirs, or folders that contain work dirs at any depth.
        out: HTML file to write.
        images: validation images that confusion matrices count, the first of which are drawn with their predictions
            and maps; 0 for none. Defaults to 100.
        device: device of the models that predict. Defaults to the CPU.
        cfg_options: overrides of the trainings' configurations, for models that predict. Defaults to none.
        tell: takes a line about each step. Defaults to nothing.

    Raises:
        FileNotFoundError: if a folder does not exist or has no training.
        ImportError: if vl-convert-python is not installed.
    """
    library = _chart_library()
    runs, unreadable = find_runs(work_dirs)
    studies = group_runs(runs)
    tell(f"{len(runs)} runs: {', '.join(f'{study.name} ({len(study.groups)} methods)' for study in studies)}")
    parts = [
        (f"Data: {study.name}", _study_sections(study, images, device, cfg_options or {}, tell)) for study in studies
    ]
    parts.append(("All runs", [_robustness(work_dirs), _provenance(studies, unreadable)]))
    charts = [spec for _, sections in parts for section in sections for _, spec in section.all_charts()]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cankd.openmmlab.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _with_code
    text = environment.get_template("page.html").render(
        title=", ".join(study.name for study in studies),
        runs=len(runs),
        methods=sum(len(study.groups) for study in studies),
        parts=parts,
        charts=charts,
        javascript=Markup(library.javascript_bundle("window.vegaEmbed = vegaEmbed;")),
        version=cankd.__version__,
        date=datetime.date.today().isoformat(),
    )
    write_text(out, text)


def _chart_library() -> Any:
    """Returns the module that has the JavaScript of Vega-Lite, which draws the charts."""
    try:
        import vl_convert
    except ImportError as error:
        raise ImportError(
            "The report's charts need the package vl-convert-python. Install it with `pip install vl-convert-python`."
        ) from error
    return vl_convert


def _with_code(text: str) -> Markup:
    """Returns HTML in which `code` is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _study_sections(
    study: Study, images: int, device: str, cfg_options: Mapping[str, Any], tell: Callable[[str], None]
) -> list[Section]:
    """Returns the sections on one data set."""
    return [
        _training(study),
        _accuracy(study),
        _losses(study),
        _comparison(study),
        *_pictures(study, images, device, cfg_options, tell),
        _cost(study),
    ]


def _training(study: Study) -> Section:
    """Returns what was trained: what all methods have in common as text, the rest as a table."""
    columns: dict[str, list[str]] = {"method": [group.name for group in study.groups]}
    for group in study.groups:
        for name, value in _recipe(group).items():
            columns.setdefault(name, []).append(value)
    columns["seeds"] = [", ".join(str(run.seed) for run in group.runs) for group in study.groups]
    shared = {name: set(values) - {"-"} for name, values in columns.items()}
    common = {name: values.pop() for name, values in shared.items() if len(values) == 1 and name in COMMON}
    data = validation_data(study.groups[0].first.cfg)
    kind = str(data.get("type", "data")).split(".")[-1]
    text = f"{kind} in `{study.groups[0].first.data}`, validated on `{data.get('ann_file') or _images(data)}`. "
    text += "".join(f"{name.capitalize()}: {value}. " for name, value in common.items())
    kept = {name: values for name, values in columns.items() if name not in common}
    return Section("What was trained", text.strip(), tables=[Table(list(kept), list(zip(*kept.values())))])


def _images(data: Mapping[str, Any]) -> str:
    prefix = data.get("data_prefix") or ""
    return str(prefix if isinstance(prefix, str) else next(iter(prefix.values()), ""))


def _recipe(group: Group) -> dict[str, str]:
    """Returns what a method trains, in a few words each."""
    cfg = group.first.cfg
    teacher = losses = "-"
    if group.first.is_distillation:
        file = cfg.model.get("teacher_ckpt") or "its configuration's weights"
        teacher = f"{described_model(student_model(cfg, 'teacher'))}, `{Path(str(file)).name}`"
        losses = _described_losses(distillation_losses(cfg)) or str(cfg.model.type).split(".")[-1]
    schedule = cfg.get("train_cfg") or {}
    iterations, epochs = schedule.get("max_iters"), schedule.get("max_epochs")
    length = f"{iterations:,} iterations" if iterations else f"{epochs} epochs"
    batch = (cfg.get("train_dataloader") or {}).get("batch_size")
    optimizer = (cfg.get("optim_wrapper") or {}).get("optimizer", {})
    return {
        "student": described_model(student_model(cfg)),
        "teacher": teacher,
        "distillation losses": losses,
        "schedule": f"{length}, batch {batch}",
        "optimizer": f"{optimizer.get('type')}, lr {optimizer.get('lr')}",
    }


def _described_losses(losses: Mapping[str, Any]) -> str:
    """Returns the kinds of losses with their number and weight, such as ``4 x NLKDINLoss, weight 5``."""
    counts: dict[tuple[str, Any], int] = defaultdict(int)
    for loss in losses.values():
        counts[str(loss["type"]).split(".")[-1], loss.get("loss_weight")] += 1
    return "; ".join(
        f"{count} × {kind}" + ("" if weight is None else f", weight {weight:g}")
        for (kind, weight), count in counts.items()
    )


def _accuracy(study: Study) -> Section:
    """Returns the curves of accuracy."""
    rows = []
    for group in study.groups:
        for run in group.runs:
            for name, prefix in ((group.name, ""), (TEACHER, TEACHERS)):
                curve = run.curves.get(f"{prefix}{run.metric}", Curve([], []))
                scale = METRICS.get(str(run.metric), 1)
                seed = str(run.path) if run.seed is None else run.seed
                rows += [
                    {"iteration": x, "value": figures(scale * y), "series": name, "seed": seed} for x, y in zip(*curve)
                ]
    title = f"{study.metric} over the training"
    if not rows:
        return Section(title, "No validation is logged: set `val_interval` in the configuration's `train_cfg`.")
    caption = f"{study.metric} of each validation; the strong curve is the mean over the seeds"
    chart = curve_chart(rows, f"{study.metric}, %", f"{caption}.", gray=[PLAIN, TEACHER])
    return Section(title, charts=[(caption, chart)])


def _losses(study: Study) -> Section:
    """Returns the curves of the losses of each method: task against distillation, each level, and gradient shares."""
    folds = [Fold(group.name, _loss_charts(group), is_open=len(study.groups) <= OPEN_METHODS) for group in study.groups]
    text = "Means over the seeds."
    if study.distillations and not any(SHARE_TITLE in caption for fold in folds for caption, _ in fold.charts):
        text += (
            " Each level's share of the gradient is logged every 200 iterations; "
            "`--cfg-options default_hooks.distill_monitor.interval=50` of `cankd train` logs it more often."
        )
    return Section("Losses", text, folded=folds)


def _loss_charts(group: Group) -> list[Chart]:
    """Returns the charts of one method's losses."""
    names = sorted({key for run in group.runs for key in run.curves})
    tasks: list[str] = []
    distilled: dict[str, list[str]] = defaultdict(list)
    for name in names:
        loss = loss_name(name)
        if loss:
            distilled[loss].append(name)
        elif "loss" in name and name != "loss" and not name.startswith(TEACHERS):
            tasks.append(name)
    totals = {"task": tasks, "distillation": [name for keys in distilled.values() for name in keys]}
    charts = [_loss_chart(group, "task and distillation loss" if distilled else "task loss", totals, "loss")]
    if len(distilled) > 1:
        charts.append(_loss_chart(group, "distillation loss of each level", distilled, "loss"))
    shares = {name[len(SHARE) :]: [name] for name in names if name.startswith(SHARE)}
    if shares:
        charts.append(_loss_chart(group, SHARE_TITLE, shares, "share of the gradient, %", 100))
    return charts


def _loss_chart(
    group: Group, title: str, sums: Mapping[str, Sequence[str]], y_title: str, scale: float = 1
) -> tuple[str, dict[str, Any]]:
    """Returns a chart of sums of logged curves, each averaged over the runs of a group."""
    rows = []
    for name, keys in sums.items():
        rows += [
            {"iteration": x, "value": figures(scale * y), "series": name}
            for x, y in thinned(_mean_of_sums(group.runs, keys))
        ]
    caption = f"{group.name}: {title}"
    return caption, curve_chart(rows, y_title, f"{caption}, over the iterations.", hidden_zero=False)


def _mean_of_sums(runs: Iterable[Run], keys: Sequence[str]) -> list[tuple[int, float]]:
    """Returns (iteration, mean over the runs of the sum of the curves), at each logged iteration."""
    sums: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        of_run: dict[int, float] = defaultdict(float)
        for key in keys:
            for iteration, value in zip(*run.curves.get(key, Curve([], []))):
                of_run[iteration] += value
        for iteration, value in of_run.items():
            sums[iteration].append(value)
    return [(iteration, statistics.fmean(values)) for iteration, values in sorted(sums.items())]


def _comparison(study: Study) -> Section:
    """Returns the accuracies of the last validations, with intervals, and the differences to the plain student."""
    title = "Comparison"
    groups = [group for group in study.groups if group.accuracies]
    groups.sort(key=lambda group: (group.name == PLAIN, group.mean_accuracy), reverse=True)
    if len(groups) < 2:
        return Section(title, "Give the work dirs of several methods, such as the student alone and a distillation.")
    baseline = study.plain.accuracies if study.plain else {}
    rows, intervals, differences, points, paired_points = [], [], [], [], []
    for group in groups:
        values = list(group.accuracies.values())
        interval = t_interval(values)
        intervals.append(_bar(group.name, interval))
        points += [{"method": group.name, "value": figures(v), "seed": s} for s, v in group.accuracies.items()]
        deviation = figure(statistics.stdev(values) if len(values) > 1 else None, 2)
        row = [group.name, str(len(values)), f"{interval.mean:.2f}", deviation, _range(interval)]
        is_compared = study.plain and group is not study.plain and has_student_of(group.first, study.plain.first)
        paired = {s: v - baseline[s] for s, v in group.accuracies.items() if s in baseline and is_compared}
        if paired:
            interval = t_interval(list(paired.values()))
            differences.append(_bar(group.name, interval))
            paired_points += [{"method": group.name, "value": figures(v), "seed": s} for s, v in paired.items()]
            row += [f"{interval.mean:+.2f}", _range(interval), str(len(paired))]
        rows.append([*row, *["-"] * (8 - len(row))])
    metric = study.metric
    header = ["method", "runs", f"{metric}, %", "standard deviation", "95 % interval"]
    header += ["difference to the plain student", "95 % interval", "pairs"]
    charts = [
        (f"{metric} of each run (ticks), mean and 95 % interval", f"{metric}, %", points, intervals),
        (
            "Difference to the plain student of the same seed (ticks), mean and 95 % interval",
            f"difference in {metric}, points",
            paired_points,
            differences,
        ),
    ]
    text = (
        f"{metric} of each run's last validation. The intervals are Student's t intervals, those of the differences "
        "paired by seed; one run, or one pair, has none."
    )
    drawn = [
        (caption, interval_chart(ticks, bars, x_title, f"{caption}.", with_zero=bars is differences))
        for caption, x_title, ticks, bars in charts
        if bars
    ]
    return Section(title, text, charts=drawn, tables=[Table(header, rows)])


def _bar(method: str, interval: Interval) -> dict[str, Any]:
    """Returns a row of an interval chart."""
    low, high = (figures(end) if interval.number > 1 else None for end in (interval.low, interval.high))
    return {"method": method, "mean": figures(interval.mean), "low": low, "high": high}


def _range(interval: Interval) -> str:
    return "-" if interval.number < 2 else f"{interval.low:.2f} to {interval.high:.2f}"


def _pictures(
    study: Study, images: int, device: str, cfg_options: Mapping[str, Any], tell: Callable[[str], None]
) -> list[Section]:
    """Returns feature maps, predictions and confusion matrices, or why there are none."""
    features, predictions, matrices = (Section(name) for name in ("Feature maps", "Predictions", "Confusion matrices"))
    sections = [features, predictions, matrices]
    if not images:
        for section in sections:
            section.text = "Left out; `cankd report WORK_DIR --images 100` makes them from the checkpoints."
        return sections
    tell(f"{study.name}: predictions for {images} validation images ...")
    pictures = None
    with _errors_shown(*sections):
        pictures = Pictures(study, images, device, cfg_options)
    if pictures is None:
        return sections
    with _errors_shown(features):
        features.pictures = pictures.features()
        features.text = "The mean absolute value over the channels; each channel is standardised over the positions."
    with _errors_shown(predictions, matrices):
        predictions.pictures, matrices.pictures = pictures.predictions()
        matrices.text = f"The first {images} validation images, or all where there are fewer."
        if not predictions.pictures:
            predictions.text = "A classifier's predictions are in the confusion matrices."
    return sections


@contextlib.contextmanager
def _errors_shown(*sections: Section) -> Iterator[None]:
    """Puts the message of an error into sections, so that the page is written all the same."""
    try:
        yield
    except Exception as error:
        for section in sections:
            section.text = _why(error)


def _why(error: Exception) -> str:
    message = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, NoCheckpoint):
        return f"Not made: {message}."
    return (
        f"Not made: {message}. `cankd report WORK_DIR --cfg-options KEY=VALUE` changes the configurations, such as "
        "`val_dataloader.dataset.data_root`."
    )


def _cost(study: Study) -> Section:
    """Returns the time and memory of a training step."""
    rows, points, intervals = [], [], []
    plain = [run.seconds_per_step for run in study.plain.runs if run.seconds_per_step] if study.plain else []
    for group in study.groups:
        seconds = [run.seconds_per_step for run in group.runs if run.seconds_per_step]
        memory = [run.memory for run in group.runs if run.memory]
        if not seconds:
            continue
        mean = statistics.fmean(seconds)
        relative = f"{mean / statistics.fmean(plain):.2f}" if plain else "-"
        rows.append([group.name, f"{mean:.3f}", relative, f"{max(memory):,.0f}" if memory else "-", str(len(seconds))])
        points += [
            {"method": group.name, "value": figures(run.seconds_per_step), "seed": run.seed}
            for run in group.runs
            if run.seconds_per_step
        ]
        intervals.append({"method": group.name, "mean": figures(mean), "low": None, "high": None})
    if not rows:
        return Section("Cost", "No time of a training step is logged; mmengine's `IterTimerHook` logs it.")
    text = "Medians of the logged seconds of a training step, with the loading of its data; means over the runs."
    if not any(run.memory for group in study.groups for run in group.runs):
        text += " Memory is logged on GPUs alone; `cankd benchmark-step` measures it on a CPU."
    header = ["method", "seconds per step", "times the plain student's", "peak of memory, MB", "runs"]
    caption = "Seconds per training step of each run (ticks) and their mean"
    chart = interval_chart(points, intervals, "seconds per step", f"{caption}.")
    return Section("Cost", text, charts=[(caption, chart)], tables=[Table(header, rows)])


def _robustness(work_dirs: Sequence[Path]) -> Section:
    """Returns the accuracy under image corruptions, of the results that ``cankd robustness`` wrote."""
    models: dict[str, dict[str, Any]] = {}
    for root in work_dirs:
        for file in sorted(root.rglob("*.json")):
            found = _robustness_results(file) if file.parent.name != "vis_data" else {}
            for name, results in found.items():
                models[name if name not in models else f"{name} ({file.parent.name})"] = results
    if not models:
        command = "`cankd robustness CONFIG CHECKPOINT --out WORK_DIR/robustness.pkl`"
        return Section("Robustness", f"No results in the work dirs: {command} measures them.")
    clean = [results["clean"] for results in models.values() if "clean" in results]
    corrupted = [m for results in models.values() for by in results["corrupted"].values() for m in by.values()]
    metric = find_metric(clean + corrupted)
    name = METRIC_NAMES.get(metric, metric)
    rows, curve, cells = [], [], []
    for model, results in models.items():
        chosen = [corruption for corruption in results["corrupted"] if corruption in GROUPS["benchmark"]]
        summary = summarise(results, metric, chosen or list(results["corrupted"]))
        rows.append([model, *(figure(summary[key]) for key in ("P", "mPC", "rPC"))])
        by_severity: dict[int, list[float]] = defaultdict(list)
        if summary["P"] is not None:
            by_severity[0] = [summary["P"]]
        for corruption, values in summary["by_corruption"].items():
            mean = statistics.fmean(values.values())
            cells.append({"row": corruption.replace("_", " "), "column": model, "value": figures(mean)})
            for severity, value in values.items():
                by_severity[int(severity)].append(value)
        curve += [
            {"iteration": severity, "value": figures(statistics.fmean(values)), "series": model}
            for severity, values in sorted(by_severity.items())
        ]
    charts = []
    if cells:
        title = f"{name}, %"
        severities = curve_chart(curve, title, f"{name} over the severity of corruptions.", x_title="severity")
        charts.append((f"{name} over the severity, mean over the corruptions; 0 is clean", severities))
        caption = f"{name} of each corruption, mean over the severities"
        charts.append((caption, heatmap_chart(cells, title, f"{caption}.")))
    text = "P is the accuracy on clean images, mPC its mean over corruptions and severities, rPC = mPC / P."
    header = ["model", f"P ({name}), %", "mPC, %", "rPC, %"]
    return Section("Robustness", text, charts=charts, tables=[Table(header, rows)])


def _robustness_results(file: Path) -> dict[str, Any]:
    """Returns the results of each model in a file that ``cankd robustness`` wrote, none of another file."""
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    if not (isinstance(state, dict) and {"settings", "versions", "models"} <= set(state)):
        return {}
    return {name: results for name, results in state["models"].items() if "corrupted" in results}


def _provenance(studies: Sequence[Study], unreadable: Sequence[str]) -> Section:
    """Returns where and how each run was made."""
    header = ["run", "seed", "commit", "command", "device", "Python", "torch", "MMEngine"]
    rows = [
        [
            f"`{run.path}`",
            str(run.seed),
            *(_first(run, *keys) for keys in (("commit",), ("command",), ("device", "GPU 0"), ("python", "Python"))),
            *(_first(run, *keys) for keys in (("torch", "PyTorch"), ("MMEngine",))),
        ]
        for study in studies
        for group in study.groups
        for run in group.runs
    ]
    text = "`cankd train CONFIG` with the resolved configuration of a run, which is below, repeats it."
    if unreadable:
        text += f" Left out: {' '.join(unreadable)}"
    folded = [
        Fold(f"{study.name}, {group.name}: resolved configuration with seed {group.first.seed}", text=group.first.text)
        for study in studies
        for group in study.groups
    ]
    return Section("Environment and provenance", text, tables=[Table(header, rows)], folded=folded)


def _first(run: Run, *keys: str) -> str:
    """Returns the first of some facts about a run's environment that is known."""
    found = next((run.environment[key] for key in keys if key in run.environment), "-")
    return f"`{found}`" if keys[0] == "command" and found != "-" else found.split(" (")[0]
