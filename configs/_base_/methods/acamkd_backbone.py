# ACAM-KD on a segmenter's last stage, a mask for each of Cityscapes' 19 classes (arXiv 2503.06307).
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel"),
    teacher=dict(type="StockModel"),
    distiller=dict(
        type="LevelDistiller",
        source="backbone.layer4",
        loss=dict(type="ACAMKDLoss", in_channels=2048, num_masks=19),
        connector=dict(type="ConvModuleConnector", in_channel=512, out_channel=2048, norm_cfg=None, act_cfg=None),
        parts=True,
    ),
)
find_unused_parameters = True
