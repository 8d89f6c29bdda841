"""Finds the trainings in work dirs, reads their logs and configurations, and groups them by data, method and seed."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Sequence

from mmengine.config import Config

from cankd.openmmlab.analysis.curves import Curve, find_scalars, join_curves, read_lines
from cankd.openmmlab.analysis.robustness import METRICS
from cankd.openmmlab.configs import in_scope, is_distillation_config
from cankd.openmmlab.models.stock import expand_stock_model, is_stock_model

PLAIN = "plain student"
METRIC_NAMES = {"coco/bbox_mAP": "AP", "pascal_voc/mAP": "mAP", "mIoU": "mIoU", "accuracy/top1": "top-1 accuracy"}
# Keys of a configuration that say where files are and how a run was started, not what is trained.
INCIDENTAL = ("work_dir", "randomness", "resume", "load_from", "launcher", "init_cfg", "pretrained")


@dataclass
class Run:
    """One training.

    Attributes:
        folder: work dir of the training, or the record that a study wrote of it.
        path: the folder's path below the work dir that was searched.
        cfg: resolved configuration.
        text: text of the resolved configuration.
        curves: name -> logged curve.
        environment: where the training ran: versions, device, commit, command, as far as they are recorded.
        seconds_per_step: median of the logged seconds of a training step, or None.
        memory: peak of the memory in MB (of the GPU if there was one), or None.
    """

    folder: Path
    path: Path
    cfg: Config
    text: str
    curves: dict[str, Curve]
    environment: dict[str, str]
    seconds_per_step: float | None
    memory: float | None

    @property
    def is_distillation(self) -> bool:
        """Returns whether the training is a distillation."""
        return is_distillation_config(self.cfg)

    @property
    def seed(self) -> int | None:
        """Returns the configured seed, else the one that mmengine drew and logged."""
        seed = (self.cfg.get("randomness") or {}).get("seed")
        logged = self.environment.get("seed", "")
        return int(logged) if seed is None and logged.isdigit() else seed

    @property
    def metric(self) -> str | None:
        """Returns the name of the accuracy that was logged, or None."""
        return next((name for name in METRICS if name in self.curves), None)

    @property
    def accuracy(self) -> float | None:
        """Returns the accuracy of the last validation in percent, or None."""
        return METRICS[self.metric] * self.curves[self.metric].values[-1] if self.metric else None

    @property
    def data(self) -> str:
        """Returns the folder of the validation data, as the configuration names it."""
        dataset = validation_data(self.cfg)
        return str(dataset.get("data_root") or Path(str(dataset.get("ann_file") or "data")).parent)

    def checkpoint(self) -> Path | None:
        """Returns the checkpoint that ``last_checkpoint`` names, else the newest in the folder, or None."""
        pointer = self.folder / "last_checkpoint"
        named = self.folder / Path(pointer.read_text().strip()).name if pointer.is_file() else None
        if named and named.is_file():
            return named
        return max(self.folder.glob("*.pth"), key=lambda file: file.stat().st_mtime_ns, default=None)


@dataclass
class Group:
    """The runs of one method on one data set, which differ in their seeds; ``name`` is the method's."""

    name: str
    runs: list[Run] = field(default_factory=list)

    @property
    def first(self) -> Run:
        """Returns the run with the lowest seed."""
        return self.runs[0]

    @property
    def accuracies(self) -> dict[Any, float]:
        """Returns seed -> accuracy in percent, of the runs that have one."""
        return {run.seed: run.accuracy for run in self.runs if run.accuracy is not None}

    @property
    def mean_accuracy(self) -> float:
        """Returns the mean of the accuracies, 0 if there are none."""
        return statistics.fmean(self.accuracies.values()) if self.accuracies else 0.0


@dataclass
class Study:
    """The groups that were trained on one data set; ``name`` is the data set's. The plain student comes first."""

    name: str
    groups: list[Group] = field(default_factory=list)

    @property
    def plain(self) -> Group | None:
        """Returns the student that was trained alone, or None."""
        return next((group for group in self.groups if group.name == PLAIN), None)

    @property
    def distillations(self) -> list[Group]:
        """Returns the groups that are distillations."""
        return [group for group in self.groups if group.first.is_distillation]

    @property
    def metric(self) -> str:
        """Returns the name of the accuracy as papers write it."""
        return next((METRIC_NAMES[run.metric] for group in self.groups for run in group.runs if run.metric), "accuracy")


def validation_data(cfg: Config) -> dict[str, Any]:
    """Returns the configuration of the validation data set, without wrappers, or an empty dict."""
    dataset = (cfg.get("val_dataloader") or cfg.get("test_dataloader") or {}).get("dataset", {})
    while "pipeline" not in dataset and "dataset" in dataset:
        dataset = dataset["dataset"]
    return dataset


