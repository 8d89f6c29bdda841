"""Describes data of one's own for a detector or a segmenter, finds and checks them."""

from __future__ import annotations

import difflib
import json
import mmap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import TRANSFORMS

SPLITS = ("train", "val", "test")
IGNORED = 255  # label that mmseg leaves out
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
CHECKED_MASKS = 8  # of each split, before a training; all masks are checked when they are read
ANNOTATION_FILES = ("annotations/instances_{}.json", "annotations/instances_{}2017.json", "annotations/{}.json")
IMAGE_FOLDERS = ("{}", "{}2017", "images/{}", "images/{}2017", "images")
MASK_FOLDERS = ("masks/{}", "labels/{}", "annotations/{}")


@dataclass(frozen=True)
class OwnData:
    """Data of one's own.

    Args:
        classes: names of the classes; in the order of the annotation file, or of the labels 0, 1, ... in the masks.
        train: where the training data are. Of a detector, ``annotations`` is a file in COCO's format, and ``images``
            the folder that its file names begin in. Of a segmenter, ``images`` and ``masks`` are two folders; a mask
            has the name of its image and one channel with a label for each pixel.
        val: where the validation data are.
        test: where the test data are. Defaults to ``val``.
        root: folder that these paths begin in. Defaults to the current folder.
        image_size: width and height of the images, or one number for both. The recipe's other sizes, such as those of
            crops, change with it. Defaults to the recipe's.
        palette: colour (R, G, B) of each class. Defaults to random colours.
        void: label in the masks that is neither trained nor evaluated, beside 255. Defaults to none.
        epochs: length of the training, for recipes that count epochs; the schedule is stretched or shrunk to it.
            Defaults to the recipe's.
        iterations: the same for recipes that count iterations.
        batch_size: number of images in a batch on each device. Defaults to the recipe's.

    Raises:
        ValueError: for a faulty description.
    """

    classes: tuple[str, ...]
    train: Mapping[str, str]
    val: Mapping[str, str]
    test: Mapping[str, str] | None = None
    root: str = ""
    image_size: int | tuple[int, int] | None = None
    palette: Sequence[Sequence[int]] | None = None
    void: int | None = None
    epochs: int | None = None
    iterations: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        names = self.classes
        if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"own_data.classes: got {names!r}, expected names such as ('cat', 'dog').")
        if len(set(names)) < len(names):
            raise ValueError(f"own_data.classes: got {', '.join(names)}, expected names that differ.")
        kind = "masks" if "masks" in self.train else "annotations"
        for split in SPLITS:
            paths = self.split(split)
            if not isinstance(paths, Mapping) or set(paths) != {"images", kind}:
                raise ValueError(
                    f"own_data.{split}: got {paths!r}, expected dict(annotations=FILE, images=FOLDER) of a detector or "
                    "dict(images=FOLDER, masks=FOLDER) of a segmenter, alike in all splits."
                )
        if self.is_segmentation and len(names) < 2:
            raise ValueError(f"own_data.classes: got {names[0]} alone, expected the background as a class, too.")
        if self.void is not None and (not self.is_segmentation or self.void in range(len(names))):
            raise ValueError(f"own_data.void: got {self.void}, expected a label of masks that is no class's.")
        if self.palette is not None and len(self.palette) != len(names):
            raise ValueError(f"own_data.palette: got {len(self.palette)} colours for {len(names)} classes.")
        sizes = [self.image_size] if isinstance(self.image_size, int) else self.image_size or [1]
        numbers = dict(epochs=self.epochs, iterations=self.iterations, batch_size=self.batch_size)
        for name, value in (*numbers.items(), *(("image_size", size) for size in sizes)):
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"own_data.{name}: got {value!r}, expected a positive integer.")
        if len(sizes) > 2:
            raise ValueError(f"own_data.image_size: got {sizes}, expected (width, height) or one number.")

    @classmethod
    def of(cls, given: Any) -> OwnData:
        """Reads the ``own_data`` of a configuration.

        Raises:
            ValueError: for a faulty description.
        """
        if not isinstance(given, dict):
            raise ValueError(f"own_data: got {given!r}, expected a dict with classes, train and val.")
        values = {key: given[key] for key in given if key != "_delete_"}
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=3) or known
                raise ValueError(f"own_data: got an unknown key {key}, expected one like {', '.join(near)}.")
        for key in ("classes", "train", "val"):
            if key not in values:
                raise ValueError(f"own_data: got {', '.join(values) or 'nothing'}, expected {key}, too. Add {key}.")
        if isinstance(values["classes"], list):
            values["classes"] = tuple(values["classes"])
        return cls(**values)

    def split(self, name: str) -> Mapping[str, str]:
        """Returns the paths of a split; those of ``val`` where there is no test split."""
        return self.val if name == "test" and self.test is None else getattr(self, name)

    def path(self, split: str, key: str) -> Path:
        """Returns one path of a split."""
        return Path(self.root, self.split(split)[key])

    @property
    def is_segmentation(self) -> bool:
        """Returns whether the data are images and masks."""
        return "masks" in self.train

    @property
    def size(self) -> tuple[int, int] | None:
        """Returns width and height of the images, or None for the recipe's."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def metainfo(self) -> dict[str, Any]:
        """Returns names and colours of the classes as data sets take them."""
        return dict(classes=self.classes, **({"palette": list(self.palette)} if self.palette else {}))


@dataclass(frozen=True)
class GivenData:
    """Data that a command line gives.

    Args:
        values: the ``own_data`` of a configuration.
        file: file that they are from, or None.
    """

    values: dict[str, Any]
    file: Path | None = None

    @classmethod
    def read(cls, file: Path) -> GivenData:
        """Reads a data file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it has no ``own_data``.
        """
        if not file.is_file():
            raise FileNotFoundError(f"--data: got {file}, expected an existing file. Check the path.")
        values = Config.fromfile(file).get("own_data")
        if values is None:
            raise ValueError(f"--data: got {file} without own_data, expected own_data = dict(classes=..., ...) in it.")
        return cls(values.to_dict(), file)


@TRANSFORMS.register_module()
class CheckMask(BaseTransform):
    """Marks the void pixels of a mask, and refuses a mask with labels that are no class's.

    Args:
        num_classes: number of classes; their labels are 0 to ``num_classes - 1``.
        void: label that is left out beside 255. Defaults to none.
    """

    def __init__(self, num_classes: int, void: int | None = None) -> None:
        self.num_classes = num_classes
        self.void = void

    def transform(self, results: dict) -> dict:
        """Changes ``gt_seg_map`` (H, W) in place; an image alone stays as it is.

        Raises:
            ValueError: for a mask with several channels or with other labels.
        """
        mask = results.get("gt_seg_map")
        if mask is None:
            return results
        check_mask(mask, results["seg_map_path"], self.num_classes, self.void)
        if self.void is not None:
            mask[mask == self.void] = IGNORED
        return results


def check_mask(mask: np.ndarray, file: str | Path, num_classes: int, void: int | None = None) -> None:
    """Refuses a mask with labels that are no class's.

    Args:
        mask: labels (H, W).
        file: name of its file, for the error.
        num_classes: number of classes.
        void: label that is left out beside 255. Defaults to none.

    Raises:
        ValueError: for a mask with several channels or with other labels.
    """
    if mask.ndim != 2:
        raise ValueError(
            f"{file}: got a mask with {mask.shape[-1]} channels, expected one with a label for each pixel."
        )
    allowed = {*range(num_classes), void, IGNORED}
    wrong = [int(label) for label in np.unique(mask) if int(label) not in allowed]
    if wrong:
        left_out = "" if void is None else f", {void} (void)"
        raise ValueError(
            f"{file}: got the label {wrong[0]} in a mask, expected 0 to {num_classes - 1}{left_out} or {IGNORED}. Add "
            "the class to own_data.classes, or name the label of pixels without a class as own_data.void."
        )


def images_in(folder: Path) -> list[Path]:
    """Returns the images in a folder and its subfolders, sorted, as paths from the folder on."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(file.relative_to(folder) for file in files)


