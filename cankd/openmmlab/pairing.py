"""Pairs the feature maps of any student and teacher, and writes the configuration of their distillation."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from mmrazor.registry import MODELS
from torch import nn

from cankd.openmmlab.algorithms.crosskd import check_heads
from cankd.openmmlab.analysis.complexity import MultiplyAdds
from cankd.openmmlab.compat import configs_folder, module_of, own_config
from cankd.openmmlab.configs import dataset_meta, is_distillation_config, read_config, test_dataset
from cankd.openmmlab.connectors import set_image_sizes
from cankd.openmmlab.derivation import (
    CHANNELS_IN,
    CHANNELS_OUT,
    CONVOLUTION,
    as_list,
    complete_by_maps,
    complete_parts,
)
from cankd.openmmlab.inference import noise_batch
from cankd.openmmlab.loading import build_model
from cankd.openmmlab.maps import (
    Map,
    ModelMaps,
    Pair,
    features,
    nearest,
    same_strides,
    sizes_differ,
    weightless,
)
from cankd.openmmlab.own_data import GivenData
from cankd.openmmlab.preprocessing import normalise_differently
from cankd.openmmlab.recording import module_shapes, nearest_names
from cankd.openmmlab.zoo import ZooModel, zoo_model

LOGITS = "decode_head.conv_seg"
# Method -> files in configs/_base_ with its published settings, for necks and for backbones.
METHODS = {
    "cankd": ("fpn.py", "segmenter_backbone.py"),
    **{name: (f"methods/{name}_fpn.py", f"methods/{name}_backbone.py") for name in ("l2", "pkd", "mgd", "fbkd")},
    "cwd": ("methods/cwd_fpn.py", "methods/cwd_fpn.py"),
    "fgd": ("methods/fgd_fpn.py", "methods/fgd_fpn.py"),
    "acamkd": ("methods/acamkd_fpn.py", "methods/acamkd_backbone.py"),
    "crosskd": ("methods/crosskd.py", "methods/crosskd.py"),
}
WIDTH = 120  # of a line of a written configuration
RESIZING = ("cankd", "pkd")  # methods that compare maps of different height and width


@dataclass
class Side:
    """A student or teacher that was built and has seen one image.

    Args:
        config: path or ``package::path`` of its configuration.
        cfg: its configuration.
        model: the model, not initialised.
        found: the maps that its modules returned for an image.
        entry: what its package tells of it, or None for a file of one's own.
    """

    config: str
    cfg: Config
    model: BaseModel
    found: ModelMaps
    entry: ZooModel | None

    @property
    def name(self) -> str:
        """Name of the configuration."""
        return Path(self.config).stem

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of the image that it saw."""
        return self.found.image

    @property
    def parameters(self) -> int:
        """Number of the model's parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @functools.cached_property
    def multiply_adds(self) -> int | None:
        """Multiply-adds of a forward pass for the image, up to the raw predictions; None if the model has no such pass.

        Those of custom operators (deformable convolutions) cannot be counted.
        """
        data = _image(self.cfg, self.model, self.image)
        try:
            with torch.no_grad(), MultiplyAdds() as counter:
                self.model(**data, mode="tensor")
        except Exception:  # of any kind: few models of the packages are tried in this mode
            return None
        return counter.total

    @property
    def classes(self) -> int | None:
        """Number of classes that a segmenter's head tells apart."""
        head: Any = getattr(self.model, "decode_head", None)
        return getattr(head[-1] if isinstance(head, nn.ModuleList) else head, "num_classes", None)


