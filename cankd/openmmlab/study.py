"""A study: methods compared on the same data from the same starts, over several seeds, with one record for each run."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import sys
import time
from dataclasses import dataclass, field, fields
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import torch
import yaml
from mmengine.config import Config
from mmengine.device import get_device

from cankd.openmmlab.analysis.benchmark import environment, peak_resident, spread
from cankd.openmmlab.analysis.curves import find_scalars, read_lines
from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.checkpoint_files import save_whole
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.engine.processes import end_with_parent
from cankd.openmmlab.models import stock_model
from cankd.utils.files import write_text

HELD_OUT = 5  # for the choice of weights, every fifth training image is kept for evaluation
KEPT = 300  # iterations between two checkpoints, from which a stopped run goes on
TIMED, WARM_UP = 25, 5  # steps of a measurement of costs, and those of them that do not count
MEASURED = 100  # iterations between two measurements of the gradients' shares
SEVERITIES = (1, 3, 5)  # of the corruptions, unless the matrix names others
_fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Run:
    """One training of a study.

    Args:
        data: name of its data set in the study.
        row: name of its row, for example ``cankd`` or ``cankd-mu2``.
        seed: seed of the initial weights and of the order of the data.
        method: method as ``make_config`` names it, ``teacher`` for the training of one, or None for the student alone.
        teacher: name of the teacher, which is also the row of its own training.
        options: keys of the configuration -> values.
        weight: factor on all distillation losses.
        hooks: hooks of its configuration.
        length: factor on the number of iterations, or the name of a row: as many iterations as take that row's time.
        held_out: whether it is trained on a part of the training data and evaluated on the rest.
    """

    data: str
    row: str
    seed: int
    method: str | None = None
    teacher: str = "teacher"
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    weight: float = 1.0
    hooks: Sequence[dict[str, Any]] = field(default=(), hash=False)
    length: float | str = 1.0
    held_out: bool = False

    @property
    def name(self) -> str:
        """Name of the run, also of its folder."""
        return f"{self.data}/{self.row}/seed{self.seed}"


@dataclass
class Study:
    """The matrix of a study, read from a YAML file, and the folders of its runs and records.

    Args:
        matrix: by data set its ``student``, ``teachers`` (by name a ``config`` and a ``checkpoint``, which is trained
            if the file is not there; rows without ``teacher`` have the one named ``teacher``), ``metric``, ``rows``,
            and perhaps ``source`` (the modules whose maps are compared), ``severities`` of corruptions and ``tuning``;
            configs/study/study.yml is the example.
        out: folder of the work dirs.
        records: folder of the records.
    """

    matrix: dict[str, dict[str, Any]]
    out: Path
    records: Path

    @classmethod
    def read(cls, file: Path, out: Path, records: Path) -> Study:
        """Reads the matrix.

        Raises:
            ValueError: if the file is no matrix.
        """
        matrix = yaml.safe_load(file.read_text(encoding="utf-8"))
        for data, entry in matrix.items() if isinstance(matrix, dict) else [("it", None)]:
            error = cls._error(data, entry if isinstance(entry, dict) else {})
            if error:
                raise ValueError(f"{file}: {error}")
        return cls(matrix, out, records)

    @staticmethod
    def _error(data: str, entry: dict[str, Any]) -> str:
        """Returns what is wrong with a data set's entry of the matrix, empty if nothing is."""
        missing = {"student", "teachers", "metric", "rows"} - set(entry)
        if missing:
            return f"{data} has no {', '.join(sorted(missing))}. Add what is missing."
        known = {"seeds", *(entry.name for entry in fields(Run))} - {"data", "row", "seed", "held_out"}
        for row, settings in entry["rows"].items():
            settings = settings or {}
            teacher = settings.get("teacher", "teacher")
            if set(settings) - known:
                return f"got {data}.{row} with {', '.join(settings)}, expected some of {', '.join(sorted(known))}."
            if "method" in settings and teacher not in entry["teachers"]:
                there = ", ".join(entry["teachers"])
                return f"got {data}.{row} with the teacher {teacher}, expected one of {there}."
        for name, settings in entry["teachers"].items():
            if set(settings) != {"config", "checkpoint"}:
                return f"got {data}.{name} with {', '.join(settings)}, expected config, checkpoint."
        return ""

    def runs(self) -> list[Run]:
        """Returns all runs whose settings are known so far: teachers first, then seed by seed.

        The rows with the best of several weights are known once the runs which choose it have ended.
        """
        runs = []
        for data, entry in self.matrix.items():
            teachers = [Run(data, name, 0, "teacher", name) for name in entry["teachers"]]
            runs += [run for run in teachers if self.record(run).exists() or not self.checkpoint(run).exists()]
            for row, settings in entry["rows"].items():
                values = {"seeds": 1, **(settings or {})}
                seeds = values.pop("seeds")
                runs += [Run(data, row, seed, **values) for seed in range(seeds)]
            runs += self._tuning(data, entry)
        return sorted(runs, key=lambda run: (run.method != "teacher", run.held_out, run.seed))

    def _tuning(self, data: str, entry: dict[str, Any]) -> Iterator[Run]:
        """Yields the runs that choose the weight of each method, and those with the weight that was chosen."""
        tuning = entry.get("tuning", {"rows": []})
        for row in tuning["rows"]:
            settings = {key: value for key, value in entry["rows"][row].items() if key != "seeds"}
            trials = {
                weight: Run(data, f"{row}-try{weight:g}", 0, **settings, weight=weight, held_out=True)
                for weight in tuning["weights"]
            }
            yield from trials.values()
            found = {weight: self.result(trial) for weight, trial in trials.items()}
            if None in found.values():
                continue
            best = max(found, key=lambda weight: found[weight] or 0.0)
            if best != 1:
                for seed in range(tuning["seeds"]):
                    yield Run(data, f"{row}-best{best:g}", seed, **settings, weight=best)

    def record(self, run: Run) -> Path:
        """Returns the file of a run's record."""
        return self.records / run.data / f"{run.row}_seed{run.seed}.json"

    def robustness(self, run: Run) -> Path:
        """Returns the file of a run's robustness."""
        return self.records / run.data / "robustness" / f"{run.row}_seed{run.seed}.json"

    def usage(self, run: Run) -> Path:
        """Returns the file with the time and memory of a training, which is there once it has ended."""
        return self.out / run.name / "usage.json"

    def log(self, run: Run) -> Path:
        """Returns the file that a run's output goes to."""
        return self.out / f"{run.name}.log"

    def result(self, run: Run) -> float | None:
        """Returns the accuracy of a run in percent, None if it has not ended."""
        file = self.record(run)
        return json.loads(file.read_text())["accuracy"] if file.exists() else None

    def checkpoint(self, run: Run) -> Path:
        """Returns the file of the weights of a run's teacher."""
        return Path(self.matrix[run.data]["teachers"][run.teacher]["checkpoint"])

    def missing_teacher(self, run: Run) -> Run | None:
        """Returns the training of a distillation's teacher if its weights are not there, else None."""
        if run.method in (None, "teacher") or self.checkpoint(run).exists():
            return None
        return Run(run.data, run.teacher, 0, "teacher", run.teacher)

    def left(self, wanted: Callable[[Run], bool]) -> list[Run]:
        """Returns the wanted runs that have no record, and first the teachers that they need and that are not there."""
        runs = [run for run in self.runs() if wanted(run) and not self.record(run).exists()]
        teachers = dict.fromkeys(self.missing_teacher(run) for run in runs)
        return [run for run in teachers if run and run not in runs] + runs

    def unexamined(self, wanted: Callable[[Run], bool]) -> list[Run]:
        """Returns the wanted runs that were trained here and whose robustness is not known."""
        runs = [run for run in self.runs() if wanted(run) and not run.held_out and not self.robustness(run).exists()]
        return [run for run in runs if self.usage(run).exists() and self.record(run).exists()]

    def costs(self, data: str) -> Path:
        """Returns the file of a data set's measured costs."""
        return self.records / data / "costs.json"

    def measured(self, data: str) -> dict[str, Any]:
        """Returns the measured costs of a data set's rows, row -> times and memory."""
        file = self.costs(data)
        return json.loads(file.read_text())["rows"] if file.exists() else {}

    def length(self, run: Run) -> float:
        """Returns the factor on the number of iterations of a run."""
        if not isinstance(run.length, str):
            return run.length
        rows = self.measured(run.data)
        return rows[run.length]["median"] / rows["plain"]["median"]

    def lacks(self, run: Run) -> str:
        """Returns what a run needs and is not there yet: its teacher, or the measured costs; empty if it can begin."""
        if self.missing_teacher(run):
            return "its teacher"
        is_known = not isinstance(run.length, str) or {run.length, "plain"} <= set(self.measured(run.data))
        return "" if is_known else f"the costs of plain and {run.length} (--costs)"

    def student(self, run: Run) -> str:
        """Returns the configuration that evaluates a run's student, or the teacher."""
        entry = self.matrix[run.data]
        return entry["teachers"][run.teacher]["config"] if run.method == "teacher" else entry["student"]


