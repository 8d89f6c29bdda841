"""Draws what the models of some runs compute for validation images, from their checkpoints."""

from __future__ import annotations

import base64
import copy
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import DATASETS

from cankd.openmmlab.analysis.confusion import BACKGROUND, confusion_matrix, row_percentages
from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.compat import quiet_imports
from cankd.openmmlab.configs import apply_options, in_scope, test_dataset
from cankd.openmmlab.loading import load_model
from cankd.openmmlab.report.runs import Group, Run, Study, distillation_losses
from cankd.openmmlab.visualization.features import ENERGY_LABEL, FeatureRecorder, panel_row
from cankd.openmmlab.visualization.ground_truth import ground_truth
from cankd.openmmlab.visualization.matrices import Matrix, draw_matrices
from cankd.openmmlab.visualization.panels import draw_heatmap_panel
from cankd.openmmlab.visualization.predictions import draw_predictions, drawn_prediction

TEACHER = "teacher"
SHOWN_DISTILLATIONS = 3
SHOWN_IMAGES = 4
SHOWN_MAPS = 6
SCORE = 0.3


class NoCheckpoint(FileNotFoundError):
    """No run left a checkpoint."""


class Picture(NamedTuple):
    """A picture as a data URI, with a caption and a text for readers who do not see it."""

    caption: str
    uri: str
    alt: str


class ShownModel(NamedTuple):
    """A loaded model and its configuration, whose test data are the validation data."""

    model: BaseModel
    cfg: Config


class Pictures:
    """Loads the models of a study's runs and draws what they compute.

    Shown are the teacher, the plain student and the most accurate distillations, each by the run with its lowest seed
    that left a checkpoint.

    Args:
        study: runs on one data set.
        images: number of validation images that are predicted.
        device: device of the models.
        cfg_options: overrides of the runs' configurations.

    Raises:
        NoCheckpoint: if no run left a checkpoint.
        ValueError: if a checkpoint cannot be loaded.
    """

    def __init__(self, study: Study, images: int, device: str, cfg_options: Mapping[str, Any]) -> None:
        self.images, self.device, self.cfg_options = images, device, dict(cfg_options)
        found = {group.name: _with_checkpoint(group) for group in shown_groups(study)}
        self.runs = {name: run for name, run in found.items() if run}
        if not self.runs:
            raise NoCheckpoint("the work dirs contain no checkpoint of these runs, which `cankd train` writes.")
        self.models: dict[str, ShownModel] = {}
        distilled = next((run for run in self.runs.values() if run.is_distillation), None)
        if distilled:
            self.models[TEACHER] = self._load(distilled, "teacher")
        self.models.update({name: self._load(run, "student") for name, run in self.runs.items()})

    def _load(self, run: Run, role: str) -> ShownModel:
        cfg = copy.deepcopy(run.cfg)
        apply_options(cfg, self.cfg_options)
        if cfg.get("val_dataloader"):
            cfg.test_dataloader = cfg.val_dataloader
        checkpoint = Checkpoint.read(str(run.checkpoint()))
        return ShownModel(*load_model(cfg, checkpoint, self.device, role))

    def features(self) -> list[Picture]:
        """Draws the maps that the first distillation compares, of one image.

        Raises:
            ValueError: if there is no distillation, or its records are no maps.
        """
        comparing = [name for name, run in self.runs.items() if run.is_distillation and distillation_losses(run.cfg)]
        if not comparing:
            raise ValueError("no distillation that compares maps left a checkpoint.")
        image = self._files(next(iter(self.models.values())))[0]
        rows, views, levels = {}, {}, []
        for name, (model, cfg) in self.models.items():
            recorders, mappings = _compared(self.runs[comparing[0]].cfg, from_student=name != TEACHER)
            recorded = FeatureRecorder(model, cfg, recorders, mappings)(image)
            rows[name] = panel_row(recorded.maps, None, True, None)
            views[name] = recorded.view
            levels = list(recorded.maps)
        caption = f"Maps that {comparing[0]} compares, of {image.name}"
        alt = f"Heatmaps of {', '.join(rows)} at {', '.join(levels)}."
        label = f"{ENERGY_LABEL}, standardised"
        seen = next(iter(views.values())).image
        return [_drawn(caption, alt, lambda path: draw_heatmap_panel(seen, rows, levels, path, views, label=label))]

    def predictions(self) -> tuple[list[Picture], list[Picture]]:
        """Predicts the first validation images with each model.

        Returns:
            One picture of some predictions (none of a classifier), and a confusion matrix of each model.

        Raises:
            ValueError: if predictions cannot be compared with the data.
        """
        drawn: dict[str, list[Any]] = {}
        matrices = []
        for name, shown in self.models.items():
            dataset = self._dataset(shown.cfg)
            found = list(_samples(shown.model, dataset))
            classes = list(dataset.metainfo["classes"])
            if "pred_label" not in found[0]:
                drawn[name] = [drawn_prediction(sample, classes, SCORE) for sample in found[:SHOWN_IMAGES]]
            matrices.append(_matrix(name, confusion_matrix([s.to_dict() for s in found], dataset, SCORE), classes))
        if not drawn:
            return [], matrices
        first = self.models[next(iter(drawn))]
        files = self._files(first)[:SHOWN_IMAGES]
        truths = ground_truth(first.cfg, files)
        alt = f"Ground truth and predictions of {', '.join(drawn)} on {len(files)} images."
        caption = f"Predictions for {len(files)} validation images; boxes from a score of {SCORE} on"
        meta = first.model.dataset_meta
        return [_drawn(caption, alt, lambda path: draw_predictions(files, truths, drawn, meta, path))], matrices

    def _dataset(self, cfg: Config) -> Any:
        settings = dict(test_dataset(cfg), indices=self.images)
        with in_scope(cfg), quiet_imports():
            return DATASETS.build(settings)

    def _files(self, shown: ShownModel) -> list[Path]:
        dataset = self._dataset(shown.cfg)
        return [Path(dataset.get_data_info(index)["img_path"]) for index in range(len(dataset))]


