# Plain feature mimicking of the last map of a segmenter's backbone: CanKD without its block, with its weight.
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel"),
    teacher=dict(type="StockModel"),
    distiller=dict(
        type="LevelDistiller",
        source="backbone",
        levels="last",
        loss=dict(type="FeatureMSELoss", loss_weight=10),
    ),
)
find_unused_parameters = True
