"""Computes robustness against image corruptions: COCO-C's protocol on any model that mmengine's runner can test.

Michaelis et al., Benchmarking Robustness in Object Detection, arXiv 1907.07484: with P the
accuracy on clean images and P(c, s) on images with corruption c at severity s,

    mPC = mean over corruptions of the mean over severities 1-5 of P(c, s),   rPC = mPC / P.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

from cankd.utils.files import write_image

GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "holdout": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
    "None": (),
}
GROUPS["benchmark"] = GROUPS["noise"] + GROUPS["blur"] + GROUPS["weather"] + GROUPS["digital"]
GROUPS["all"] = GROUPS["benchmark"] + GROUPS["holdout"]

# The accuracy of a data set's usual evaluator and what makes percents of it; the first that an evaluator
# gives is taken.
METRICS = {"coco/bbox_mAP": 100, "pascal_voc/mAP": 100, "mIoU": 1, "accuracy/top1": 1}


def select_corruptions(names: Sequence[str]) -> list[str]:
    """Returns the corruptions that names of corruptions and of groups stand for, each once."""
    return list(dict.fromkeys(name for given in names for name in GROUPS.get(given, (given,))))


@contextlib.contextmanager
def seeded(*key: object) -> Iterator[None]:
    """Makes numpy's random numbers inside the block depend on ``key`` alone, and restores its state afterwards.

    Seeding numpy is not enough for corruptions: scikit-image's noise and imagecorruptions' glass
    blur draw from a generator made with ``numpy.random.default_rng()``, which takes its seed from
    the operating system. Without a seed it gets one from ``key`` here.
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    words = np.frombuffer(digest, np.uint32)
    state, fresh = np.random.get_state(), np.random.default_rng
    np.random.seed(words)
    np.random.default_rng = lambda seed=None: fresh(words if seed is None else seed)
    try:
        yield
    finally:
        np.random.default_rng = fresh
        np.random.set_state(state)


@TRANSFORMS.register_module()
class SeededCorruption(BaseTransform):
    """Corrupts an image right after it was loaded, the same image always in the same way.

    The image keeps the order of its channels, as in mmdet's ``Corrupt``, so that results can be compared with published
    ones.

    Args:
        corruption: name of one of imagecorruptions' 19 corruptions.
        severity: severity, 1 to 5.
        seed: seed that, with the image's id (or file name), corruption and severity, determines the noise.
        folder: folder of corrupted images, ``<folder>/<corruption>/<severity>/<path below images>``,
            each with ``.png`` behind its name; names of images to be read may lack that. Defaults to none.
        load: whether images are read from ``folder``, instead of being corrupted and written there.
        images: folder of the images. Images elsewhere are stored under their whole path. Defaults
            to the root of all files.

    Raises:
        ValueError: for an image that cannot be corrupted.
        FileNotFoundError: if an image that should be read is not there.
    """

    def __init__(
        self,
        corruption: str,
        severity: int,
        seed: int = 0,
        folder: str | None = None,
        load: bool = False,
        images: str = os.sep,
    ) -> None:
        self.corruption = corruption
        self.severity = severity
        self.seed = seed
        self.folder = Path(folder, corruption, str(severity)) if folder else None
        self.load = load
        self.images = Path(os.path.abspath(images))

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replaces ``results['img']``, (H, W, 3) uint8."""
        path = Path(results["img_path"])
        if self.load and self.folder:
            results["img"] = self._load(self._kept(self.folder, path))
            return results
        image = results["img"]
        if image.dtype != np.uint8 or min(image.shape[:2]) < 32:
            raise ValueError(
                f"{path}: got {image.shape} of {image.dtype}, but only uint8 images of at least 32 x 32 pixels can be "
                "corrupted. Load them without to_float32, or leave small ones out."
            )
        from imagecorruptions import corrupt

        key = results.get("img_id", path.name), self.corruption, self.severity, self.seed
        with seeded(*key), contextlib.redirect_stdout(io.StringIO()):  # some corruptions print
            results["img"] = corrupt(image, corruption_name=self.corruption, severity=self.severity)
        if self.folder:
            write_image(self._kept(self.folder, path), results["img"])
        return results

    def _kept(self, folder: Path, image: Path) -> Path:
        """Returns the file of an image's corrupted version, a different one for each image."""
        image = Path(os.path.abspath(image))
        below = image.relative_to(self.images if self.images in image.parents else image.anchor)
        return folder / below.with_name(f"{below.name}.png")

    @staticmethod
    def _load(path: Path) -> np.ndarray:
        for candidate in (path, path.with_suffix("")):
            if candidate.exists():
                return mmcv.imread(str(candidate))
        raise FileNotFoundError(f"corrupted image: expected {path}, or that name without .png. Check --corrupted-dir.")


