"""Writes predictions to a file, for the analysis tools."""

from __future__ import annotations

from typing import Any, Sequence

from mmdet.evaluation import DumpDetResults


class DumpPredictions(DumpDetResults):
    """Writes predictions of any task as mmdet does, without a segmenter's logits.

    Logits would be 19 floats for each pixel of Cityscapes; the class of each pixel is enough.
    """

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps the predictions of a batch."""
        super().process(data_batch, [{k: v for k, v in s.items() if k != "seg_logits"} for s in data_samples])