def load_side(
    config: str, own_data: dict[str, Any] | None = None, *, cfg: Config | None = None, outline: bool = False
) -> Side:
    """Builds the model of a configuration and has it extract the features of one image.

    Args:
        config: path or ``package::path`` of a configuration of a single model.
        own_data: data that are laid over the configuration; see :class:`~cankd.openmmlab.own_data.OwnData`. Defaults
            to none.
        cfg: what that file says, where it has been read. Defaults to None: it is read.
        outline: whether the model is only asked for shapes and numbers. It is built without memory for its weights
            then, in a fraction of the time, if its code allows that. Defaults to False.

    Returns:
        The model and the shapes of its maps.

    Raises:
        ValueError: if the configuration is a distillation's, a tracker's or that of a model that reads text, or if the
            model cannot be built or run here.
    """
    if cfg is None:
        cfg = read_config(config, {"own_data": own_data} if own_data else None)
    if "::" in config and not own_config(config):  # models without a head have no default scope
        cfg.setdefault("default_scope", module_of(config.split("::")[0]))
    if is_distillation_config(cfg) or any(key.startswith("teacher_") for key in cfg.model):  # mmdet's LD and LAD
        raise ValueError(f"{config}: got a distillation, expected the configuration of a single model.")
    if "language_model" in cfg.model or "text_encoder" in cfg.model:
        raise ValueError(f"{config}: got a model that reads text, expected one that takes images alone.")
    if "detector" in cfg.model or "tracker" in cfg.model:
        raise ValueError(f"{config}: got a tracker or a detector inside another model, expected a plain model.")
    if str((cfg.model.get("data_preprocessor") or {}).get("type")).endswith("TrackDataPreprocessor"):
        raise ValueError(f"{config}: got a model of videos, expected one that takes single images.")
    if outline:
        with contextlib.suppress(Exception), weightless():  # some operators cannot run without values
            model = build_model(cfg)
            return Side(config, cfg, model, features(model, lambda size: torch.empty(1, 3, *size)), zoo_model(config))
    try:
        model = build_model(cfg)
    except Exception as error:
        raise ValueError(f"{config}: the model cannot be built here. {_short(error)}") from error
    try:
        found = features(model, lambda size: _image(cfg, model, size)["inputs"])
    except Exception as error:
        raise ValueError(
            f"{config}: the model cannot extract the features of an image here. {_short(error)}"
        ) from error
    return Side(config, cfg, model, found, zoo_model(config))


def _image(cfg: Config, model: BaseModel, size: Sequence[int]) -> dict[str, Any]:
    """Returns a batch of one image of noise; without data samples where a headless model has no test pipeline."""
    if not (test_dataset(cfg).get("pipeline") or cfg.get("test_pipeline")):
        return {"inputs": torch.rand(1, 3, *size)}
    return model.data_preprocessor(noise_batch(cfg, size), False)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) < 200 else text[:200] + ' ...'}"


class Pairing(NamedTuple):
    """Which maps of which modules are compared."""

    student_source: str
    teacher_source: str
    pairs: list[Pair]
    resizes: bool  # whether the heights and widths of a pair differ


def pair_maps(
    student: Side,
    teacher: Side,
    method: str = "cankd",
    source: Sequence[str] | None = None,
    levels: Sequence[int] | None = None,
) -> Pairing:
    """Pairs the maps of two models by their strides.

    Without ``source`` the outputs of both necks are compared, or those of both backbones if one of the models has no
    neck; of a backbone that returns no maps, as a classifier's vision transformer, those of its last part that does.
    Without ``levels`` it is as many of a neck's maps as the method's published settings have, the finest first,
    and the map of a backbone that a segmenter's head reads, else its last one that has a partner. Where no stride
    agrees, the maps of the nearest strides are compared.

    Args:
        student: student that was built.
        teacher: teacher that was built.
        method: one of :data:`METHODS`. Defaults to ``cankd``.
        source: module whose maps are compared, or the student's and the teacher's. Defaults to the neck or backbone.
        levels: indices of the student's maps. Defaults to those with a partner, as told above.

    Returns:
        The modules and their pairs of maps.

    Raises:
        ValueError: if a module does not exist or returns no maps, or the method cannot compare them.
    """
    sources = _sources(student, teacher, method, source)
    maps = [_maps_of(side, name) for side, name in zip((student, teacher), sources)]
    if levels is not None:
        if len(set(levels)) < len(levels):
            raise ValueError(f"--levels: got {' '.join(map(str, levels))}, expected each index once.")
        there = {found.index: found for found in maps[0]}
        missing = [level for level in levels if level not in there]
        if missing:
            raise ValueError(
                f"--levels: got {missing[0]}, expected indices of the maps of the student's {sources[0]}: "
                f"{', '.join(str(index) for index in there if index is not None) or 'it returns one map'}."
            )
        pairs = [Pair(there[level], nearest(there[level], maps[1])) for level in levels]
    else:
        is_neck = sources[0].split(".")[0] == "neck"
        pairs = same_strides(maps[0], maps[1], _template(method, sources[0])["levels"] if is_neck else None)
    resizes = any(sizes_differ(pair, student.found, teacher.found) for pair in pairs)
    if resizes and method not in RESIZING:
        raise ValueError(
            f"--method: got {method}, which compares maps of equal height and width; {student.name} has strides "
            f"{_strides(maps[0])} in {sources[0]}, {teacher.name} {_strides(maps[1])} in {sources[1]}. Choose another "
            f"--source, or one of {', '.join(RESIZING)}."
        )
    return Pairing(*sources, pairs, resizes)