def suffixes(own: OwnData, split: str) -> tuple[str, str]:
    """Returns how the names of images and of their masks end, by the first image; ``.jpg`` and ``.png`` without one."""
    found = images_in(own.path(split, "images"))
    if not found:
        return ".jpg", ".png"
    place = own.path(split, "masks") / found[0].parent
    masks = [file.name for file in place.glob("*") if file.name.startswith(found[0].stem)]
    return found[0].suffix, min(masks, key=len)[len(found[0].stem) :] if masks else ".png"


def categories_of(file: str | Path) -> list[str]:
    """Returns the names of a COCO file's categories, without reading the rest of a file that may have a gigabyte."""
    try:
        return [category["name"] for category in _behind(file, "categories")]
    except (ValueError, KeyError, TypeError):
        return []


def _behind(file: str | Path, key: str) -> Any:
    """Returns the last value of a key in a JSON file; a long one is an error."""
    with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        start = text.rfind(f'"{key}"'.encode())
        start = text.find(b":", start) + 1 if start >= 0 else -1
        found = text[start : start + (1 << 24)].decode("utf-8", "ignore").lstrip() if start >= 0 else "[]"
    return json.JSONDecoder().raw_decode(found)[0]


def check_own_data(own: OwnData, with_masks: bool = False) -> None:
    """Refuses data that are not there or that do not have the classes.

    Args:
        own: description of the data.
        with_masks: whether the model learns instance masks from the annotations. Defaults to False.

    Raises:
        FileNotFoundError: for a file or folder that does not exist.
        ValueError: for annotations without the classes or without masks, and for images without a mask.
    """
    for split in SPLITS[: 3 if own.test else 2]:
        for key in own.split(split):
            path = own.path(split, key)
            if not (path.is_file() if key == "annotations" else path.is_dir()):
                kind = "file" if key == "annotations" else "folder"
                raise FileNotFoundError(f"own_data.{split}.{key}: got {path}, expected an existing {kind}.")
        if own.is_segmentation:
            _check_masks(own, split)
        else:
            _check_annotations(own, split, with_masks)


