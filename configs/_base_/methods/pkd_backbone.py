# PKD on a segmenter's last stage, with its weight for detectors: the paper has no segmenters (arXiv 2207.02039).
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel"),
    teacher=dict(type="StockModel"),
    distiller=dict(
        type="LevelDistiller",
        source="backbone.layer4",
        loss=dict(type="PKDLoss", loss_weight=6),
        connector=dict(type="ConvModuleConnector", in_channel=512, out_channel=2048, norm_cfg=None, act_cfg=None),
    ),
)
find_unused_parameters = True