def _sources(student: Side, teacher: Side, method: str, source: Sequence[str] | None) -> tuple[str, str]:
    """Returns the module of each side whose maps are compared."""
    if source:
        return source[0], source[-1]
    have_logits = LOGITS in student.found.shapes and LOGITS in teacher.found.shapes
    if method == "cwd" and have_logits and student.classes and student.classes == teacher.classes:
        return LOGITS, LOGITS
    if student.found.of("neck") and teacher.found.of("neck"):
        return "neck", "neck"
    return _backbone(student.found), _backbone(teacher.found)


def _backbone(found: ModelMaps) -> str:
    """Returns the backbone, or the last of its parts that returns one map where it returns something else itself."""
    if found.of("backbone"):
        return "backbone"
    parts = [name for name in found.shapes if name.startswith("backbone.") and name.count(".") <= 2]  # blocks at most
    return next((name for name in reversed(parts) if (0,) in found.shapes[name] and found.of(name)), "backbone")


def _maps_of(side: Side, source: str) -> list[Map]:
    """Returns the maps of one module; a module behind the neck is found by a prediction."""
    if source in side.found.shapes and not side.found.shapes[source]:
        data = _image(side.cfg, side.model, side.image)
        side.found.shapes.update(module_shapes(side.model, data))
    if source not in side.found.shapes:
        raise ValueError(
            f"--source: got {source}, which {side.name} does not have; the nearest are "
            f"{nearest_names(source, list(side.found.shapes))}. tools/list_modules.py {side.config} lists all."
        )
    maps = side.found.of(source)
    if not maps:
        shapes = ", ".join(map(str, side.found.shapes[source].values())) or "nothing"
        raise ValueError(
            f"--source: got {source}, which returns {shapes} in {side.name}, expected maps (B, C, H, W). "
            f"tools/list_modules.py {side.config} lists all modules."
        )
    return maps


def _strides(maps: Sequence[Map]) -> str:
    return ", ".join(str(found.stride) for found in maps)


def _template(method: str, source: str) -> dict[str, Any]:
    """Returns the distiller with a method's published settings."""
    if method == "cwd" and source == LOGITS:
        file = "methods/cwd_logits.py"
    else:
        file = METHODS[method][source.split(".")[0] != "neck"]
    return _base(file).model.distiller.to_dict()


def _base(file: str) -> Config:
    return Config.fromfile(configs_folder() / "_base_" / file)


def crosskd_config(student: Side, teacher: Side) -> dict[str, Any]:
    """Makes the configuration of CrossKD's distiller, which is empty: CrossKD compares predictions.

    Args:
        student: student that was built.
        teacher: teacher that was built.

    Returns:
        The configuration of the distiller.

    Raises:
        ValueError: if the teacher's head cannot continue from the student's.
    """
    try:
        check_heads(student.model, teacher.model)
    except TypeError as error:
        raise ValueError(f"--method: {error}") from error
    return _base(METHODS["crosskd"][0]).model.distiller.to_dict()


