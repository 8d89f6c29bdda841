"""Reading distillation checkpoints safely and writing files whole."""

from __future__ import annotations

import argparse
import difflib
import io
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import get_file_backend
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    _get_mmengine_home,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
    load_state_dict,
)
from torch import nn

from cankd.openmmlab.compat.safe_pickle import UnsafePickle, load_safely
from cankd.utils.files import whole

STUDENT_PREFIX = "architecture."
TEACHER_PREFIX = "teacher."


class UnsafeCheckpoint(ValueError):
    """A checkpoint carries code, or objects whose making could run some."""


_trusted = False


def trust_checkpoints() -> None:
    """Lets checkpoints that carry code run it while they are read, from now on in this process."""
    global _trusted
    _trusted = True


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--trust-checkpoints``, without which no checkpoint can run code."""

    class Trust(argparse.Action):
        def __call__(self, *_: Any) -> None:
            trust_checkpoints()

    parser.add_argument(
        "--trust-checkpoints",
        nargs=0,
        action=Trust,
        help="also read checkpoints that carry code, which then runs; only for files whose origin you know",
    )


def read_checkpoint(file: str | Path | BinaryIO, name: str | Path | None = None) -> dict[str, Any]:
    """Reads a checkpoint without running code from it, unless :func:`trust_checkpoints` was called.

    Args:
        file: a path, or an open file.
        name: what errors call it. Defaults to ``file``.

    Returns:
        What it holds, tensors on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        UnsafeCheckpoint: if it holds more than tensors, plain values and what mmengine writes.
        ValueError: if it is no whole checkpoint.
    """
    name = str(file) if name is None else name
    if isinstance(file, (str, Path)) and not Path(file).is_file():
        raise FileNotFoundError(f"checkpoint: got {name}, expected an existing .pth file. Check the path.")
    try:
        try:
            checkpoint = load_safely(str(file) if isinstance(file, Path) else file)
        except UnsafePickle as error:
            if not _trusted:
                raise UnsafeCheckpoint(
                    f"{name}: carries more than tensors and plain values, and reading it could run code ({error}). "
                    "Give another file, or --trust-checkpoints if you know where it is from."
                ) from error
            if not isinstance(file, (str, Path)):
                file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=not _trusted)
    except (UnsafeCheckpoint, OSError):
        raise
    except Exception as error:
        raise ValueError(
            f"{name}: cannot be read as a checkpoint of tensors and plain values ({type(error).__name__}). Give a "
            "whole .pth file that tools/train.py wrote."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{name}: got a {type(checkpoint).__name__}, expected a checkpoint (a dict).")
    return checkpoint


def load_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint by any name that mmengine knows, with its weights in one place.

    Args:
        path: a ``.pth`` file, a URL, or a name such as ``torchvision://resnet50``.

    Returns:
        What it holds, tensors on the CPU; a bare state dict is put under ``state_dict``.

    Raises:
        FileNotFoundError: if there is no such file.
        ConnectionError: if it cannot be fetched.
        UnsafeCheckpoint: if reading it could run code.
        ValueError: if it is no whole checkpoint, or its ``state_dict`` is no dict.
    """
    checkpoint = CheckpointLoader.load_checkpoint(str(path), map_location="cpu", logger="silent")
    checkpoint = checkpoint if "state_dict" in checkpoint else {"state_dict": checkpoint}
    if not isinstance(checkpoint["state_dict"], dict):
        raise ValueError(
            f"{path}: got a {type(checkpoint['state_dict']).__name__} as state_dict, expected a dict, name -> tensor."
        )
    return checkpoint


def local_file(name: str | Path) -> Path:
    """Where a checkpoint lies: its path, or for a URL the file in which torch keeps what it fetched."""
    if "://" not in str(name):
        return Path(name).expanduser()
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(str(name)).path).name)


def _fetched(url: str) -> Path:
    """The file of a URL; fetched by the first process, if it is not there yet."""
    file = local_file(url)
    if get_rank() == 0:
        _fetch(url, file)
    barrier()
    _fetch(url, file)  # on a machine of its own, which does not share the first one's files
    return file


def _fetch(url: str, file: Path) -> None:
    if file.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(file))
    except Exception as error:
        raise ConnectionError(
            f"{url} could not be fetched ({error}). Fetch it elsewhere and put it at {file}. A teacher's may "
            "also be given with --cfg-options teacher_ckpt=FILE."
        ) from error


# All of mmengine's schemes, whose own loaders run whatever code a checkpoint carries. What a name means is still
# mmengine's to say. A loader's name shows in mmengine's log.


@CheckpointLoader.register_scheme("", force=True)
def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Reads a checkpoint from a path, in which ``~`` is the home."""
    return read_checkpoint(local_file(filename), filename)


@CheckpointLoader.register_scheme(("http://", "https://"), force=True)
def load_from_http(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Reads a checkpoint from a URL, through the folder in which torch keeps what it fetched."""
    return read_checkpoint(_fetched(filename), filename)


