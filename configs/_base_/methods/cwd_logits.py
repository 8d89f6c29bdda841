# CWD on a segmenter's class scores, as mmrazor configures it (arXiv 2011.13256).
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel"),
    teacher=dict(type="StockModel"),
    distiller=dict(
        type="LevelDistiller",
        source="decode_head.conv_seg",
        name="logits",
        loss=dict(type="ChannelWiseDivergence", tau=1, loss_weight=5),
    ),
)
find_unused_parameters = True
