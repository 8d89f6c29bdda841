"""Measures robustness against image corruptions: P, mPC and rPC of COCO-C's protocol, of one or more models.

python tools/analysis_tools/test_robustness.py CONFIG CHECKPOINT [--out FILE.pkl] [--corruptions NAME ...]
    [--severities N ...] [--also CONFIG CHECKPOINT ...] [--teacher CONFIG CHECKPOINT] [--names NAME ...]

Detection (AP), segmentation (mIoU) and classification (top 1), by the evaluator of the configuration.
A distillation checkpoint or a student's own, with a distillation configuration or the student's own.
FILE.json is written after every corruption and severity; the same command goes on from there. At the
end FILE_results.pkl holds the metrics, named and laid out as by mmdet's tool, and FILE.png the heatmap.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import pickle
import sys
import time
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process

import cankd
from cankd.openmmlab.analysis.robustness import GROUPS, find_metric, insert_corruption, select_corruptions, summarise
from cankd.openmmlab.engine.launch import add_run_arguments, leave_process_group, load_config, run_errors
from cankd.openmmlab.engine.runner import Runner
from cankd.openmmlab.inference import load_model, weights_file
from cankd.openmmlab.visualization.matrices import Matrix, draw_matrices
from cankd.utils.command_line import at_least
from cankd.utils.files import sha256, whole, write_text


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--out",
        type=Path,
        help="FILE.pkl: names FILE_results.pkl, FILE.json and FILE.png; robustness.pkl in the work dir by default",
    )
    parser.add_argument(
        "--also", nargs=2, action="append", default=[], metavar=("CONFIG", "CHECKPOINT"), help="another model"
    )
    parser.add_argument(
        "--teacher",
        nargs=2,
        metavar=("CONFIG", "CHECKPOINT"),
        help="the teacher: the retention mPC / mPC of the teacher is given for the others. A distillation "
        "configuration and checkpoint give theirs.",
    )
    parser.add_argument("--names", nargs="+", help="of the models in their order, the teacher last")
    names = [*GROUPS, *GROUPS["all"]]
    parser.add_argument("--corruptions", nargs="+", default=["benchmark"], choices=names, help="corruptions or groups")
    severities = range(6)
    parser.add_argument("--severities", type=int, nargs="+", default=severities, choices=severities, help="0 is clean")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the corruptions' noise")
    parser.add_argument("--metric", help="accuracy to summarise, as the evaluator names it")
    parser.add_argument("--workers", type=at_least(0), help="processes that load and corrupt images")
    parser.add_argument(
        "--load-dataset",
        choices=["original", "corrupted"],
        default="original",
        help="corrupt the images while loading them, or read corrupted ones from --corrupted-dir",
    )
    parser.add_argument(
        "--corrupted-dir",
        help="DIR/<corruption>/<severity>/<path below the data set's image folder>; with original images, written "
        "there with .png behind their names",
    )
    parser.add_argument("--summaries", nargs="?", const=True, default=False, help="print all metrics of every pair")
    parser.add_argument("--final-prints", nargs="+", choices=["P", "mPC", "rPC"], default=["P", "mPC", "rPC"])
    parser.add_argument(
        "--final-prints-aggregate",
        choices=["all", "benchmark"],
        default="benchmark",
        help="mean over all corruptions, or over those of the benchmark if any were chosen",
    )
    parser.add_argument("--show", action="store_true", help="show predictions of a detector")
    parser.add_argument("--show-dir", help="write pictures of a detector's predictions")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds that --show shows a picture")
    return parser.parse_args()


def results_file(out: Path) -> Path:
    return out.with_name(f"{out.stem}_results{out.suffix}")


def save(state: dict[str, Any], out: Path) -> None:
    write_text(out.with_suffix(".json"), json.dumps(state, indent=1) + "\n")


def fingerprint(cfg: Config, checkpoint: str, role: str) -> dict[str, str]:
    """What tells whether results of a file are of these weights, this model and data."""
    parts = {key: cfg.get(key) for key in ("model", "test_dataloader", "test_evaluator")}
    text = json.dumps(parts, sort_keys=True, default=str)
    file = weights_file(cfg, checkpoint, role)
    return {"checkpoint_sha256": sha256(file), "config_sha256": hashlib.sha256(text.encode()).hexdigest()}


def read_state(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The results so far.

    Raises:
        ValueError: if the file holds results of other settings, or something else.
    """
    if not file.exists():
        libraries = {module.__name__: module.__version__ for module in (cankd, torch, np, skimage)}
        return {"settings": settings, "versions": libraries, "models": {}}
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        found = state["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--out: {file} holds something else than results of this tool. Give another --out."
        ) from error
    if found != settings:
        raise ValueError(
            f"--out: {file} holds results of {found}, this run has {settings}. Give another --out, or the same options."
        )
    return state


