"""Reads checkpoints of mmengine without running code that a file might carry."""

from __future__ import annotations

import _codecs  # private, but checkpoints name it: pickle writes bytes as a call of its encode()
import inspect
import pickle
import re
import types
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.optim.scheduler import param_scheduler
from mmengine.utils import digit_version


class UnsafePickle(pickle.UnpicklingError):
    """A pickle names something that is not allowed in a checkpoint, and could run code."""


def _method_of_known_class(owner: Any, name: str) -> Any:
    """Replaces ``getattr`` in checkpoints: returns only plain functions of history buffers and schedules."""
    # The schedules' base class is private: mmengine exports the schedules alone.
    if not (inspect.isclass(owner) and issubclass(owner, (HistoryBuffer, param_scheduler._ParamScheduler))):
        raise UnsafePickle(f"getattr on {owner!r} is not allowed in a checkpoint.")
    method = getattr(owner, name)
    if not inspect.isfunction(method):
        raise UnsafePickle(f"getattr of {name!r} is not allowed in a checkpoint.")
    return method


def _checkpoint_globals() -> dict[str, Any]:
    """Returns the classes and functions that mmengine writes into a checkpoint, by their pickled names.

    The message hub holds ``HistoryBuffer`` objects with numpy arrays and, like one-cycle
    schedules, functions of their own classes, which pickle as ``getattr(class, name)``.
    """
    try:  # numpy >= 2
        from numpy._core import multiarray
    except ImportError:
        from numpy.core import multiarray  # type: ignore[no-redef]
    items = [HistoryBuffer, _codecs.encode, np.ndarray, np.dtype]
    items += [item for item in vars(param_scheduler).values() if inspect.isclass(item)]
    items += {type(np.dtype(kind)) for kind in "fdlqi?"}
    names = {f"{item.__module__}.{item.__qualname__}": item for item in items}
    # The files hold private names; either numpy reads the other's.
    for package in ("numpy.core", "numpy._core"):
        names[f"{package}.multiarray._reconstruct"] = multiarray._reconstruct
        names[f"{package}.multiarray.scalar"] = multiarray.scalar
    names["builtins.getattr"] = _method_of_known_class
    return names


def _knows_safe_globals() -> bool:
    """Returns whether ``torch.load`` takes a list of allowed names, each with its replacement."""
    return digit_version(torch.__version__) >= digit_version("2.6.0")


def register_safe_globals() -> None:
    """Lets ``torch.load``'s safe default read mmengine checkpoints; can go when mmengine registers them itself."""
    if _knows_safe_globals():
        torch.serialization.add_safe_globals([(item, name) for name, item in _checkpoint_globals().items()])


# Messages of torch's unpickler that mean a forbidden name; others mean a broken file.
_UNSAFE = re.compile("GLOBAL|unrecognized function|allowlisted|is not allowed in a checkpoint")


def load_safely(file: str | BinaryIO) -> Any:
    """Reads a checkpoint without running code that it might carry.

    Older torch cannot be told which classes to trust beside tensors, so there the same ones
    are allowed through an unpickler of our own.

    Args:
        file: path of the file to read, or the open file; tensors are put on the CPU.

    Raises:
        UnsafePickle: if the file holds anything but tensors, plain containers and what mmengine
            writes.
        Exception: of many kinds, if it is no whole checkpoint.
    """
    if _knows_safe_globals():
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            reason = str(error).split("WeightsUnpickler error: ")[-1]
            if _UNSAFE.search(reason):
                raise UnsafePickle(f"not allowed in a checkpoint: {reason.split(' was not')[0]}") from error
            raise

    # Private, because torch before 2.6 has no other list of what it allows.
    from torch._weights_only_unpickler import _get_allowed_globals

    allowed = {**_get_allowed_globals(), **_checkpoint_globals()}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            key = f"{module}.{name}".replace("__builtin__.", "builtins.")
            if key not in allowed:
                raise UnsafePickle(f"{key} is not allowed in a checkpoint.")
            return allowed[key]

    def load(file: Any, **kwargs: Any) -> Any:
        return Unpickler(file, **kwargs).load()

    restricted = types.SimpleNamespace(Unpickler=Unpickler, load=load, __name__="pickle")
    return torch.load(file, map_location="cpu", pickle_module=restricted)