def shown_groups(study: Study) -> list[Group]:
    """Returns the plain student and the most accurate distillations, which pictures show."""
    best = sorted(study.distillations, key=lambda group: group.mean_accuracy, reverse=True)[:SHOWN_DISTILLATIONS]
    return [*([study.plain] if study.plain else []), *best]


def _with_checkpoint(group: Group) -> Run | None:
    return next((run for run in group.runs if run.checkpoint()), None)


def _compared(cfg: Config, from_student: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns recorders and mappings of the maps that a distillation's losses read from one of its models."""
    distiller = cfg.model.distiller
    recorders = distiller.student_recorders if from_student else distiller.teacher_recorders
    mappings = {}
    for loss, inputs in distiller.loss_forward_mappings.items():
        records = [record for record in inputs.values() if bool(record.from_student) == from_student]
        if records:
            chosen = {key: records[0][key] for key in ("recorder", "record_idx", "data_idx") if key in records[0]}
            mappings[loss.replace("loss_", "", 1)] = chosen
    return recorders.to_dict(), dict(list(mappings.items())[:SHOWN_MAPS])


@torch.no_grad()
def _samples(model: BaseModel, dataset: Any) -> Iterator[Any]:
    """Yields the prediction for each image of a data set."""
    for index in range(len(dataset)):
        sample = model.test_step(pseudo_collate([dataset[index]]))[0].cpu()
        sample.pop("seg_logits", None)  # floats for each class and pixel
        yield sample


def _matrix(name: str, matrix: Any, classes: Sequence[str]) -> Picture:
    names = [*classes, BACKGROUND] if len(matrix) > len(classes) else list(classes)
    right = 100 * matrix.trace() / max(matrix.sum(), 1)
    caption = f"{name}: {matrix.sum():,} counted, {right:.1f} % on the diagonal"
    labels = ("truth", "prediction, % of the row")
    return _drawn(
        caption,
        f"Confusion matrix. {caption}.",
        lambda path: draw_matrices({name: Matrix(row_percentages(matrix))}, names, names, labels, path, "plasma", 0),
    )


def _drawn(caption: str, alt: str, draw: Callable[[Path], None]) -> Picture:
    """Draws a picture and returns it as a data URI."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.webp"
        draw(path)
        return Picture(caption, f"data:image/webp;base64,{base64.b64encode(path.read_bytes()).decode()}", alt)