class Model:
    """One model under test; its runner evaluates it under any corruption."""

    def __init__(self, config: str, checkpoint: str, role: str, args: argparse.Namespace) -> None:
        self.cfg = load_config(argparse.Namespace(**{**vars(args), "config": config}))
        if "test_dataloader" not in self.cfg:
            raise ValueError(f"config: {config} has no test_dataloader. Give the configuration of a training.")
        self.model, _ = load_model(self.cfg, checkpoint, role=role)
        self.fingerprint = fingerprint(self.cfg, checkpoint, role)
        self.args = args
        self.runner: Runner | None = None

    def _start(self) -> Runner:
        args, cfg = self.args, self.cfg
        if args.show or args.show_dir:
            from mmdet.engine.hooks.utils import trigger_visualization_hook

            trigger_visualization_hook(cfg, args)
        if args.workers is not None:
            cfg.test_dataloader.update(num_workers=args.workers, persistent_workers=args.workers > 0)
        names = ("test_dataloader", "test_evaluator", "test_cfg", "default_hooks", "default_scope")
        # Under a name of their own: mmengine would go on with a logger and a visualizer of an earlier runner.
        unique = f"robustness_{id(self)}"
        return Runner(
            model=self.model,
            work_dir=cfg.work_dir,
            launcher=cfg.launcher,
            env_cfg=cfg.get("env_cfg", dict(dist_cfg=dict(backend="nccl"))),
            log_level="WARNING",
            experiment_name=unique,
            visualizer=dict(cfg.get("visualizer") or {"type": "Visualizer"}, name=unique),
            cfg=cfg,
            **{name: cfg.get(name) for name in names},
        )

    def evaluate(self, name: str, corruption: str | None = None, severity: int = 0) -> dict[str, float]:
        """The evaluator's metrics on the test data, clean or corrupted."""
        loader = self.cfg.test_dataloader.to_dict()
        if corruption:
            options = {"seed": self.args.seed, "folder": self.args.corrupted_dir}
            options["load"] = self.args.load_dataset == "corrupted"
            step = dict(type="SeededCorruption", corruption=corruption, severity=severity, **options)
            insert_corruption(loader["dataset"], step)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its tables
            self.runner = self.runner or self._start()
            self.runner.test_loop.dataloader = self.runner.build_dataloader(loader)
            for hook in self.runner.hooks:
                if self.args.show_dir and hasattr(hook, "test_out_dir"):
                    hook.test_out_dir = str(Path(self.args.show_dir).absolute() / name / f"{corruption}_{severity}")
            metrics = self.runner.test()
        return {key: float(value) for key, value in metrics.items() if isinstance(value, Real)}


def missing_pairs(results: dict[str, Any], pairs: list[tuple]) -> list[tuple]:
    return [
        (corruption, severity)
        for corruption, severity in pairs
        if (str(severity) not in results["corrupted"].get(corruption, {}) if severity else "clean" not in results)
    ]


def summaries(
    models: dict[str, Any], args: argparse.Namespace, corruptions: list[str]
) -> tuple[str, dict[str, dict[str, Any]]]:
    """The metric's name and, by model, what it comes to over the chosen corruptions and severities."""
    severities = [str(severity) for severity in sorted(set(args.severities)) if severity]
    chosen = {
        name: {**results, "corrupted": {c: {s: results["corrupted"][c][s] for s in severities} for c in corruptions}}
        for name, results in models.items()
    }
    clean = [results["clean"] for results in chosen.values() if "clean" in results]
    corrupted = [m for results in chosen.values() for by in results["corrupted"].values() for m in by.values()]
    metric = find_metric(clean + corrupted, args.metric)
    averaged = [name for name in corruptions if name in GROUPS["benchmark"]]
    if args.final_prints_aggregate == "all" or not averaged:
        averaged = corruptions
    found = {name: summarise(results, metric, averaged if severities else []) for name, results in chosen.items()}
    reference = next((found[name]["mPC"] for name, results in models.items() if results["teacher"]), None)
    for name, summary in found.items():
        known = reference and summary["mPC"] is not None and not models[name]["teacher"]
        summary["retention"] = 100 * summary["mPC"] / reference if known else None
    return metric, found


def run(args: argparse.Namespace, models: dict[str, Model], state: dict[str, Any], pairs: list[tuple]) -> None:
    """Evaluates what is missing and writes the results after every pair."""
    todo = {name: missing_pairs(state["models"][name], pairs) for name in models}
    total, done, began = sum(map(len, todo.values())), 0, time.time()
    if is_main_process():
        print(f"{len(models) * len(pairs)} evaluations, {total} of them to do", flush=True)
    for name, model in models.items():
        results = state["models"][name]
        for corruption, severity in todo[name]:
            metrics = model.evaluate(name, corruption, severity)
            if severity:
                results["corrupted"].setdefault(corruption, {})[str(severity)] = metrics
            else:
                results["clean"] = metrics
            results["images"] = len(model.runner.test_loop.dataloader.dataset)
            done += 1
            if is_main_process():
                save(state, args.out)
                left = (time.time() - began) / done * (total - done)
                metric = find_metric([metrics], args.metric)
                what = f"{corruption}, severity {severity}" if severity else "clean"
                value = f"{metrics[metric]:.4g}" if metrics else "0, nothing was detected"
                line = f"[{done}/{total}] {name}, {what}: {metric} {value}"
                print(f"{line}   about {left / 60:.0f} min {left % 60:.0f} s left", flush=True)
                if args.summaries:
                    print(json.dumps(metrics), flush=True)
        model.runner = model.model = None  # memory for the next one


def figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def print_table(title: str, columns: list[str], rows: dict[str, list[float | None]]) -> None:
    width = max(len(name) for name in [*rows, title])
    print(f"\n{title:{width}}" + "".join(f"  {column:>9}" for column in columns))
    for name, values in rows.items():
        cells = (f"  {figure(value):>{max(len(column), 9)}}" for column, value in zip(columns, values))
        print(f"{name:{width}}" + "".join(cells))


def report(args: argparse.Namespace, state: dict[str, Any], names: list[str], corruptions: list[str]) -> None:
    """Prints the tables and writes the summary, the pickle in the layout of mmdet's tool and the heatmap."""
    models = {name: state["models"][name] for name in names}
    metric, found = summaries(models, args, corruptions)
    tables = {name: summary.pop("by_corruption") for name, summary in found.items()}
    state["summary"] = {"metric": metric, "corruptions": corruptions, "percent": found}
    save(state, args.out)
    layout = {}
    for name, results in models.items():
        clean = {0: results["clean"]} if "clean" in results else {}
        corrupted = {c: {int(s): m for s, m in by.items()} for c, by in results["corrupted"].items()}
        layout[name] = {corruption: {**clean, **by} for corruption, by in (corrupted or {"None": {}}).items()}
    with whole(results_file(args.out)) as part:
        part.write_bytes(pickle.dumps(layout if len(layout) > 1 else layout[names[0]]))

    columns = [*args.final_prints, *(["retention"] if args.teacher else [])]
    print_table(f"{metric}, %", columns, {name: [summary[c] for c in columns] for name, summary in found.items()})
    severities = sorted({severity for table in tables.values() for by in table.values() for severity in by})
    if not severities:
        return
    matrices = {}
    for name, table in tables.items():
        values = np.array([[table[corruption][severity] for severity in severities] for corruption in corruptions])
        values = np.concatenate([values, values.mean(axis=1, keepdims=True)], axis=1)
        scores = "  ".join(f"{column} {figure(found[name][column])}" for column in ("P", "mPC", "rPC"))
        matrices[f"{name}\n{scores}"] = Matrix(values)
    means = {c: [m.values[row, -1] for m in matrices.values()] for row, c in enumerate(corruptions)}
    print_table("mean over severities", names, means)
    labels = ("corruption", f"severity; {metric}, %")
    rows = [corruption.replace("_", " ") for corruption in corruptions]
    state_file, picture = args.out.with_suffix(".json"), args.out.with_suffix(".png")
    draw_matrices(matrices, rows, [*severities, "mean"], labels, picture)
    print(f"\nWrote {state_file}, {results_file(args.out)}, {picture}")


def main() -> None:
    args = parse_args()
    given = [(args.config, args.checkpoint, "student"), *((*pair, "student") for pair in args.also)]
    given += [(*args.teacher, "teacher")] if args.teacher else []
    names = args.names or [Path(checkpoint).stem for _, checkpoint, _ in given]
    if len(set(names)) != len(given) or len(names) != len(given):
        sys.exit(f"--names: got {' '.join(names)}, expected {len(given)} different names, one for each checkpoint.")
    if args.out and args.out.suffix not in (".pkl", ".pickle"):
        sys.exit(f"--out: got {args.out}, expected a name that ends in .pkl.")
    if args.load_dataset == "corrupted" and not (args.corrupted_dir and Path(args.corrupted_dir).is_dir()):
        sys.exit(f"--corrupted-dir: got {args.corrupted_dir}, expected a folder of corrupted images to load.")
    corruptions = select_corruptions(args.corruptions)
    severities = sorted(set(args.severities))
    pairs: list[tuple] = [(None, 0)] if 0 in severities or not corruptions else []
    pairs += [(corruption, severity) for corruption in corruptions for severity in severities if severity]
    with run_errors():
        args.out = args.out or Path(load_config(args).work_dir, "robustness.pkl")
        settings = {"seed": args.seed, "load_dataset": args.load_dataset}
        if args.load_dataset == "corrupted":
            settings["corrupted_dir"] = str(Path(args.corrupted_dir).resolve())
        state = read_state(args.out.with_suffix(".json"), settings)
        models = {}
        for name, (config, checkpoint, role) in zip(names, given):
            model = models[name] = Model(config, checkpoint, role, args)
            entry = {"config": config, "checkpoint": checkpoint, "teacher": role == "teacher", **model.fingerprint}
            known = state["models"].setdefault(name, {**entry, "corrupted": {}})
            if any(known[key] != value for key, value in model.fingerprint.items()):
                raise ValueError(
                    f"--out: {args.out.with_suffix('.json')} holds results of another checkpoint or configuration "
                    f"under the name {name}. Give another --out or other --names."
                )
            known.update(entry)
        if is_main_process():
            save(state, args.out)
        run(args, models, state, pairs)
        if is_main_process():
            report(args, state, names, corruptions)
    leave_process_group()


if __name__ == "__main__":
    main()
