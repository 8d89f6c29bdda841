"""What the released mmrazor 1.0.0 needs to run on the library stacks of today.

This is the only module that knows about versions. Every measure below is taken only where
the installed libraries need it, so all of them fall away once mmrazor is repaired.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import pickle
import re
import sys
import types
from typing import Any, BinaryIO, Iterator

_NEEDED = ("torch", "mmengine", "mmcv", "mmdet", "mmseg", "mmrazor")
_QUANTIZATION = "mmrazor.structures.quantization"


def check_installed() -> None:
    """Checks that the libraries this package extends are there.

    Raises:
        ImportError: if one is missing; the message says how to get them.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"cankd extends torch and the OpenMMLab libraries, but cannot find: {', '.join(missing)}. "
            "`bash tools/setup_env.sh` in a checkout of cankd builds a complete environment; "
            "requirements/modern.txt (OneDL's releases, Python >= 3.10) and requirements/paper.txt "
            "(the originals, Python 3.8 to 3.11) list tested versions to install by hand, torch first, then "
            "the rest with `pip install --no-deps --no-build-isolation -r FILE`."
        )


def _refuses_mmcv(name: str) -> bool:
    """Whether a package's own import asserts another mmcv; that happens before it loads anything."""
    try:
        importlib.import_module(name)
    except AssertionError:
        return True
    except ImportError:
        pass
    return False


@contextlib.contextmanager
def _answered_version_guards() -> Iterator[None]:
    """Lets mmrazor 1.0 (mmcv <= 2.1.0) and mmcls (mmcv < 2.1.0) import beside a newer mmcv.

    Both only compare ``mmcv.__version__`` while they are imported; nothing that
    distillation uses has changed in mmcv since. It is left alone if neither refuses it.
    """
    import mmcv

    real = mmcv.__version__
    if any(_refuses_mmcv(name) for name in ("mmrazor", "mmcls")):
        mmcv.__version__ = "2.0.1"
    try:
        yield
    finally:
        mmcv.__version__ = real