def last_checkpoint(work_dir: Path) -> Path:
    """Returns the newest checkpoint in a work dir.

    Raises:
        FileNotFoundError: if there is none.
    """
    file = work_dir / "last_checkpoint"
    if not file.exists():
        raise FileNotFoundError(f"{work_dir}: got a folder without last_checkpoint, expected a training's.")
    return work_dir / Path(file.read_text().strip()).name


def hold_out(cfg: Config, folder: Path) -> dict[str, Any]:
    """Splits the training data of a configuration for the choice of a weight, without touching the test data.

    Args:
        cfg: configuration with a CocoDataset, or a data set that finds its images in folders.
        folder: folder to write annotation files to.

    Returns:
        Dotted keys -> values: trained on the larger part, evaluated on the rest.
    """
    train = cfg.train_dataloader.dataset
    prefix = {"test_dataloader.dataset.data_prefix": dict(train.data_prefix)}
    if train.type != "CocoDataset":
        count = len(list(Path(train.data_root, train.data_prefix["img_path"]).iterdir()))
        parts = [[n for n in range(count) if (n % HELD_OUT == 0) == is_held] for is_held in (False, True)]
        keys = ("train_dataloader.dataset.indices", "test_dataloader.dataset.indices")
        return {**dict(zip(keys, parts)), **prefix}
    whole = json.loads(Path(train.data_root, train.ann_file).read_text())
    files = []
    for name, is_held in (("fit", False), ("held_out", True)):
        images = [image for n, image in enumerate(whole["images"]) if (n % HELD_OUT == 0) == is_held]
        kept = {image["id"] for image in images}
        boxes = [box for box in whole["annotations"] if box["image_id"] in kept]
        file = (folder / f"{name}.json").resolve()
        write_text(file, json.dumps({**whole, "images": images, "annotations": boxes}))
        files.append(str(file))
    return {
        "train_dataloader.dataset.ann_file": files[0],
        "test_dataloader.dataset.ann_file": files[1],
        "test_evaluator.ann_file": files[1],
        **prefix,
    }


