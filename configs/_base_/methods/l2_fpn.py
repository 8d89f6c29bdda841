# Plain feature mimicking on a neck's four finest maps: CanKD without its block, with its weight (CanKD, table 6).
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel"),
    teacher=dict(type="StockModel"),
    distiller=dict(
        type="LevelDistiller",
        source="neck",
        name="fpn",
        levels=4,
        loss=dict(type="FeatureMSELoss", loss_weight=10),
    ),
)
find_unused_parameters = True