def find_runs(work_dirs: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Finds and reads all trainings in folders.

    Args:
        work_dirs: work dirs of mmengine's trainings, or folders that contain such folders, or records of a study, at
            any depth.

    Returns:
        The runs, and one line for each folder whose log or configuration cannot be read.

    Raises:
        FileNotFoundError: if a folder does not exist, or contains no run.
    """
    folders: dict[Path, Path] = {}
    for root in work_dirs:
        if not root.is_dir():
            raise FileNotFoundError(f"work_dir: got {root}, expected an existing folder. Check the path.")
        found = sorted({file.parents[2] for file in root.resolve().rglob("*/vis_data/scalars.json")})
        found += sorted(file for file in root.resolve().rglob("*.json") if is_record(file))
        folders.update({folder: folder.relative_to(root.resolve().parent).with_suffix("") for folder in found})
    runs, unreadable = [], []
    for folder, path in folders.items():
        try:
            runs.append(read_record(folder, path) if folder.is_file() else read_run(folder, path))
        except (OSError, ValueError, SyntaxError) as error:
            unreadable.append(f"{folder}: {error}")
    if not runs:
        raise FileNotFoundError(
            f"work_dir: got {', '.join(map(str, work_dirs))}, expected a folder that `cankd train` wrote, or one that "
            f"contains such folders (with <time>/vis_data/scalars.json). {' '.join(unreadable) or 'Check the path.'}"
        )
    return runs, unreadable


def read_run(folder: Path, path: Path) -> Run:
    """Reads one training.

    Args:
        folder: work dir of the training.
        path: path that the report gives the run.

    Raises:
        FileNotFoundError: if there is no log or no resolved configuration.
        ValueError: if the log is not mmengine's, or empty.
    """
    files = find_scalars(folder)
    config, usage = files[-1].with_name("config.py"), folder / "usage.json"
    if not config.is_file():
        raise FileNotFoundError(f"expected the resolved configuration {config}, which mmengine writes beside its log.")
    logs = [read_lines(file) for file in files]
    used = json.loads(usage.read_text()) if usage.is_file() else {}
    return _run(folder, path, config.read_text(encoding="utf-8"), logs, _environment(files[-1].parents[1]), used)


def is_record(file: Path) -> bool:
    """Returns whether a file is a record that a study wrote of a training on all of the training data."""
    if file.parent.name == "vis_data":
        return False
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    keys = {"scalars", "config", "environment"}
    return isinstance(content, dict) and keys <= set(content) and not content.get("held_out")


def read_record(file: Path, path: Path) -> Run:
    """Reads the record that a study wrote of one training.

    Args:
        file: the record.
        path: path that the report gives the run.

    Raises:
        ValueError: if nothing is logged there.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    environment = {key: str(value) for key, value in content["environment"].items() if value is not None}
    return _run(file, path, content["config"], [content["scalars"]], environment, content)


def _run(
    folder: Path, path: Path, text: str, logs: Sequence[Sequence[dict]], environment: dict[str, str], used: dict
) -> Run:
    """Puts a run together; ``used`` may have its ``peak_bytes``."""
    curves = join_curves(logs)
    if not curves:
        raise ValueError("nothing is logged there yet.")
    steps = [line for lines in logs for line in lines if "loss" in line]
    seconds = sorted(line["time"] for line in steps if "time" in line)
    memory = max((line["memory"] for line in steps if "memory" in line), default=None)
    return Run(
        folder=folder,
        path=path,
        cfg=Config.fromstring(text, ".py"),
        text=text,
        curves=curves,
        environment=environment,
        seconds_per_step=seconds[len(seconds) // 2] if seconds else None,
        memory=used["peak_bytes"] / 1e6 if memory is None and "peak_bytes" in used else memory,
    )


def _environment(folder: Path) -> dict[str, str]:
    """Returns what mmengine's log, and above it ``environment.json``, say about where a training ran."""
    log = next(folder.glob("*.log"), None)
    head = log.read_text(encoding="utf-8", errors="replace")[:20000].split(" Config:")[0] if log else ""
    found = dict(re.findall(r"^    ([^:\n]+): (.+)$", head, re.MULTILINE))
    written = folder / "environment.json"
    if written.is_file():
        found.update({key: str(value) for key, value in json.loads(written.read_text()).items() if value is not None})
    return found


def group_runs(runs: Sequence[Run]) -> list[Study]:
    """Groups runs by data set and method.

    A method's name is that of its losses; where two configurations of the same losses differ, it is the name of their
    folder. The training of a model alone is ``plain student`` if a distillation has this student and schedule.

    Args:
        runs: runs in any order.

    Returns:
        One study for each data set, the groups in the order of their names, the runs in that of their seeds.
    """
    by_data: dict[str, list[Run]] = {}
    for run in runs:
        by_data.setdefault(run.data.rstrip("/"), []).append(run)
    names = [Path(data).name for data in by_data]
    studies = []
    for data, found in by_data.items():
        name = Path(data).name if names.count(Path(data).name) == 1 else data
        groups: dict[str, Group] = {}
        for run, method in zip(found, _method_names(found)):
            groups.setdefault(method, Group(method)).runs.append(run)
        for group in groups.values():
            group.runs.sort(key=lambda run: (run.seed is None, run.seed))
        ordered = sorted(groups.values(), key=lambda group: (group.first.is_distillation, group.name))
        ordered.sort(key=lambda group: group.name != PLAIN)
        studies.append(Study(name or data, ordered))
    return sorted(studies, key=lambda study: study.name)


def _method_names(runs: Sequence[Run]) -> list[str]:
    """Returns the name of each run's method: the shortest that no run of another configuration has."""
    students = {_student(run.cfg) for run in runs if run.is_distillation}
    recipes = [_recipe(run.cfg.to_dict()) for run in runs]
    candidates = [_names(run, students) for run in runs]
    chosen = [0] * len(runs)
    while True:
        names = [options[min(number, len(options) - 1)] for options, number in zip(candidates, chosen)]
        shared = {
            name
            for name in names
            if len({recipe for recipe, other in zip(recipes, names) if other == name}) > 1
            or _repeats([run.seed for run, other in zip(runs, names) if other == name])
        }
        # A run may repeat another one's seed in the same folder's name; then the whole path is as far as names go.
        growing = [
            index for index, name in enumerate(names) if name in shared and chosen[index] < len(candidates[index]) - 1
        ]
        if not growing:
            return names
        for index in growing:
            chosen[index] += 1


def _repeats(seeds: Sequence[Any]) -> bool:
    return len(set(seeds)) < len(seeds)


def _names(run: Run, students: set[str]) -> list[str]:
    """Returns the names that a run's method can have, the shortest first."""
    parts = [re.sub(r"[_-]?seed[_-]?\d+$|^\d+$", "", part) for part in run.path.parts]
    parts = [part for part in parts if part] or [run.path.name]
    names = [parts[-1], "/".join(parts), str(run.path)]
    if run.is_distillation:
        kinds = dict.fromkeys(str(loss["type"]).split(".")[-1] for loss in distillation_losses(run.cfg).values())
        return [" + ".join(kinds) or str(run.cfg.model.type).split(".")[-1], *names]
    return [PLAIN, *names] if not students or _student(run.cfg) in students else names


def distillation_losses(cfg: Config) -> dict[str, Any]:
    """Returns name -> configuration of a distillation's losses; CrossKD has none of its own."""
    return (cfg.model.get("distiller") or {}).get("distill_losses") or {}


def has_student_of(run: Run, other: Run) -> bool:
    """Returns whether two runs train the same model."""
    return _recipe(student_model(run.cfg)) == _recipe(student_model(other.cfg))


def _student(cfg: Config) -> str:
    """Returns a text that is equal for trainings of the same student for the same time."""
    return _recipe([student_model(cfg), cfg.get("train_cfg")])


def student_model(cfg: Config, role: str = "architecture") -> dict[str, Any]:
    """Returns the configuration of a student or teacher, written out where the stock one is at hand.

    Args:
        cfg: configuration of a training.
        role: ``architecture`` (default) or ``teacher``, of a distillation.
    """
    model = (cfg.model[role] if is_distillation_config(cfg) else cfg.model).to_dict()
    # The checkout that a stock model's configuration names may be gone.
    with contextlib.suppress(OSError, ImportError, KeyError, ValueError), in_scope(cfg):
        model = expand_stock_model(model) if is_stock_model(model) else model
    return {key: value for key, value in model.items() if key not in ("_scope_", "data_preprocessor")}


def _recipe(value: Any) -> str:
    """Returns a text that is equal for configurations that train the same thing."""
    return json.dumps(_without_incidental(value), sort_keys=True, default=str)


def _without_incidental(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_incidental(part) for key, part in value.items() if key not in INCIDENTAL}
    if isinstance(value, (list, tuple)):
        return [_without_incidental(part) for part in value]
    return value


def described_model(model: dict[str, Any]) -> str:
    """Returns the kinds of a model's parts in a few words, such as ``RetinaNet, ResNet-18, FPN``."""
    parts = [model.get("type"), *_part_names(model)]
    return ", ".join(str(part).split(".")[-1] for part in parts if part)


def _part_names(model: dict[str, Any]) -> Iterator[str]:
    for key in ("backbone", "neck", "decode_head", "bbox_head", "head"):
        part = model.get(key)
        if isinstance(part, dict) and "type" in part:
            depth = f"-{part['depth']}" if "depth" in part else ""
            yield f"{str(part['type']).split('.')[-1]}{depth}"