def image_folder(dataset: Mapping[str, Any]) -> str:
    """Returns the folder of a data set's images, as far as its configuration names it."""
    prefix = dataset.get("data_prefix") or ""
    if isinstance(prefix, Mapping):
        prefix = prefix.get("img", prefix.get("img_path", ""))
    return os.path.join(dataset.get("data_root") or "", prefix)


def insert_corruption(dataset: dict[str, Any], corruption: dict[str, Any]) -> None:
    """Puts a corruption behind the step that loads the image, in a data set's configuration.

    Args:
        dataset: configuration of the data set, with its wrappers; changed in place.
        corruption: configuration of :class:`SeededCorruption` without ``images``, which is set to the
            data set's folder. For several data sets, which may have files of equal names, it is set to
            the root of all files.

    Raises:
        ValueError: if no step loads an image.
    """
    inner = [dataset["dataset"]] if "dataset" in dataset else dataset.get("datasets", [])
    if len(inner) > 1:
        corruption = {"images": os.sep, **corruption}
    for part in inner:
        insert_corruption(part, corruption)
    if inner:
        return
    pipeline = dataset.get("pipeline", [])
    places = [i for i, step in enumerate(pipeline) if "ImageFromFile" in str(step["type"])]
    if not places:
        raise ValueError(
            "config: no step LoadImageFromFile in test_dataloader's pipeline; the corruption belongs behind it."
        )
    pipeline.insert(places[0] + 1, {"images": image_folder(dataset), **corruption})


def find_metric(found: Sequence[Mapping[str, float]], wanted: str | None = None) -> str:
    """Finds the name of the metric that robustness is computed of.

    Args:
        found: metrics of evaluations; a model that detected nothing has none.
        wanted: name of the metric. Defaults to the first of :data:`METRICS` that was evaluated.

    Returns:
        The name.

    Raises:
        ValueError: if the evaluations have no such number.
    """
    names = list(dict.fromkeys(name for metrics in found for name in metrics))
    for candidate in [wanted] if wanted else METRICS:
        if candidate in names or not names:
            return candidate
    raise ValueError(
        f"--metric: expected {wanted or 'one of ' + ', '.join(METRICS)}, the evaluator gave {', '.join(names)}."
    )


def summarise(results: Mapping[str, Any], metric: str, corruptions: Sequence[str]) -> dict[str, Any]:
    """Computes P, P(c, s), mPC and rPC of one model, in percent.

    Args:
        results: ``clean`` -> metrics (if clean images were evaluated), ``corrupted`` ->
            corruption -> severity -> metrics. A model that detected nothing has no metrics: 0.
        metric: name of the metric.
        corruptions: corruptions to average over.

    Returns:
        ``P``, ``mPC``, ``rPC`` (None where unknown), and ``by_corruption`` -> severity -> value.
    """
    scale = METRICS.get(metric, 1)
    table = {
        corruption: {severity: scale * metrics.get(metric, 0.0) for severity, metrics in by_severity.items()}
        for corruption, by_severity in results["corrupted"].items()
    }
    clean = scale * results["clean"].get(metric, 0.0) if "clean" in results else None
    means = [float(np.mean(list(table[corruption].values()))) for corruption in corruptions]
    corrupted = float(np.mean(means)) if means else None
    return {
        "P": clean,
        "mPC": corrupted,
        "rPC": 100 * corrupted / clean if corrupted is not None and clean else None,
        "by_corruption": table,
    }
