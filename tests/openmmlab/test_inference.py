"""Predictions of segmenters and classifiers."""

from __future__ import annotations

import pytest

from cankd.openmmlab.inference import predict, prepare
from cankd.openmmlab.loading import load_model
from cankd.openmmlab.visualization.cam import class_scores


def test_segmenters_and_classifiers_predict(segmenter, classifier, scene):
    model, cfg = load_model(*segmenter[:2])
    assert predict(model, cfg, segmenter[2]).pred_sem_seg.data.shape == (1, 60, 100)
    model, cfg = load_model(*classifier)
    assert class_scores(model, model.data_preprocessor(prepare(cfg, scene), False)).sum().item() == pytest.approx(1)
