# CWD on a segmenter's class scores, as mmrazor configures it (arXiv 2011.13256).
_base_ = ["../segmentation_cityscapes.py"]

model = dict(
    distiller=dict(
        source="decode_head.conv_seg",
        name="logits",
        loss=dict(_delete_=True, type="ChannelWiseDivergence", tau=1, loss_weight=5),
        connector=None,
    )
)