def distiller_config(method: str, pairing: Pairing, classes: int | None = None) -> dict[str, Any]:
    """Makes the configuration of the distiller that compares the paired maps.

    Args:
        method: one of :data:`METHODS`.
        pairing: the maps.
        classes: number of classes that a segmenter's head tells apart; None for other models.

    Returns:
        The configuration of a ``LevelDistiller`` with the method's published settings; the student's maps go through a
        1x1 convolution if their channels differ from the teacher's. Channels that differ from level to level are left
        out, see :func:`~cankd.openmmlab.derivation.complete_distiller`.

    Raises:
        ValueError: if the method needs boxes and the model is a segmenter.
    """
    template = _template(method, pairing.student_source)
    if method == "fgd" and classes:
        raise ValueError("--method: got fgd, which needs boxes; a segmenter has none. Choose another method.")
    if method == "acamkd" and classes:
        template["loss"]["num_masks"] = classes
    distiller: dict[str, Any] = dict(type="LevelDistiller", source=pairing.student_source)
    if pairing.teacher_source != pairing.student_source:
        distiller["teacher_source"] = pairing.teacher_source
    levels = [pair.student.index for pair in pairing.pairs]
    teacher_levels = [pair.teacher.index for pair in pairing.pairs]
    if levels != [None]:
        distiller["levels"] = levels
    if teacher_levels != levels:
        distiller["teacher_levels"] = teacher_levels
    needs_convolution = any(pair.student.channels != pair.teacher.channels for pair in pairing.pairs)
    if "teacher_connector" in template:  # FBKD
        distiller.update({key: template[key] for key in ("loss", "student_connector", "teacher_connector")})
        distiller["connectors"] = {
            f"{side}{'' if level is None else level}": pooling
            for side in ("Student", "Teacher")
            for level, pair in zip(levels, pairing.pairs)
            for pooling in [_pooling(template, pair.student.stride)]
            if pooling
        }
    else:
        parts = [_level_parts(template, pair, needs_convolution, pairing.resizes) for pair in pairing.pairs]
        # What levels differ in is derived when the configuration is read.
        distiller.update(parts[0] if all(part == parts[0] for part in parts) else _without_channels(parts[0]))
    distiller.update({key: template[key] for key in ("parts", "student_recorders", "extra_inputs") if key in template})
    return {key: value for key, value in distiller.items() if value != {}}


def _level_parts(template: dict[str, Any], pair: Pair, needs_convolution: bool, resizes: bool) -> dict[str, Any]:
    """Returns loss and connectors of one level."""
    loss = dict(template["loss"])
    if resizes and loss["type"] == "NLKDINLoss":
        loss["align"] = True
    connectors = as_list(template.get("connector")) or [CONVOLUTION] * needs_convolution
    loss, student, teacher = complete_parts(loss, connectors, [], pair)
    chains = {"connector": student, "teacher_connector": teacher}
    return dict(loss=loss, **{key: chain[0] if len(chain) == 1 else chain for key, chain in chains.items() if chain})


def _without_channels(part: Any) -> Any:
    """Returns a loss or connectors without the arguments about channels."""
    if isinstance(part, dict):
        return {
            key: _without_channels(value) for key, value in part.items() if key not in (*CHANNELS_IN, *CHANNELS_OUT)
        }
    return [_without_channels(value) for value in part] if isinstance(part, list) else part


def _pooling(template: dict[str, Any], stride: int) -> dict[str, Any]:
    """Returns how FBKD's attention is reduced on maps of a stride; its levels 0 and 1 were published for 4 and 8."""
    return template.get("connectors", {}).get({4: "Student0", 8: "Student1"}.get(stride, ""), {})