@CheckpointLoader.register_scheme(("modelzoo://", "torchvision://"), force=True)
def load_from_torchvision(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Reads torchvision's weights."""
    return load_from_http(_known(filename, get_torchvision_models()))


@CheckpointLoader.register_scheme(("open-mmlab://", "openmmlab://"), force=True)
def load_from_openmmlab(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Reads a checkpoint that mmengine knows by name, from its URL or from mmengine's own folder."""
    models = get_external_models()
    models.update({old: models[new] for old, new in get_deprecated_model_names().items() if new in models})
    place = _known(filename, models)
    return load_from_http(place) if "://" in place else load_from_local(str(Path(_get_mmengine_home(), place)))


@CheckpointLoader.register_scheme("mmcls://", force=True)
def load_from_mmcls(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Reads the backbone of a classifier."""
    checkpoint = load_from_http(_known(filename, get_mmcls_models()))
    weights, prefix = checkpoint.get("state_dict", checkpoint), "backbone."
    return {"state_dict": {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}}


@CheckpointLoader.register_scheme((r"(\S+\:)?s3://", r"(\S+\:)?petrel://"), force=True)
def load_from_ceph(filename: str, map_location: Any = None, backend: str = "petrel") -> dict[str, Any]:
    """Reads a checkpoint from an object store, through mmengine's backend for it."""
    store = get_file_backend(filename, backend_args={"backend": backend})
    return read_checkpoint(io.BytesIO(store.get(filename)), filename)


@CheckpointLoader.register_scheme("pavi://", force=True)
def load_from_pavi(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Refuses a scheme whose package nobody can install.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"checkpoint: got {filename}, expected a file or a URL. Fetch it by pavi's own tools first.")


def _known(filename: str, places: dict[str, str]) -> str:
    """Where a named checkpoint is."""
    scheme, name = filename.split("://", 1)
    if name not in places:
        near = difflib.get_close_matches(name, places, n=3) or sorted(places)[:3]
        raise ValueError(f"checkpoint: got {filename}, expected a name of {scheme}:// like {', '.join(near)}.")
    return places[name]


def load_teacher(teacher: BaseModule, name: str) -> None:
    """Loads a frozen teacher's weights; what does not fit is logged.

    Args:
        teacher: the model.
        name: of its checkpoint, a path or URL.

    Raises:
        ValueError: if nothing fits, in which case the teacher would be noise.
    """
    weights = load_checkpoint_file(name)["state_dict"]
    given = {key[7:] if key.startswith("module.") else key: value for key, value in weights.items()}
    if is_distillation_state_dict(given):
        raise ValueError(
            f"teacher_ckpt: {name} is a distillation's checkpoint, expected a model's own. Convert it with "
            "tools/model_converters/convert_kd_ckpt_to_student.py first."
        )
    own = teacher.state_dict()
    if not any(key in own and own[key].shape == getattr(value, "shape", None) for key, value in given.items()):
        raise ValueError(
            f"teacher_ckpt: no tensor of {name} fits the teacher, whose first is {next(iter(own), None)}; the file's "
            f"is {next(iter(given), None)}. Give the checkpoint of the model that the configuration calls teacher."
        )
    load_state_dict(teacher, given, strict=False, logger="current")
    teacher._is_init = True  # or its own initialisation would come after


def keep_teacher(state_dict: dict[str, Any], teacher: nn.Module, prefix: str = "") -> None:
    """Puts a teacher's own tensors in place of those that a state dict has for it, if any.

    Args:
        state_dict: of a distillation algorithm, about to be loaded; changed in place.
        teacher: the algorithm's teacher, whose weights stay as they are.
        prefix: of the algorithm's keys.
    """
    prefix += TEACHER_PREFIX
    for key in [key for key in state_dict if key.startswith(prefix)]:
        del state_dict[key]
    state_dict.update({prefix + key: value for key, value in teacher.state_dict().items()})


def is_distillation_state_dict(state_dict: dict[str, Any]) -> bool:
    """Whether a state dict is a distillation algorithm's: a student under its prefix, beside the algorithm's parts.

    Its teacher may be left out, and a distiller need not have weights.
    """
    parts = (TEACHER_PREFIX, "distiller.")
    return any(key.startswith(STUDENT_PREFIX) for key in state_dict) and (
        any(key.startswith(parts) for key in state_dict)
        or all(key.startswith((STUDENT_PREFIX, "data_preprocessor.")) for key in state_dict)
    )


def student_state_dict(state_dict: dict[str, Any]) -> dict[str, Any]:
    """The student's tensors of a distillation state dict, under the names of the student alone.

    Args:
        state_dict: of a distillation algorithm, key -> tensor.

    Returns:
        Key -> tensor, the student's prefix removed where it is the prefix.

    Raises:
        ValueError: if it is not a distillation algorithm's.
    """
    if not is_distillation_state_dict(state_dict):
        some = ", ".join(list(state_dict)[:3]) or "none"
        raise ValueError(
            f"not a distillation checkpoint: expected keys that start with '{STUDENT_PREFIX}', and beside them "
            f"at most a teacher's, a distiller's and a preprocessor's, got {some}. A student's own checkpoint needs no "
            "conversion."
        )
    return {key[len(STUDENT_PREFIX) :]: value for key, value in state_dict.items() if key.startswith(STUDENT_PREFIX)}


def save_whole(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        checkpoint: what to save.
        path: the file; its folder is made if needed.
    """
    with whole(path) as part:
        torch.save(checkpoint, part)
