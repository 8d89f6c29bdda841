"""Writes a few generated images in the layout of a real data set.

File names, JSON fields, label ids and folders are the real ones, so that every configuration
runs on them unmodified but for its data root. The scenes are the quickstart's, enlarged.

python tools/dataset_tools/make_mini.py --layout coco|objects365|cityscapes|imagenet --out DIR
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Callable, Iterator, List, Sequence, Tuple

import cv2
import numpy as np
from sklearn.datasets import load_digits

from cankd.openmmlab.scenes import PHOTOGRAPHS, SIZE, draw_scene, load_photographs
from cankd.utils.command_line import at_least, command_parser, one_line_errors
from cankd.utils.files import write_image, write_text

Scene = Tuple[np.ndarray, List[Tuple[int, List[int]]]]
COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # COCO numbers its 80 classes 1 to 90
WNIDS = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475",
         "n01496331", "n01498041", "n01514668", "n01514859", "n01518878")  # ImageNet's first ten classes  # fmt: skip
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of trainIds 0 to 18


def scenes(split: str, count: int, size: tuple[int, int], seed: int) -> Iterator[Scene]:
    """Yields scenes of ``size`` (width, height) with (label 0-9, [x, y, width, height]) of each object."""
    rng = np.random.default_rng([seed, list(PHOTOGRAPHS).index(split)])
    photographs = load_photographs(PHOTOGRAPHS[split])
    bunch = load_digits()
    scale = [size[0] / SIZE, size[1] / SIZE] * 2
    for _ in range(count):
        image, objects = draw_scene(photographs, bunch.images / 16, bunch.target, rng)
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        yield image, [(label, [round(v * s) for v, s in zip(box, scale)]) for label, box in objects]


def detection_json(categories: list[dict], names: list[str], split_scenes: list[Scene]) -> dict:
    """Returns the annotations of scenes in COCO's format; label k is category k * (number of categories // 10)."""
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, (name, (image, objects)) in enumerate(zip(names, split_scenes), start=1):
        height, width = image.shape[:2]
        images.append({"id": image_id, "file_name": name, "width": width, "height": height, "license": 1})
        for label, (x, y, w, h) in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": categories[label * (len(categories) // 10)]["id"],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def class_names(dataset: str) -> list[str]:
    import mmdet.datasets

    return list(getattr(mmdet.datasets, dataset).METAINFO["classes"])


def make_coco(out: Path, split: str, count: int, seed: int) -> None:
    ids = [number for number in range(1, 91) if number not in COCO_UNUSED_IDS]
    categories = [{"id": i, "name": n, "supercategory": n} for i, n in zip(ids, class_names("CocoDataset"))]
    made = list(scenes(split, count, (320, 320), seed))
    names = [f"{number:012d}.jpg" for number in range(1, count + 1)]
    for name, (image, _) in zip(names, made):
        write_image(out / f"{split}2017" / name, image[..., ::-1])
    write_text(out / "annotations" / f"instances_{split}2017.json", json.dumps(detection_json(categories, names, made)))


def make_objects365(out: Path, split: str, count: int, seed: int) -> None:
    categories = [
        {"id": number, "name": name} for number, name in enumerate(class_names("Objects365V2Dataset"), start=1)
    ]
    made = list(scenes(split, count, (320, 320), seed))
    names = [f"images/v2/patch0/objects365_v2_{number:08d}.jpg" for number in range(1, count + 1)]
    for name, (image, _) in zip(names, made):
        write_image(out / split / "patch0" / Path(name).name, image[..., ::-1])
    write_text(out / "annotations" / f"zhiyuan_objv2_{split}.json", json.dumps(detection_json(categories, names, made)))


def make_cityscapes(out: Path, split: str, count: int, seed: int) -> None:
    city = {"train": "aachen", "val": "frankfurt"}[split]
    for number, (image, objects) in enumerate(scenes(split, count, (512, 256), seed)):
        name = f"{city}_{number:06d}_000019"
        train_ids = np.zeros(image.shape[:2], np.uint8)  # road
        train_ids[: len(train_ids) // 3] = 10  # sky
        train_ids[-8:] = 255  # the ego vehicle is not evaluated
        for label, (x, y, w, h) in objects:
            train_ids[y : y + h, x : x + w] = label + 9
        write_image(out / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image[..., ::-1])
        write_image(out / "gtFine" / split / city / f"{name}_gtFine_labelTrainIds.png", train_ids)
        label_ids = np.array([*CITYSCAPES_IDS, *[1] * 237], np.uint8)[train_ids]
        write_image(out / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", label_ids)


def make_imagenet(out: Path, split: str, count: int, seed: int) -> None:
    lines = []
    for number, (image, objects) in enumerate(scenes(split, count, (256, 256), seed), start=1):
        label = objects[0][0]
        name = f"{WNIDS[label]}/{WNIDS[label]}_{number}.JPEG"
        if split == "val":
            name = f"ILSVRC2012_val_{number:08d}.JPEG"
        file = out / split / name
        write_image(file.with_suffix(".jpg"), image[..., ::-1])
        file.with_suffix(".jpg").rename(file)
        lines.append(f"{name} {label}\n")
    write_text(out / "meta" / f"{split}.txt", "".join(lines))


LAYOUTS: dict[str, Callable[[Path, str, int, int], None]] = {
    "coco": make_coco,
    "objects365": make_objects365,
    "cityscapes": make_cityscapes,
    "imagenet": make_imagenet,
}


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--layout", choices=LAYOUTS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder: the configs' data root")
    parser.add_argument("--train", type=at_least(1), default=8, help="training images")
    parser.add_argument("--val", type=at_least(1), default=4, help="validation images")
    parser.add_argument("--seed", type=at_least(0), default=0)
    args = parser.parse_args(argv)
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f"--out: {args.out} is not empty; give a new or empty folder.")
    part = args.out.with_name(f"{args.out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for split in PHOTOGRAPHS:
            LAYOUTS[args.layout](part, split, getattr(args, split), args.seed)
        if args.out.exists():
            args.out.rmdir()
        part.rename(args.out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"Wrote {args.train} training and {args.val} validation images in the layout of {args.layout} to {args.out}.")