def loss_costs(distiller: dict[str, Any], student: Side, teacher: Side, pairing: Pairing) -> list[int | None]:
    """Counts what comparing each pair of maps costs, for one image.

    Args:
        distiller: configuration of a distiller, from :func:`distiller_config`.
        student: student that was built.
        teacher: teacher that was built.
        pairing: the maps that it compares.

    Returns:
        For each pair the multiply-adds of a forward pass of its loss and connectors; None if they take no map as small.
    """
    sides = {"student": student, "teacher": teacher}
    built = MODELS.build(complete_by_maps(distiller, lambda side: sides[side].found)).eval()
    costs: list[int | None] = []
    for pair, (name, inputs) in zip(pairing.pairs, built.loss_forward_mappings.items()):
        size = pair.student.size
        sample = DetDataSample(metainfo=dict(img_shape=size))
        sample.gt_instances = InstanceData(bboxes=torch.tensor([[0.0, 0.0, size[1], size[0]]]))
        arguments: dict[str, Any] = {"data_samples": [sample]} if "data_samples" in inputs else {}
        with torch.no_grad(), MultiplyAdds() as counter:
            try:
                for (argument, record), found in zip(inputs.items(), pair):
                    feature = torch.rand(1, found.channels, *found.size)
                    connector = record.get("connector")
                    if found.tokens:
                        feature = torch.rand(1, found.height * found.width + found.tokens[1], found.channels)
                        image = (found.height * found.stride, found.width * found.stride)
                        set_image_sizes(built.connectors[connector], image, image)
                    arguments[argument] = built.connectors[connector](feature) if connector else feature
                built.distill_losses[name](**arguments)
                costs.append(counter.total)
            except RuntimeError:  # FBKD pools the map
                costs.append(None)
    return costs


