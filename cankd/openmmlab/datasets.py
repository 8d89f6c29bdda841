"""Generates data sets: in the layouts of real ones, the quickstart's and the picture gallery's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable, Iterator, List, Tuple

import cv2
import numpy as np
from sklearn.datasets import load_digits

from cankd.openmmlab.scenes import PHOTOGRAPHS, SIZE, Digit, draw_scene, load_photographs
from cankd.utils.files import write_image, write_text

Scene = Tuple[np.ndarray, List[Digit]]
DETECTION_SIZE = (320, 320)  # of generated COCO and Objects365 images
COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # COCO numbers its 80 classes 1 to 90
WNIDS = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475",
         "n01496331", "n01498041", "n01514668", "n01514859", "n01518878")  # ImageNet's first ten classes  # fmt: skip
MARGIN = 3  # pixels around a digit that is cut out of the gallery's scenes
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of trainIds 0 to 18


def enlarged_scenes(split: str, count: int, size: tuple[int, int], seed: int) -> Iterator[Scene]:
    """Yields scenes of ``size`` (width, height) with their digits."""
    rng = np.random.default_rng([seed, list(PHOTOGRAPHS).index(split)])
    photographs = load_photographs(PHOTOGRAPHS[split])
    bunch = load_digits()
    for _ in range(count):
        image, objects = draw_scene(photographs, bunch.images / 16, bunch.target, rng)
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        yield image, [digit.enlarged(size[0] / SIZE, size[1] / SIZE) for digit in objects]


def coco_json(
    categories: list[dict], names: list[str], scenes: list[list[Digit]], size: tuple[int, int], first_id: int = 0
) -> dict:
    """Returns the annotations of scenes in COCO's format.

    Args:
        categories: COCO's categories; label k is category k * (number of categories // 10).
        names: file name of each scene.
        scenes: objects of each scene.
        size: width and height of all scenes.
        first_id: number of the first image. Defaults to 0.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, (name, objects) in enumerate(zip(names, scenes), start=first_id):
        images.append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
        for label, box, outlines in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": categories[label * (len(categories) // 10)]["id"],
                    "bbox": box,
                    "segmentation": outlines,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return {"images": images, "annotations": annotations, "categories": categories}


def full_coco_json(categories: list[dict], names: list[str], scenes: list[Scene]) -> dict:
    """Returns the annotations with every field of the real files, such as licenses."""
    content = coco_json(categories, names, [objects for _, objects in scenes], DETECTION_SIZE, first_id=1)
    for image in content["images"]:
        image["license"] = 1
    return {"info": {}, "licenses": [], **content}


def class_names(dataset: str) -> list[str]:
    """Returns the classes of one of mmdet's data sets."""
    import mmdet.datasets

    return list(getattr(mmdet.datasets, dataset).METAINFO["classes"])


def make_coco(out: Path, split: str, count: int, seed: int) -> None:
    """Writes a split in the layout of COCO."""
    ids = [number for number in range(1, 91) if number not in COCO_UNUSED_IDS]
    categories = [{"id": i, "name": n, "supercategory": n} for i, n in zip(ids, class_names("CocoDataset"))]
    made = list(enlarged_scenes(split, count, DETECTION_SIZE, seed))
    names = [f"{number:012d}.jpg" for number in range(1, count + 1)]
    for name, (image, _) in zip(names, made):
        write_image(out / f"{split}2017" / name, image[..., ::-1])
    write_text(out / "annotations" / f"instances_{split}2017.json", json.dumps(full_coco_json(categories, names, made)))


def make_objects365(out: Path, split: str, count: int, seed: int) -> None:
    """Writes a split in the layout of Objects365."""
    categories = [
        {"id": number, "name": name} for number, name in enumerate(class_names("Objects365V2Dataset"), start=1)
    ]
    made = list(enlarged_scenes(split, count, DETECTION_SIZE, seed))
    names = [f"images/v2/patch0/objects365_v2_{number:08d}.jpg" for number in range(1, count + 1)]
    for name, (image, _) in zip(names, made):
        write_image(out / split / "patch0" / Path(name).name, image[..., ::-1])
    write_text(out / "annotations" / f"zhiyuan_objv2_{split}.json", json.dumps(full_coco_json(categories, names, made)))


