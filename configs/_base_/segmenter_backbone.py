# CanKD on the last stage of a segmenter's backbone; a 1x1 convolution maps the student's channels to the teacher's.
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel"),
    teacher=dict(type="StockModel"),
    distiller=dict(
        type="LevelDistiller",
        source="backbone.layer4",
        loss=dict(type="NLKDINLoss", in_channels=2048, loss_weight=10),
        connector=dict(type="ConvModuleConnector", in_channel=512, out_channel=2048, norm_cfg=None, act_cfg=None),
    ),
)
find_unused_parameters = True