def config_text(
    student: Side,
    teacher: Side,
    teacher_ckpt: str | None,
    method: str,
    distiller: dict[str, Any],
    out: Path,
    data: GivenData | None = None,
    teacher_classes: int | None = None,
) -> str:
    """Writes the configuration of a distillation, which inherits the student's own recipe.

    Args:
        student: student that was built.
        teacher: teacher that was built.
        teacher_ckpt: path or URL of the teacher's weights.
        method: name of the method, for the comment.
        distiller: configuration of the distiller.
        out: file that the text is meant for; a base that is a file of one's own is named relative to it.
        data: data that are laid over the student's recipe. Defaults to none.
        teacher_classes: number of classes of the teacher's heads. Defaults to its configuration's.

    Returns:
        The text.
    """
    cfg = student.cfg
    architecture: dict[str, Any] = dict(type="StockModel", cfg=student.config)
    changes: dict[str, Any] = {}
    if cfg.get("load_from"):  # weights of a single model, which the distillation would look for in vain
        architecture["init_cfg"] = dict(type="Pretrained", checkpoint=cfg.load_from)
        changes["load_from"] = None
    if cfg.get("data_preprocessor"):  # mmengine would give it to the distillation; the student has its own
        changes["data_preprocessor"] = None
    modules = [name for side in (student, teacher) for name in _imports(side.cfg)]
    base_file = _base(METHODS[method][0])
    model: dict[str, Any] = dict(
        _delete_=True,
        _scope_="mmrazor",
        type=base_file.model.type,
        architecture=architecture,
        teacher=dict(type="StockModel", cfg=teacher.config),
        teacher_ckpt=teacher_ckpt,
        distiller=distiller,
    )
    if teacher_classes:
        model["teacher"]["num_classes"] = teacher_classes
    if normalise_differently(student.model.data_preprocessor, teacher.model.data_preprocessor):
        model["teacher_preprocess"] = True
    values = dict(
        **_recipe(student.config, data, out),
        custom_imports=dict(imports=list(dict.fromkeys([*modules, "cankd.openmmlab"]))),
        model=model,
        default_hooks=dict(checkpoint=dict(type="DistillCheckpointHook")),
        **changes,
    )
    if base_file.get("find_unused_parameters") and not _recomputes(student.model):
        values["find_unused_parameters"] = True
    if measured_alike(student.cfg, teacher.cfg):
        values["val_cfg"] = dict(type="DistillValLoop")
    lines = [f"# {method}: {student.name} ({accuracy_text(student.entry)})"]
    lines += [f"# learns from {teacher.name} ({accuracy_text(teacher.entry)})."]
    lines += [f"{key} = {python_code(value, taken=len(key) + 3)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _imports(cfg: Config) -> list[str]:
    """Returns the modules that a configuration imports; some name a single one without a list."""
    imports = (cfg.get("custom_imports") or {}).get("imports", [])
    return [imports] if isinstance(imports, str) else list(imports)


def training_text(student: Side, data: GivenData, out: Path) -> str:
    """Writes the configuration that trains a model alone on other data.

    Args:
        student: model that was built.
        data: the data.
        out: file that the text is meant for.

    Returns:
        The text.
    """
    lines = [f"# {student.name} ({accuracy_text(student.entry)}) on other data."]
    lines += [f"{key} = {python_code(value)}" for key, value in _recipe(student.config, data, out).items()]
    return "\n".join(lines) + "\n"


def _recipe(config: str, data: GivenData | None, out: Path) -> dict[str, Any]:
    """Returns the bases of a written configuration, and its data where they are not in a file."""
    files = [config, str(data.file)] if data and data.file else [config]
    bases = [file if "::" in file else os.path.relpath(file, out.parent) for file in files]
    values: dict[str, Any] = dict(_base_=bases if len(bases) > 1 else bases[0])
    if data and not data.file:
        values["own_data"] = data.values
    return values


def _recomputes(model: nn.Module) -> bool:
    """Returns whether a model computes activations anew in its backward pass.

    With ``find_unused_parameters``, which a distillation that is stopped needs, several processes fail then: torch
    finds the same parameter ready twice.
    """
    options = ("with_cp", "use_checkpoint", "num_cp")
    return any(getattr(module, option, False) for module in model.modules() for option in options)


def measured_alike(student: Config, teacher: Config) -> bool:
    """Returns whether the student's validation can evaluate the teacher, too: same classes, all metrics."""
    loop = student.get("val_cfg")
    if loop is None or loop.get("type", "ValLoop") != "ValLoop":
        return False
    student_classes, teacher_classes = (dataset_meta(cfg).get("classes") for cfg in (student, teacher))
    return student_classes == teacher_classes and _metrics(student) <= _metrics(teacher)


def _metrics(cfg: Config) -> set[tuple[str, Any]]:
    """Returns the metrics that a configuration's validation computes, by the type of their evaluator."""
    evaluators = cfg.get("val_evaluator") or []
    found: set[tuple[str, Any]] = set()
    for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        names = evaluator.get("metric") or evaluator.get("iou_metrics") or evaluator.get("topk")
        names = names if isinstance(names, (list, tuple)) else [names]
        found.update((str(evaluator.type), name) for name in names)
    return found


def python_code(value: Any, indent: int = 0, taken: int = 0) -> str:
    """Writes a value as Python code: short ones on one line, of others each long dict and list on lines of its own.

    Args:
        value: value to write.
        indent: blanks at the beginning of its lines. Defaults to 0.
        taken: characters before it on its first line. Defaults to 0.
    """
    line = _line(value)
    if not isinstance(value, (dict, list)) or indent + taken + len(line) < WIDTH:
        return line
    opening, closing = ("dict(", ")") if isinstance(value, dict) else ("[", "]")
    lines = [""]
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        name = f"{key}=" if isinstance(value, dict) else ""
        item = f"{name}{python_code(part, indent + 4, len(name))},"
        is_short = not isinstance(part, (dict, list)) or len(item) <= WIDTH // 2
        fits = "\n" not in lines[-1] + item and indent + len(lines[-1] + item) < WIDTH - 5
        if lines[-1] and is_short and fits:
            lines[-1] += f" {item}"
        else:
            lines.append(item)
    pad = " " * (indent + 4)
    return "\n".join([opening, *(pad + item for item in lines[1:]), " " * indent + closing])


def _line(value: Any) -> str:
    """Writes a value as Python code on one line."""
    if isinstance(value, dict):
        return f"dict({', '.join(f'{key}={_line(part)}' for key, part in value.items())})"
    if isinstance(value, list):
        return f"[{', '.join(map(_line, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_line, value))}{',' * (len(value) == 1)})"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def accuracy_text(entry: ZooModel | None) -> str:
    """Returns the published accuracies of a model in words."""
    if not entry or not entry.accuracies:
        return "accuracy unknown"
    return ", ".join(f"{metric} {value:g} on {data}" for (data, metric), value in entry.accuracies.items())
