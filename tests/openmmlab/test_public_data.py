"""Downloads of public data sets: what is written, what is refused, and the recorded values."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from cankd.openmmlab.own_data import OwnData, check_own_data
from cankd.openmmlab.public_data import Boxes, Record, brightness, digest, prepare, read_boxes, read_records
from tests.in_process import call_tool

SPLITS = ("train", "val", "test")
VOC = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
# The class and the corners of the boxes in BCCD/Annotations/BloodImage_00210.xml of the public data set.
BLOOD_IMAGE_210 = """RBC 300 67 423 169, RBC 466 85 589 187, RBC 458 145 581 247, RBC 414 260 536 345,
RBC 188 193 284 298, RBC 88 236 184 341, RBC 28 48 124 153, RBC 228 397 331 480, RBC 201 102 303 193,
RBC 283 279 390 380, RBC 559 330 640 444, RBC 2 359 112 463, WBC 343 335 558 479"""


def _voc(size: tuple[int, int], objects: str) -> str:
    boxes = "".join(VOC.format(*text.split()) for text in objects.split(","))
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{boxes}</annotation>"


@pytest.fixture
def download(tmp_path) -> tuple[Path, dict[str, list[Record]]]:
    """A folder in the layouts of both downloads, with an image for each split, and the values to expect."""
    root, rng = tmp_path / "download", np.random.default_rng(0)
    for folder in (
        "BCCD/JPEGImages",
        "BCCD/Annotations",
        *(f"CamVid/{s}{part}" for s in SPLITS for part in ("", "annot")),
    ):
        (root / folder).mkdir(parents=True)
    records: dict[str, list[Record]] = {"bccd": [], "camvid": []}
    for number, split in enumerate(SPLITS):
        image = cv2.resize(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8), (64, 48))
        labels = rng.integers(0, 12, (48, 64), dtype=np.uint8)
        name = f"Blood_{number}"
        cv2.imwrite(str(root / f"BCCD/JPEGImages/{name}.jpg"), image)
        (root / f"BCCD/Annotations/{name}.xml").write_text(_voc((64, 48), "WBC 1 1 64 48, RBC 11 21 30 24"))
        objects = [("WBC", 0, 0, 64, 48), ("RBC", 10, 20, 20, 4)]
        records["bccd"].append(Record("bccd", split, name, digest(Boxes((64, 48), objects)), brightness(image)))
        cv2.imwrite(str(root / f"CamVid/{split}/{number}.png"), image)
        cv2.imwrite(str(root / f"CamVid/{split}annot/{number}.png"), labels)
        records["camvid"].append(Record("camvid", split, str(number), digest(labels), brightness(image)))
    return root, records


def _own(file: Path) -> OwnData:
    own = OwnData.of(Config.fromfile(file).own_data.to_dict())
    check_own_data(own)
    return own


def test_boxes_become_those_of_coco(download, tmp_path):
    root, records = download
    own = _own(prepare(root, records["bccd"], tmp_path / "out"))
    content = json.loads(own.path("val", "annotations").read_text())
    assert content["images"] == [{"id": 1, "file_name": "Blood_1.jpg", "width": 64, "height": 48}]
    common = {"image_id": 1, "iscrowd": 0}
    assert content["annotations"] == [
        {"id": 1, "category_id": 2, "bbox": [0, 0, 64, 48], "area": 64 * 48, **common},
        {"id": 2, "category_id": 1, "bbox": [10, 20, 20, 4], "area": 80, **common},
    ]
    copied, source = own.path("test", "images") / "Blood_2.jpg", root / "BCCD/JPEGImages/Blood_2.jpg"
    assert copied.read_bytes() == source.read_bytes()


def test_labels_stay_as_they_are(download, tmp_path):
    root, records = download
    own = _own(prepare(root, records["camvid"], tmp_path / "out"))
    assert own.void == 11 and len(own.classes) == 11
    for kind, folder in (("images", "train"), ("masks", "trainannot")):
        assert (own.path("train", kind) / "0.png").read_bytes() == (root / f"CamVid/{folder}/0.png").read_bytes()


def test_a_width_resizes_images_boxes_and_labels(download, tmp_path):
    root, records = download
    boxes = _own(prepare(root, records["bccd"], tmp_path / "boxes", width=32))
    content = json.loads(boxes.path("train", "annotations").read_text())
    assert [content["images"][0][side] for side in ("width", "height")] == [32, 24]
    assert content["annotations"][1]["bbox"] == [5, 10, 10, 2] and content["annotations"][1]["area"] == 20
    assert cv2.imread(str(boxes.path("train", "images") / "Blood_0.jpg")).shape == (24, 32, 3)
    masks = _own(prepare(root, records["camvid"], tmp_path / "masks", width=32))
    labels = cv2.imread(str(masks.path("val", "masks") / "1.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(labels, cv2.imread(str(root / "CamVid/valannot/1.png"), cv2.IMREAD_UNCHANGED)[::2, ::2])


def _flip(file: Path) -> None:
    cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_UNCHANGED)[::-1])


@pytest.mark.parametrize(
    ("dataset", "file", "change", "reason"),
    [
        ("bccd", "BCCD/JPEGImages/Blood_1.jpg", Path.unlink, "missing"),
        ("bccd", "BCCD/JPEGImages/Blood_1.jpg", _flip, "differs"),
        ("bccd", "BCCD/JPEGImages/Blood_1.jpg", lambda file: file.write_bytes(b"404"), "differs"),
        (
            "bccd",
            "BCCD/Annotations/Blood_0.xml",
            lambda file: file.write_text(_voc((64, 48), "WBC 1 1 64 47")),
            "differs",
        ),
        ("bccd", "BCCD/Annotations/Blood_0.xml", lambda file: file.write_text("<a><size>"), "differs"),
        ("camvid", "CamVid/testannot/2.png", _flip, "differs"),
        ("camvid", "CamVid/testannot/2.png", lambda file: file.write_bytes(b""), "differs"),
    ],
)
def test_a_file_that_is_not_the_data_set_s_is_named(download, tmp_path, dataset, file, change, reason):
    root, records = download
    change(root / file)
    with pytest.raises(ValueError, match="got 1 of 6 files") as error:
        prepare(root, records[dataset], tmp_path / "out")
    assert f"{file} ({reason})" in str(error.value) and "\n" not in str(error.value)


def test_the_recorded_values_are_those_of_the_public_data_sets(tmp_path):
    counts = {name: Counter(record.split for record in read_records(name)) for name in ("bccd", "camvid")}
    assert counts == {"bccd": dict(train=205, val=87, test=72), "camvid": dict(train=367, val=101, test=233)}
    (tmp_path / "210.xml").write_text(_voc((640, 480), BLOOD_IMAGE_210))
    (record,) = (record for record in read_records("bccd") if record.name == "BloodImage_00210")
    assert digest(read_boxes(tmp_path / "210.xml")) == record.labels


def test_the_tool_refuses_a_folder_without_the_data_and_leaves_nothing(tmp_path):
    done = call_tool("dataset_tools/prepare_public_data.py", "bccd", tmp_path, "--out", tmp_path / "out", check=False)
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 1 and "got 728 of 728 files that are not bccd's: BCCD/Annotations/BloodImage_" in last
    assert not list(tmp_path.iterdir())
