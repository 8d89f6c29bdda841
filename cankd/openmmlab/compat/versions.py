"""The libraries that cankd extends: which must be there, and under which name; where its own configurations lie."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import cankd

# Module -> beginnings of the versions that are tested. OneDL's mmdet 3.4.6 changes DINO's weights.
TESTED = {
    "torch": ("2.",),
    "mmengine": ("0.10.",),
    "mmcv": ("2.0.", "2.1.", "2.3."),
    "mmdet": ("3.1.", "3.2.", "3.3.", "3.4.5"),
    "mmseg": ("1.2.", "1.4."),
    "mmrazor": ("1.0.",),
}

# The installed classification library; mmcls is the predecessor of mmpretrain.
CLASSIFICATION = "mmpretrain" if importlib.util.find_spec("mmpretrain") else "mmcls"

# mmpretrain's name of a configuration that recipes of ours name -> mmcls's.
NAMES_IN_MMCLS = {
    "vision_transformer/vit-base-p16_64xb64_in1k-384px.py": "vision_transformer/vit-base-p16_ft-64xb64_in1k-384.py"
}

# What data preprocessors call the swap of BGR to RGB: mmengine and OneDL (private: it has no public name),
# mmsegmentation, mmpretrain.
RGB_FLAGS = ("_channel_conversion", "channel_conversion", "to_rgb")


def classification_sample() -> type:
    """Returns the class of a classifier's data samples: mmpretrain's ``DataSample``, mmcls's ``ClsDataSample``."""
    structures = importlib.import_module(f"{CLASSIFICATION}.structures")
    return getattr(structures, "DataSample", None) or structures.ClsDataSample


def label_of(label: Any) -> Any:
    """Returns the tensor of a classifier's label: the label itself in mmpretrain, in a dict in mmcls."""
    return label["label"] if isinstance(label, dict) else label


def module_of(package: str) -> str:
    """Returns the installed module that stands for a package name in a configuration.

    Args:
        package: the name before ``::``.

    Returns:
        ``mmcls`` for ``mmpretrain`` where only mmcls is installed, and the reverse; else the name itself.
    """
    return CLASSIFICATION if package in ("mmpretrain", "mmcls") else package


def check_installed() -> None:
    """Checks that the libraries this package extends are there.

    Raises:
        ImportError: if one is missing; the message says how to get them.
    """
    missing = [name for name in TESTED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"cankd extends torch and the OpenMMLab libraries, but cannot find: {', '.join(missing)}. "
            "`bash tools/setup_env.sh` in a checkout of cankd builds a complete environment; "
            "requirements/modern.txt (OneDL's releases, Python >= 3.10) and requirements/paper.txt "
            "(the originals, Python 3.8 to 3.11) list tested versions to install by hand, torch first, then "
            "the rest with `pip install --no-deps --no-build-isolation -r FILE`."
        )


def configs_folder() -> Path:
    """Returns the folder of cankd's configurations: as a wheel ships them, else the checkout's ``configs``."""
    package = Path(cankd.__file__).parent
    shipped = package / ".mim" / "configs"
    return shipped if shipped.is_dir() else package.parent / "configs"


def own_config(path: str | Path) -> Path | None:
    """Returns the file that ``cankd::...`` stands for, or None for a path without that prefix."""
    package, separator, name = str(path).partition("::")
    return configs_folder() / name if separator and package == "cankd" else None


def shipped_config(path: str | Path) -> Path | None:
    """Returns the file that ``package::path`` stands for.

    Args:
        path: ``package::path`` of a configuration, or anything else.

    Returns:
        The file, which may be missing if the package is cankd; None if no installed package ships it.
    """
    package, _, name = str(path).partition("::")
    module = module_of(package)
    if module == "mmcls":
        name = NAMES_IN_MMCLS.get(name, name)
    spec = importlib.util.find_spec(module) if name and package.isidentifier() else None
    file = Path(spec.origin).parent / ".mim" / "configs" / name if spec and spec.origin else Path()
    return own_config(path) or (file if file.is_file() else None)