def values_of(study: Study, run: Run) -> dict[str, Any]:
    """Returns what a run sets beyond its method's configuration: dotted keys -> values.

    All students of a seed start from the same file of weights; the order of the data and the augmentation follow from
    the seed. The distillations measure their losses' shares of the gradient on the way.
    """
    cfg = read_config(study.student(run))
    length = study.length(run)
    steps = round(cfg.train_cfg.max_iters * length)
    values: dict[str, Any] = {"randomness.seed": run.seed, **run.options}
    values["default_hooks.checkpoint.interval"] = min(steps, KEPT)
    if length != 1:
        values["train_cfg.max_iters"] = steps
        values["train_cfg.val_interval"] = round(cfg.train_cfg.val_interval * length)
        values["param_scheduler"] = [{**cfg.param_scheduler[0].to_dict(), "total_steps": steps}]
    if run.held_out:
        values.update(hold_out(cfg, study.out / run.data))
    if run.method == "teacher":
        return values
    initial = study.out / run.data / f"initial_seed{run.seed}.pth"
    if not initial.exists():
        torch.manual_seed(run.seed)
        student = stock_model(study.student(run))
        student.init_weights()  # type: ignore[operator]
        save_whole({"state_dict": student.state_dict(), "meta": {}}, initial)
    prefix = "model.architecture" if run.method else "model"
    values[f"{prefix}.init_cfg"] = {"type": "Pretrained", "checkpoint": str(initial.resolve())}
    if run.method:
        values["default_hooks.distill_monitor.interval"] = MEASURED
        values["val_cfg.type"] = "ValLoop"  # the teacher is not evaluated again
        hooks = [*run.hooks]
        if run.weight != 1:
            hooks.append(dict(type="DistillWeightHook", weight=run.weight))
        values["custom_hooks"] = hooks
    return values


def write_config(base: Path, values: dict[str, Any], file: Path) -> None:
    """Writes a configuration that inherits another one and sets some values of it."""
    cfg = Config({})
    cfg.merge_from_dict(values)
    lines = [f"{key} = {value!r}" for key, value in cfg.to_dict().items()]
    write_text(file, "\n".join([f"_base_ = [{os.path.relpath(base, file.parent)!r}]", *lines]) + "\n")


def _cankd(*arguments: object) -> None:
    """Runs a command of this package in this process, as ``python -m cankd`` does."""
    sys.argv = ["cankd", *map(str, arguments)]
    runpy.run_module("cankd", run_name="__main__", alter_sys=True)


