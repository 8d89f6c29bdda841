# PKD on a segmenter's last stage, with its weight for detectors: the paper has no segmenters (arXiv 2207.02039).
_base_ = ["../segmentation_cityscapes.py"]

model = dict(distiller=dict(loss=dict(_delete_=True, type="PKDLoss", loss_weight=6)))
