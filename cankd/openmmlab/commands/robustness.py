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
import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from mmengine.dist import is_main_process

from cankd.openmmlab.analysis.robustness import GROUPS, find_metric, select_corruptions
from cankd.openmmlab.analysis.robustness_study import StudiedModel, missing_pairs, read_state, summaries
from cankd.openmmlab.commands.running import add_run_arguments, leave_process_group, load_config, run_errors
from cankd.openmmlab.visualization.matrices import Matrix, draw_matrices
from cankd.utils.command_line import at_least, command_parser, figure
from cankd.utils.files import whole, write_text


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
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
    parser.add_argument("--names", nargs="+", help="names of the models in their order, the teacher last")
    names = [*GROUPS, *GROUPS["all"]]
    parser.add_argument("--corruptions", nargs="+", default=["benchmark"], choices=names, help="corruptions or groups")
    severities = range(6)
    parser.add_argument("--severities", type=int, nargs="+", default=severities, choices=severities, help="0 is clean")
    parser.add_argument("--seed", type=at_least(0), default=0, help="seed of the corruptions' noise")
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
    return parser.parse_args(argv)


def results_file(out: Path) -> Path:
    return out.with_name(f"{out.stem}_results{out.suffix}")


def save(state: dict[str, Any], out: Path) -> None:
    write_text(out.with_suffix(".json"), json.dumps(state, indent=1) + "\n")


def run(args: argparse.Namespace, models: dict[str, StudiedModel], state: dict[str, Any], pairs: list[tuple]) -> None:
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
            results["images"] = model.images
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


def print_table(title: str, columns: list[str], rows: dict[str, list[float | None]]) -> None:
    width = max(len(name) for name in [*rows, title])
    print(f"\n{title:{width}}" + "".join(f"  {column:>9}" for column in columns))
    for name, values in rows.items():
        cells = (f"  {figure(value):>{max(len(column), 9)}}" for column, value in zip(columns, values))
        print(f"{name:{width}}" + "".join(cells))


def report(args: argparse.Namespace, state: dict[str, Any], names: list[str], corruptions: list[str]) -> None:
    """Prints the tables and writes the summary, the pickle in the layout of mmdet's tool and the heatmap."""
    models = {name: state["models"][name] for name in names}
    metric, found = summaries(models, corruptions, args.severities, args.metric, args.final_prints_aggregate)
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


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
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
    with run_errors(args.debug):
        args.out = args.out or Path(load_config(args, derive=False).work_dir, "robustness.pkl")
        settings = {"seed": args.seed, "load_dataset": args.load_dataset}
        if args.load_dataset == "corrupted":
            settings["corrupted_dir"] = str(Path(args.corrupted_dir).resolve())
        state = read_state(args.out.with_suffix(".json"), settings)
        models = {}
        for name, (config, checkpoint, role) in zip(names, given):
            cfg = load_config(argparse.Namespace(**{**vars(args), "config": config}), derive=False)
            model = models[name] = StudiedModel(
                cfg,
                checkpoint,
                role,
                seed=args.seed,
                workers=args.workers,
                corrupted_dir=args.corrupted_dir,
                load_corrupted=args.load_dataset == "corrupted",
                show=args.show,
                show_dir=args.show_dir,
                wait_time=args.wait_time,
            )
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