def base_config(study: Study, run: Run) -> Path:
    """Returns the configuration that a run's own inherits, after ``make_config`` has written it for a distillation."""
    base = Path(study.student(run))
    if run.method not in (None, "teacher"):
        base = study.out / run.data / f"{run.method}_{run.teacher}.py"
        if not base.exists():
            entry = study.matrix[run.data]
            teacher = entry["teachers"][run.teacher]["config"]
            given = ["--teacher-ckpt", study.checkpoint(run), "--method", run.method, "--out", base]
            if "source" in entry and run.method != "crosskd":
                given += ["--source", *entry["source"]]
            _cankd("make-config", study.student(run), teacher, *given)
    return base


def conduct(study: Study, run: Run) -> None:
    """Carries out a run: writes its configuration, trains (or goes on with the training), evaluates, writes its record.

    A teacher's weights are kept in half precision, and evaluated as they are kept.

    Raises:
        SystemExit: if a command fails.
    """
    work_dir = study.out / run.name
    config = work_dir.parent / f"seed{run.seed}.py"
    write_config(base_config(study, run), values_of(study, run), config)
    usage = study.usage(run)
    if not usage.exists():
        command = ["train", config, "--work-dir", work_dir, *(["--resume"] if work_dir.exists() else [])]
        before = time.time(), time.process_time()
        _cankd(*command)
        used = {"seconds": time.time() - before[0], "cpu_seconds": time.process_time() - before[1]}
        write_text(usage, json.dumps({**used, "peak_bytes": peak_resident()}))
    checkpoint = last_checkpoint(work_dir)
    if run.method == "teacher":
        save_whole(Checkpoint.read(checkpoint).shrunk(), study.checkpoint(run))
        checkpoint = study.checkpoint(run)
    _cankd("test", config, checkpoint, "--work-dir", work_dir / "test")
    sys.argv = ["tools/study.py", "--only", run.name]
    write_text(study.record(run), json.dumps(record(study, run), indent=1) + "\n")


def scalars(work_dir: Path) -> list[dict[str, Any]]:
    """Returns the scalars that a training logged, also over several starts: the last ones of each step."""
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for file in find_scalars(work_dir):
        for values in read_lines(file):
            found[values["step"], "loss" in values] = values
    return [found[key] for key in sorted(found)]


def record(study: Study, run: Run) -> dict[str, Any]:
    """Returns the record of a run that has ended."""
    work_dir, metric = study.out / run.name, study.matrix[run.data]["metric"]
    results = json.loads(sorted((work_dir / "test").glob("*/*.json"))[-1].read_text())
    # A detector that finds nothing at all has no metrics.
    accuracy = results.get(metric, 0.0) * (100 if metric.startswith("coco/") else 1)
    config = read_config(str(work_dir.parent / f"seed{run.seed}.py"))
    return {
        **vars(run),
        "metric": metric,
        "accuracy": accuracy,
        "results": results,
        "iterations": config.train_cfg.max_iters,
        **json.loads(study.usage(run).read_text()),
        "environment": environment(get_device()),
        "scalars": scalars(work_dir),
        "config": config.pretty_text,
    }


def examine(study: Study, run: Run) -> None:
    """Measures the robustness of a trained run against corrupted test images, and writes its record.

    Raises:
        SystemExit: if a command fails.
    """
    work_dir = study.out / run.name
    out = work_dir / "robustness.pkl"
    config = work_dir.parent / f"seed{run.seed}.py"
    checkpoint = study.checkpoint(run) if run.method == "teacher" else last_checkpoint(work_dir)
    severities = ["--severities", 0, *study.matrix[run.data].get("severities", SEVERITIES)]
    _cankd("robustness", config, checkpoint, "--out", out, "--names", run.name, "--workers", 0, *severities)
    state = json.loads(out.with_suffix(".json").read_text())
    sys.argv = ["tools/study.py", "--robustness", "--only", run.name]
    known = {"data": run.data, "row": run.row, "seed": run.seed, "environment": environment(get_device())}
    write_text(study.robustness(run), json.dumps({**known, **state}, indent=1) + "\n")


def measure(study: Study, run: Run, rounds: int) -> None:
    """Trains a row for some steps alone, and adds their times to its folder: what :func:`measure_costs` reads."""
    folder = study.out / run.data / run.row / "cost"
    values = values_of(study, run)
    values["train_cfg"] = dict(type="IterBasedTrainLoop", max_iters=TIMED, val_interval=TIMED + 1)
    values["default_hooks.logger.interval"] = values["log_processor.window_size"] = 1
    values["custom_hooks"], values["param_scheduler"] = [], []
    write_config(base_config(study, run), values, folder / "config.py")
    _cankd("train", folder / "config.py", "--work-dir", folder / f"round{rounds}")
    write_text(folder / f"round{rounds}.json", json.dumps(peak_resident()))


