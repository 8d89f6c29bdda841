# Plain feature mimicking of a segmenter's last stage: CanKD without its block, with its weight.
_base_ = ["../segmentation_cityscapes.py"]

model = dict(distiller=dict(loss=dict(_delete_=True, type="FeatureMSELoss", loss_weight=10)))
