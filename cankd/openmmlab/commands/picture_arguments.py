"""Arguments of the commands that draw pictures, and the models and paths that they stand for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Sequence

from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn

from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.commands.arguments import add_cfg_options, add_trust_argument
from cankd.openmmlab.compat import module_of
from cankd.openmmlab.configs import read_config, repo_of
from cankd.openmmlab.loading import load_distiller, load_model
from cankd.openmmlab.visualization.features import CHANNEL_REDUCTIONS, FeatureRecorder
from cankd.utils.command_line import at_least, command_parser

DEFAULT_OUT = "work_dirs/visualizations"


class LoadedModel(NamedTuple):
    """A model with its configuration, its checkpoint and the title that pictures give it."""

    title: str
    model: BaseModel
    cfg: Config
    checkpoint: Checkpoint


def image_parser(text: str | None) -> argparse.ArgumentParser:
    """Returns a parser whose help is a command's whole docstring, and which takes images first."""
    parser = command_parser(text)
    parser.add_argument("img", nargs="+", help="image files, or folders of them")
    return parser


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the output path, the device and overrides of the configurations."""
    parser.add_argument(
        "--out-file",
        type=Path,
        default=Path(DEFAULT_OUT),
        help=f"picture to write, or folder for several; default {DEFAULT_OUT}",
    )
    parser.add_argument("--device", default="cpu", help="device of the models; default cpu")
    parser.add_argument("--repo", help="library of the models, mmdet, mmseg or mmpretrain; found from the config")
    add_cfg_options(parser)
    add_trust_argument(parser)
    # Of the published command lines; nothing here runs in several processes.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def add_map_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options for drawing feature maps."""
    parser.add_argument("--use-norm", action="store_true", help="standardise each channel over the positions first")
    parser.add_argument("--overlaid", action="store_true", help="draw the maps over the image")
    parser.add_argument("--channel-reduction", choices=CHANNEL_REDUCTIONS, help="show one map of all channels")
    parser.add_argument("--topk", type=at_least(0), default=20, help="channels without a reduction; default 20")
    parser.add_argument(
        "--arrangement",
        nargs=2,
        type=at_least(1),
        default=(4, 5),
        metavar=("ROWS", "COLUMNS"),
        help="grid; 4 5",
    )
    parser.add_argument(
        "--resize-shape", nargs=2, type=at_least(1), metavar=("H", "W"), help="resize the maps to this many positions"
    )
    parser.add_argument("--alpha", type=float, default=0.5, help="opacity of maps over the image; default 0.5")


class _AppendModel(argparse.Action):
    """Appends (title, config, checkpoint, role) to ``models``, in the order of the command line."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        role = (option_string or "").lstrip("-").replace("model", "student")
        namespace.models = [*namespace.models, (*values, role)]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--model`` and ``--teacher``, each of which may be given several times."""
    parser.set_defaults(models=[])
    for option, what in (
        ("--model", "a model: its title, configuration and checkpoint; of a distillation the student"),
        ("--teacher", "the same, but of a distillation the teacher"),
    ):
        metavar = ("TITLE", "CONFIG", "CKPT")
        parser.add_argument(option, action=_AppendModel, dest="models", nargs=3, metavar=metavar, help=what)


def check_repo(repo: str | None, cfg: Config) -> None:
    """Checks that a configuration belongs to the library that ``--repo`` names, if any.

    Raises:
        ValueError: if it belongs to another.
    """
    if repo and module_of(repo) != repo_of(cfg):
        raise ValueError(f"--repo: got {repo}, but {cfg.filename} is of {repo_of(cfg)}. Leave --repo out.")


def load_models(
    models: Sequence[tuple[str, str, str, str]],
    device: str,
    repo: str | None = None,
    cfg_options: dict[str, Any] | None = None,
) -> list[LoadedModel]:
    """Loads the models of a command line.

    Args:
        models: title, configuration, checkpoint and role of each model.
        device: device of the models.
        repo: library that all models are expected to belong to. Defaults to any.
        cfg_options: overrides of each configuration.

    Returns:
        The loaded models.

    Raises:
        ValueError: if there is none, two have one title, or one belongs to another library.
    """
    if not models:
        raise ValueError("got no model, expected at least one --model TITLE CONFIG CKPT.")
    titles = [title for title, *_ in models]
    if len(set(titles)) < len(titles):
        raise ValueError(f"titles: got {', '.join(titles)}, expected different ones.")
    loaded = []
    for title, config, checkpoint, role in models:
        cfg = read_config(config, cfg_options)
        check_repo(repo, cfg)
        content = Checkpoint.read(checkpoint)
        loaded.append(LoadedModel(title, *load_model(cfg, content, device, role), content))
    return loaded


def feature_recorder(model: LoadedModel, recorders: Mapping[str, Any], mappings: Mapping[str, Any]) -> FeatureRecorder:
    """Makes the recorder of a model's maps, with the connectors of its distillation if a mapping names one.

    Args:
        model: model to record; if a mapping names a connector, its configuration and checkpoint are a distillation's.
        recorders: see :class:`~cankd.openmmlab.visualization.features.FeatureRecorder`.
        mappings: mappings from the maps' names to records; see there.

    Returns:
        The recorder.

    Raises:
        ValueError: for a connector of a model that is not a distillation's.
    """
    connectors: Mapping[str, nn.Module] = {}
    if any(mapping.get("connector") for mapping in mappings.values()):
        device = next(model.model.parameters()).device
        connectors = dict(load_distiller(model.cfg, model.checkpoint).connectors.to(device).items())
    return FeatureRecorder(model.model, model.cfg, recorders, mappings, connectors)


def picture_path(out: Path, pictures: int, *names: str) -> Path:
    """Returns the path to write a picture to.

    Args:
        out: argument ``--out-file``: a file if it has a suffix, else a folder.
        pictures: number of pictures that are written in all.
        *names: parts of the name of this picture.

    Returns:
        ``out`` itself for the only picture, ``<stem>_<names>.<suffix>`` for one of several,
        ``<folder>/<names>.png`` in a folder.
    """
    name = "_".join(names).replace("/", "-")
    if not out.suffix:
        return out / f"{name}.png"
    return out if pictures == 1 else out.with_name(f"{out.stem}_{name}{out.suffix}")