def measure_costs(study: Study, wanted: Callable[[Run], bool], tell: Callable[[str], None], rounds: int = 3) -> None:
    """Measures seconds per step and memory of all rows, in turns, one training at a time.

    What was measured before is replaced, since times of two goes cannot be compared. Teachers, and rows whose teacher
    is not there, are left out.

    Args:
        study: the study.
        wanted: tells whether a row is measured, from its run with the first seed.
        tell: takes a line about each training.
        rounds: number of trainings of each row. Defaults to 3.

    Raises:
        OSError: if a training fails.
    """
    for data in study.matrix:
        runs = [run for run in study.runs() if run.data == data and wanted(run)]
        runs = [
            run for run in runs if run.seed == 0 and run.length == 1 and not run.held_out and run.method != "teacher"
        ]
        chosen = {run.row: run for run in runs if not study.missing_teacher(run)}
        for run in runs:
            if run.row not in chosen:
                tell(f"{data}/{run.row} is left out: its teacher is not there")
        for number in range(rounds):
            for run in chosen.values():
                process = in_background(measure, study, run, number)
                process.join()
                if process.exitcode:
                    raise OSError(f"{data}/{run.row} failed. {study.log(run)} says why.")
                tell(f"{data}/{run.row}: round {number + 1} of {rounds}")
        rows = {}
        for row in chosen:
            folder = study.out / data / row / "cost"
            lines = [scalars(folder / f"round{number}") for number in range(rounds)]
            steps = [[line["time"] for line in logged if "loss" in line][WARM_UP:] for logged in lines]
            seconds = [time for times in steps for time in times]
            peaks = [json.loads((folder / f"round{number}.json").read_text()) for number in range(rounds)]
            rows[row] = {**spread(seconds), "peak_bytes": max(peaks)}
        if rows:
            measured = {"environment": environment(get_device()), "rows": rows}
            write_text(study.costs(data), json.dumps(measured, indent=1) + "\n")


def _quietly(log: Path, function: Callable[..., None], *arguments: Any) -> None:
    """The forked process: calls a function with its output in a file."""
    end_with_parent()
    torch.set_num_threads(1)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    function(*arguments)


def in_background(function: Callable[..., None], study: Study, run: Run, *arguments: Any) -> BaseProcess:
    """Starts a function in a forked process with one thread; its output goes to ``<run>.log``."""
    process = _fork.Process(target=_quietly, args=(study.log(run), function, study, run, *arguments))
    process.start()
    return process


def carry_out(
    study: Study,
    wanted: Callable[[Run], bool],
    processes: int,
    tell: Callable[[str], None],
    robustness: bool = False,
) -> list[str]:
    """Carries out what is left of a study, several runs side by side.

    Args:
        study: the study.
        wanted: tells whether a run belongs to what is to be done.
        processes: number of runs at a time, each with one thread.
        tell: takes a line about each run that begins or ends.
        robustness: whether the robustness of trained runs is measured, and nothing trained. Defaults to False.

    Returns:
        Names of the runs that failed; the ``.log`` files beside their work dirs say why.
    """
    find, function = (study.unexamined, examine) if robustness else (study.left, conduct)
    active: dict[Run, BaseProcess] = {}
    failed: list[str] = []
    began = time.time()
    while True:
        left = [run for run in find(wanted) if run.name not in failed and run not in active]
        ready = [run for run in left if not study.lacks(run)]
        while ready and len(active) < processes:
            run = ready.pop(0)
            active[run] = in_background(function, study, run)
            tell(f"[{time.time() - began:5.0f}s] {run.name} begins; {len(left) - 1} after it")
        if not active:
            for run in left:
                tell(f"{run.name} waits for {study.lacks(run)}")
            for run in filter(wanted, study.runs() if robustness else []):
                if not (run.held_out or study.robustness(run).exists() or study.usage(run).exists()):
                    tell(f"{run.name} was not trained here: {study.out / run.name} has no checkpoint")
            return failed
        time.sleep(1)
        for run in [run for run, process in active.items() if not process.is_alive()]:
            process = active.pop(run)
            process.join()
            if process.exitcode == 0:
                tell(f"[{time.time() - began:5.0f}s] {run.name} ended: {study.result(run):.2f}")
            else:
                failed.append(run.name)
                tell(f"[{time.time() - began:5.0f}s] {run.name} failed: {study.log(run)} says why")