def make_cityscapes(out: Path, split: str, count: int, seed: int) -> None:
    """Writes a split in the layout of Cityscapes."""
    city = {"train": "aachen", "val": "frankfurt"}[split]
    for number, (image, objects) in enumerate(enlarged_scenes(split, count, (512, 256), seed)):
        name = f"{city}_{number:06d}_000019"
        train_ids = np.zeros(image.shape[:2], np.uint8)  # road
        train_ids[: len(train_ids) // 3] = 10  # sky
        train_ids[-8:] = 255  # the ego vehicle is not evaluated
        for label, (x, y, w, h), _ in objects:
            train_ids[y : y + h, x : x + w] = label + 9
        write_image(out / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image[..., ::-1])
        write_image(out / "gtFine" / split / city / f"{name}_gtFine_labelTrainIds.png", train_ids)
        label_ids = np.array([*CITYSCAPES_IDS, *[1] * 237], np.uint8)[train_ids]
        write_image(out / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", label_ids)


def make_imagenet(out: Path, split: str, count: int, seed: int) -> None:
    """Writes a split in the layout of ImageNet."""
    lines = []
    for number, (image, objects) in enumerate(enlarged_scenes(split, count, (256, 256), seed), start=1):
        label = objects[0].label
        name = f"{WNIDS[label]}/{WNIDS[label]}_{number}.JPEG"
        if split == "val":
            name = f"ILSVRC2012_val_{number:08d}.JPEG"
        file = out / split / name
        write_image(file.with_suffix(".jpg"), image[..., ::-1])
        file.with_suffix(".jpg").rename(file)
        lines.append(f"{name} {label}\n")
    write_text(out / "meta" / f"{split}.txt", "".join(lines))


def digit_images() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns split -> digits (N, 8, 8) in 0..1 and their classes (N,); no writer is in both splits."""
    bunch = load_digits()
    digits = (bunch.images / 16).astype(np.float32)
    # The data set's own order: the first three quarters of the writers train, the rest validate.
    border = len(digits) * 3 // 4
    return {"train": (digits[:border], bunch.target[:border]), "val": (digits[border:], bunch.target[border:])}


def make_quickstart_split(out: Path, split: str, count: int, seed: int) -> None:
    """Writes ``count`` scenes under ``out/split`` and ``out/annotations/split.json``."""
    rng = np.random.default_rng([seed, list(PHOTOGRAPHS).index(split)])
    photographs, digits = load_photographs(PHOTOGRAPHS[split]), digit_images()[split]
    (out / split).mkdir(parents=True)
    names = [f"{number:05d}.png" for number in range(count)]
    made = []
    for name in names:
        scene, objects = draw_scene(photographs, *digits, rng)
        write_image(out / split / name, scene[..., ::-1])
        made.append(objects)
    categories = [{"id": label + 1, "name": str(label)} for label in range(10)]
    write_text(out / "annotations" / f"{split}.json", json.dumps(coco_json(categories, names, made, (SIZE, SIZE))))


def make_gallery_split(out: Path, split: str, count: int) -> None:
    """Writes scenes, a label map of each (0 background, 1 digit), and the digits cut out, by class."""
    digits, labels = digit_images()[split]
    photographs = load_photographs(PHOTOGRAPHS[split])
    for number in range(count):
        scene, objects = draw_scene(photographs, digits, labels, np.random.default_rng(number))
        # The same digits on black and on white: what differs there is what shows through.
        black, white = (
            draw_scene([np.full_like(p, v) for p in photographs], digits, labels, np.random.default_rng(number))[0]
            for v in (0, 255)
        )
        covered = (white.astype(int) - black).mean(axis=2) < 180
        write_image(out / split / "images" / f"{number:05d}.png", scene[..., ::-1])
        write_image(out / split / "labels" / f"{number:05d}.png", covered.astype(np.uint8))
        for index, (label, (x, y, width, height), _) in enumerate(objects):
            top, left = max(y - MARGIN, 0), max(x - MARGIN, 0)
            cut = scene[top : y + height + MARGIN, left : x + width + MARGIN]
            write_image(out / split / "digits" / str(label) / f"{number:05d}_{index}.png", cut[..., ::-1])


LAYOUTS: dict[str, Callable[[Path, str, int, int], None]] = {
    "coco": make_coco,
    "objects365": make_objects365,
    "cityscapes": make_cityscapes,
    "imagenet": make_imagenet,
}
