# ACAM-KD on a segmenter's last stage, a mask for each of Cityscapes' 19 classes (arXiv 2503.06307).
_base_ = ["../segmentation_cityscapes.py"]

model = dict(
    distiller=dict(
        loss=dict(_delete_=True, type="ACAMKDLoss", in_channels=2048, num_masks=19),
        parts=True,
    )
)
