"""Reads checkpoint files safely, by any name that mmengine knows, and writes them whole."""

from __future__ import annotations

import copy
import difflib
import io
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import get_file_backend
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    _get_mmengine_home,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from cankd.openmmlab.compat.safe_pickle import UnsafePickle, load_safely
from cankd.utils.files import whole


class UnsafeCheckpoint(ValueError):
    """A checkpoint carries code, or objects that could run code while they are made."""


_trusted = False


def trust_checkpoints() -> None:
    """Lets checkpoints that carry code run it while they are read, from now on in this process."""
    global _trusted
    _trusted = True


# What was read of each version of a file, (path, time of change, size); None while nothing is kept.
_kept: dict[tuple[str, int, int], dict[str, Any]] | None = None


def keep_what_is_read() -> None:
    """Keeps the content of every file that is read from now on, so that none is read twice."""
    global _kept
    _kept = {}


def release_what_was_read() -> None:
    """Releases the content that :func:`keep_what_is_read` has kept, and stops keeping it."""
    global _kept
    _kept = None


def read_checkpoint(file: str | Path | BinaryIO, name: str | Path | None = None) -> dict[str, Any]:
    """Reads a checkpoint without running code from it, unless :func:`trust_checkpoints` was called.

    Args:
        file: path of the file, or the open file.
        name: name of the file in errors. Defaults to ``file``.

    Returns:
        Content of the file, tensors on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        UnsafeCheckpoint: if it holds more than tensors, plain values and what mmengine writes.
        ValueError: if it is no whole checkpoint.
    """
    name = str(file) if name is None else name
    if isinstance(file, (str, Path)) and not Path(file).is_file():
        raise FileNotFoundError(f"checkpoint: got {name}, expected an existing .pth file. Check the path.")
    if _kept is None or not isinstance(file, (str, Path)):
        return _read(file, name)
    status = Path(file).stat()
    version = (str(Path(file).resolve()), status.st_mtime_ns, status.st_size)
    if version not in _kept:
        _kept[version] = _read(file, name)
    checkpoint = copy.copy(_kept[version])  # not dict(), which would lose a state dict's versions of its modules
    if "state_dict" in checkpoint:
        checkpoint["state_dict"] = copy.copy(checkpoint["state_dict"])  # hooks change it in place
    return checkpoint


def _read(file: str | Path | BinaryIO, name: str | Path) -> dict[str, Any]:
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
            "whole .pth file that `cankd train` wrote."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{name}: got a {type(checkpoint).__name__}, expected a checkpoint (a dict).")
    return checkpoint


def load_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint by any name that mmengine knows, with its weights under ``state_dict``.

    Args:
        path: ``.pth`` file, URL, or a name such as ``torchvision://resnet50``.

    Returns:
        Content of the file, tensors on the CPU; a bare state dict is put under ``state_dict``.

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
    """Returns the path of a checkpoint; for a URL that of the file in which torch keeps what it fetched."""
    if "://" not in str(name):
        return Path(name).expanduser()
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(str(name)).path).name)


def _fetched(url: str) -> Path:
    """Returns the file of a URL, which the first process fetches if it is not there yet."""
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


# Loaders for all schemes of mmengine, whose own ones run whatever code a checkpoint carries. Which file a name stands
# for is still looked up by mmengine, whose log shows the functions' names.


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
    return load_from_http(_torchvision_place(filename))


@CheckpointLoader.register_scheme(("open-mmlab://", "openmmlab://"), force=True)
def load_from_openmmlab(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Reads a checkpoint that mmengine knows by name, from its URL or from mmengine's own folder."""
    place = _openmmlab_place(filename)
    return load_from_http(place) if "://" in place else load_from_local(place)


@CheckpointLoader.register_scheme("mmcls://", force=True)
def load_from_mmcls(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Reads the backbone of a classifier of mmcls, under the backbone's own names."""
    checkpoint = load_from_http(_mmcls_place(filename))
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
    """Returns the file or URL of a named checkpoint."""
    scheme, name = filename.split("://", 1)
    if name not in places:
        near = difflib.get_close_matches(name, places, n=3) or sorted(places)[:3]
        raise ValueError(f"checkpoint: got {filename}, expected a name of {scheme}:// like {', '.join(near)}.")
    return places[name]


def _torchvision_place(filename: str) -> str:
    return _known(filename, get_torchvision_models())


def _openmmlab_place(filename: str) -> str:
    models = get_external_models()
    models.update({old: models[new] for old, new in get_deprecated_model_names().items() if new in models})
    place = _known(filename, models)
    # Private, but mmengine has no other function that tells its own folder.
    return place if "://" in place else str(Path(_get_mmengine_home(), place))


def _mmcls_place(filename: str) -> str:
    return _known(filename, get_mmcls_models())


# Scheme of a checkpoint's name -> function that returns the file or URL that the name stands for.
_PLACES = {
    "torchvision": _torchvision_place,
    "open-mmlab": _openmmlab_place,
    "openmmlab": _openmmlab_place,
    "mmcls": _mmcls_place,
}


def is_here(name: str | Path) -> bool:
    """Returns whether a checkpoint can be read without fetching it.

    Args:
        name: ``.pth`` file, URL, or a name such as ``torchvision://resnet50``.

    Raises:
        ValueError: for an unknown name of a known scheme.
    """
    place_of = _PLACES.get(str(name).split("://")[0], str)
    return local_file(place_of(str(name))).is_file()


def save_whole(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        checkpoint: content to save.
        path: file to write; its folder is made if needed.
    """
    with whole(path) as part:
        torch.save(checkpoint, part)