def _check_annotations(own: OwnData, split: str, with_masks: bool) -> None:
    file = own.path(split, "annotations")
    names = categories_of(file)
    shown = ", ".join(names[:10]) or "none; is it COCO's format?"
    absent = [name for name in own.classes if name not in names]
    if absent:
        raise ValueError(f"own_data.classes: got {absent[0]}, which {file} does not have; its categories are {shown}.")
    if [name for name in names if name in own.classes] != list(own.classes):
        raise ValueError(
            f"own_data.classes: got {', '.join(own.classes)}, but {file} has the order {shown}, which numbers the "
            "labels. Write them in that order."
        )
    first, folder = str(_behind(file, "file_name")), own.path(split, "images")
    if not (folder / first).is_file():
        raise FileNotFoundError(f"own_data.{split}.images: got {folder}, which has no {first} of {file}.")
    if with_masks and not _behind(file, "segmentation"):
        raise ValueError(f"{file}: got no segmentation of the objects, expected one for a model that learns masks.")


def _check_masks(own: OwnData, split: str) -> None:
    folder, images = own.path(split, "images"), images_in(own.path(split, "images"))
    if not images:
        raise FileNotFoundError(f"own_data.{split}.images: got {folder}, which has no image.")
    image_suffix, mask_suffix = suffixes(own, split)
    for image in images:
        if image.suffix != image_suffix:
            raise ValueError(f"own_data.{split}.images: got {image} beside {images[0]}, expected one suffix.")
        mask = own.path(split, "masks") / image.with_name(image.stem + mask_suffix)
        if not mask.is_file():
            raise FileNotFoundError(f"own_data.{split}.masks: got no {mask}, expected the mask of {folder / image}.")
    for image in images[:: max(1, len(images) // CHECKED_MASKS)]:
        mask = own.path(split, "masks") / image.with_name(image.stem + mask_suffix)
        check_mask(np.squeeze(mmcv.imread(mask, flag="unchanged")), mask, len(own.classes), own.void)


def data_in(root: Path, classes: Sequence[str]) -> dict[str, Any]:
    """Finds data of a standard layout.

    Args:
        root: folder of the data.
        classes: names of the classes.

    Returns:
        The ``own_data`` of a configuration.

    Raises:
        FileNotFoundError: if the folder has none of the layouts.
    """
    own: dict[str, Any] = dict(root=root.as_posix(), classes=tuple(classes))
    for split in SPLITS:
        annotations = _existing(root, ANNOTATION_FILES, split, Path.is_file)
        masks = _existing(root, MASK_FOLDERS, split, Path.is_dir)
        images = _existing(root, IMAGE_FOLDERS, split, Path.is_dir)
        if annotations and images:
            first = str(_behind(root / annotations, "file_name"))
            folders = [folder.format(split) for folder in (*IMAGE_FOLDERS, "")]
            images = next((folder for folder in folders if (root / folder / first).is_file()), images)
            own[split] = dict(annotations=annotations, images=images)
        elif masks and images:
            own[split] = dict(images=images, masks=masks)
    if not {"train", "val"} <= set(own):
        raise FileNotFoundError(
            f"--data-root: got {root}, expected annotations/instances_train.json, annotations/instances_val.json and "
            "the folders train and val, or the folders images/train, images/val, masks/train and masks/val. Describe "
            "another layout in a file for --data."
        )
    return own


def _existing(root: Path, names: Sequence[str], split: str, exists: Callable[[Path], bool]) -> str | None:
    return next((name.format(split) for name in names if exists(root / name.format(split))), None)