class _QuantizationStub(types.ModuleType):
    """Stands in for ``mmrazor.structures.quantization``: every public name is an empty class.

    mmrazor 1.0 imports functions for it that torch removed in 2.0 (``reverse2`` and others),
    and everything else in mmrazor imports it. Distillation never touches quantisation.
    """

    __path__: list[str] = []
    __all__: list[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__module__": self.__name__})


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """Swallows the debugging lines that OneDL's libraries print while they are imported.

    The default logger must exist before, or it would write to the swallowed stream for good.
    """
    from mmengine.logging import MMLogger

    MMLogger.get_current_instance()
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _import_mmrazor() -> None:
    """Imports mmrazor and fills its registries, with the quantisation stub only if needed."""
    with _answered_version_guards(), without_chatter():
        try:
            importlib.import_module("mmrazor.structures")
        except ImportError:
            for name in [n for n in sys.modules if n.startswith("mmrazor.structures")]:
                del sys.modules[name]
            sys.modules[_QUANTIZATION] = _QuantizationStub(_QUANTIZATION)
        from mmrazor.utils import register_all_modules

        register_all_modules(init_default_scope=False)


def _map_distribution_names() -> None:
    """Lets mmengine find libraries that are installed under another distribution name.

    mmengine looks ``mmseg::...`` up as the distribution ``mmsegmentation``. OneDL's is called
    ``onedl-mmsegmentation``, so mmengine would run ``pip install mmsegmentation`` over it.
    Under its module's name mmengine finds any package by its import specification.
    """
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.utils import is_installed

    for module, distribution in MODULE2PACKAGE.items():
        if not is_installed(distribution) and is_installed(module):
            MODULE2PACKAGE[module] = module


# The module that holds what a configuration asks of mmpretrain: its predecessor where only that is there.
CLASSIFICATION = "mmpretrain" if importlib.util.find_spec("mmpretrain") else "mmcls"


def module_of(package: str) -> str:
    """The installed module that stands for a package which a configuration names.

    Args:
        package: the name before ``::``.

    Returns:
        ``mmcls`` for ``mmpretrain`` where only mmcls is installed, and the reverse; else the name itself.
    """
    return CLASSIFICATION if package in ("mmpretrain", "mmcls") else package


def _translate_classification() -> None:
    """Lets ``mmpretrain::...`` in a configuration mean mmcls where only that is installed, and the reverse.

    mmcls 1.0 became mmpretrain 1.0 under the same interfaces. mmengine takes the path of a base from
    the mapping of packages, and the scope of its types from the name before ``::``.
    """
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    if not importlib.util.find_spec(CLASSIFICATION):
        return
    for name in ("mmpretrain", "mmcls"):
        MODULE2PACKAGE[name] = CLASSIFICATION
    find = Config._get_cfg_path

    def find_translated(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = find(cfg_path, filename)
        return path, scope and module_of(scope)

    Config._get_cfg_path = staticmethod(find_translated)


def _method_of_known_class(owner: Any, name: str) -> Any:
    """Takes ``getattr``'s place in checkpoints: only plain functions of the two known families."""
    from mmengine.logging.history_buffer import HistoryBuffer
    from mmengine.optim.scheduler.param_scheduler import _ParamScheduler

    if not (inspect.isclass(owner) and issubclass(owner, (HistoryBuffer, _ParamScheduler))):
        raise UnsafePickle(f"getattr on {owner!r} is not allowed in a checkpoint.")
    method = getattr(owner, name)
    if not inspect.isfunction(method):
        raise UnsafePickle(f"getattr of {name!r} is not allowed in a checkpoint.")
    return method


def _refuse_installations() -> None:
    """Makes mmengine say what is missing where it would run pip on its own."""
    import mmengine.hub.hub
    from mmengine.utils import is_installed

    def refuse(package: str) -> None:
        if not is_installed(package):
            raise ImportError(
                f"a config names the package {package!r}, which is not installed. Install it, or correct the config."
            )

    mmengine.hub.hub.install_package = refuse


def _checkpoint_globals() -> dict[str, Any]:
    """What mmengine writes into a checkpoint beside tensors, by its pickled name.

    The message hub holds ``HistoryBuffer`` objects with numpy arrays and, like one-cycle
    schedules, functions of their own classes, which pickle as ``getattr(class, name)``.
    """
    import _codecs

    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer
    from mmengine.optim.scheduler import param_scheduler

    try:  # numpy >= 2
        from numpy._core import multiarray
    except ImportError:
        from numpy.core import multiarray  # type: ignore[no-redef]
    items = [HistoryBuffer, _codecs.encode, np.ndarray, np.dtype]
    items += [item for item in vars(param_scheduler).values() if inspect.isclass(item)]
    items += {type(np.dtype(kind)) for kind in "fdlqi?"}
    names = {f"{item.__module__}.{item.__qualname__}": item for item in items}
    for package in ("numpy.core", "numpy._core"):  # either numpy reads the other's files
        names[f"{package}.multiarray._reconstruct"] = multiarray._reconstruct
        names[f"{package}.multiarray.scalar"] = multiarray.scalar
    names["builtins.getattr"] = _method_of_known_class
    return names


def _knows_safe_globals() -> bool:
    """Whether torch can be told which names to trust in a checkpoint, with what stands for them."""
    import torch
    from mmengine.utils import digit_version

    return digit_version(torch.__version__) >= digit_version("2.6.0")


def _register_safe_globals() -> None:
    """Lets ``torch.load``'s safe default (torch >= 2.6) read mmengine checkpoints."""
    import torch

    if _knows_safe_globals():
        torch.serialization.add_safe_globals([(item, name) for name, item in _checkpoint_globals().items()])


class UnsafePickle(pickle.UnpicklingError):
    """A pickle names something that is not allowed in a checkpoint, and could run code."""


# What torch's restricted unpickler says of such a name, among the other things that can be wrong with a file.
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
    import torch

    if _knows_safe_globals():
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            reason = str(error).split("WeightsUnpickler error: ")[-1]
            if _UNSAFE.search(reason):
                raise UnsafePickle(f"not allowed in a checkpoint: {reason.split(' was not')[0]}") from error
            raise

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


def prepare() -> None:
    """Makes mmrazor importable, registers its modules and mends what stands in the way.

    Raises:
        ImportError: if a library is missing; the message says how to get it.
    """
    check_installed()
    _map_distribution_names()
    _translate_classification()
    _refuse_installations()
    _import_mmrazor()
    _register_safe_globals()
