"""The patches that let the released mmrazor 1.0.0 run on current library versions.

Each patch is one function that says when it can go, and changes nothing where the installed libraries
do not need it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import sys
import types
from typing import Any, Callable, Iterator

from cankd.openmmlab.compat.versions import CLASSIFICATION, module_of, own_config, shipped_config

_QUANTIZATION = "mmrazor.structures.quantization"


def _refuses_mmcv(name: str) -> bool:
    """Returns whether importing a package fails because it asserts another version of mmcv."""
    try:
        importlib.import_module(name)
    except AssertionError:
        return True
    except ImportError:
        pass
    return False


@contextlib.contextmanager
def answered_version_guards() -> Iterator[None]:
    """Lets mmrazor 1.0 (mmcv <= 2.1), mmcls (< 2.1) and mmpretrain (< 2.4) import beside a newer mmcv.

    They only compare ``mmcv.__version__`` while they are imported; nothing that distillation uses has
    changed in mmcv since. The version is left alone if none of them refuses it.

    Can go when releases of all three accept the newest mmcv.
    """
    import mmcv

    real = mmcv.__version__
    if any(_refuses_mmcv(name) for name in ("mmrazor", CLASSIFICATION, "mmcls")):
        mmcv.__version__ = "2.0.1"
    try:
        yield
    finally:
        mmcv.__version__ = real


class QuantizationStub(types.ModuleType):
    """Stands in for ``mmrazor.structures.quantization``: every public name is an empty class."""

    __path__: list[str] = []
    __all__: list[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__module__": self.__name__})


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Discards the debugging lines that OneDL's libraries print while they are imported.

    The default logger is made first, because it keeps the output stream that it finds.

    Can go when the libraries print nothing on import.
    """
    from mmengine.logging import MMLogger

    MMLogger.get_current_instance()
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def import_mmrazor() -> None:
    """Imports mmrazor and fills its registries, with a stub for quantisation where that cannot be imported.

    mmrazor 1.0 imports functions for quantisation that torch 2.0 removed (``reverse2`` and others), and
    everything else in mmrazor imports its quantisation. Distillation does not use it.

    The stub can go when mmrazor imports on current torch.
    """
    with answered_version_guards(), quiet_imports():
        try:
            importlib.import_module("mmrazor.structures")
        except ImportError:
            for name in [n for n in sys.modules if n.startswith("mmrazor.structures")]:
                del sys.modules[name]
            sys.modules[_QUANTIZATION] = QuantizationStub(_QUANTIZATION)
        from mmrazor.utils import register_all_modules

        register_all_modules(init_default_scope=False)


def map_distribution_names() -> None:
    """Lets mmengine find libraries that are installed under another distribution name.

    mmengine looks ``mmseg::...`` up as the distribution ``mmsegmentation``. OneDL's is called
    ``onedl-mmsegmentation``, so mmengine would run ``pip install mmsegmentation`` over it.
    Under its module's name mmengine finds any package by its import specification.

    Can go when mmengine looks packages up by their modules.
    """
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.utils import is_installed

    for module, distribution in MODULE2PACKAGE.items():
        if not is_installed(distribution) and is_installed(module):
            MODULE2PACKAGE[module] = module


def translate_classification() -> None:
    """Lets ``mmpretrain::...`` mean mmcls where only that is installed, and the reverse.

    mmcls 1.0 became mmpretrain 1.0 under the same interfaces.

    Can go when mmcls is no longer supported.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    if importlib.util.find_spec(CLASSIFICATION):
        for name in ("mmpretrain", "mmcls"):
            MODULE2PACKAGE[name] = CLASSIFICATION


def find_shipped_configs() -> None:
    """Lets a configuration name a base by ``cankd::...``, and finds those of other packages at once.

    mmengine reads all metafiles of a package, 0.3 s for each base, before it takes the file in ``.mim/configs`` of the
    installed package; and it gives what is inherited the scope of the name before ``::``. cankd's configurations are in
    a checkout's ``configs`` where it is not installed from a wheel, and their types belong to mmdet, mmseg or
    mmpretrain; and ``mmpretrain`` may mean mmcls. mmengine has no public hook for any of these.

    Can go when mmengine asks packages themselves where their configurations lie and which scope they have.
    """
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE["cankd"] = "cankd"  # for mmengine.hub.get_config, too
    find = Config._get_cfg_path

    def find_shipped(cfg_path: str, filename: str) -> tuple[str, str | None]:
        file = shipped_config(cfg_path)
        if file is None:
            return find(cfg_path, filename)
        return str(file), None if own_config(cfg_path) else module_of(cfg_path.partition("::")[0])

    Config._get_cfg_path = staticmethod(find_shipped)


def format_a_configuration_once() -> None:
    """Keeps the text of the configuration that was formatted last.

    A run asks mmengine five times for it, and mmengine has yapf format it each time, which takes up to 4 s.

    Can go when mmengine keeps the text itself.
    """
    from mmengine.config import Config

    format_text = Config.pretty_text.fget
    kept: dict[str, str] = {}

    def pretty_text(cfg: Config) -> str:
        content = repr(cfg)
        if content not in kept:
            kept.clear()
            kept[content] = format_text(cfg)
        return kept[content]

    Config.pretty_text = property(pretty_text)


def refuse_installations() -> None:
    """Makes mmengine raise an error for a missing package where it would run pip on its own.

    Can go when mmengine installs nothing by itself.
    """
    import mmengine.hub.hub
    from mmengine.utils import is_installed

    def refuse(package: str) -> None:
        if not is_installed(package):
            raise ImportError(
                f"a config names the package {package!r}, which is not installed. Install it, or correct the config."
            )

    # mmengine has no public switch: its hub calls this function for every package that a configuration names.
    mmengine.hub.hub.install_package = refuse


def flatten_maps_of_any_layout() -> None:
    """Lets mmrazor's losses of CWD and L2 take maps in any memory layout.

    They flatten maps by ``view``, which refuses those whose channels lie last, as SegFormer's class scores.

    Can go when mmrazor flattens them by ``reshape``.
    """
    from mmrazor.models.losses import ChannelWiseDivergence, L2Loss

    for loss in (ChannelWiseDivergence, L2Loss):
        loss.forward = _on_contiguous_maps(loss.forward)


def _on_contiguous_maps(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def forward_contiguous(self: Any, *maps: Any, **named: Any) -> Any:
        return forward(self, *(x.contiguous() for x in maps), **{key: x.contiguous() for key, x in named.items()})

    return forward_contiguous
