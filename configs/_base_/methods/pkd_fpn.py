# PKD on a neck's four finest maps, as mmrazor configures it (arXiv 2207.02039).
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
        loss=dict(type="PKDLoss", loss_weight=6),
    ),
)
find_unused_parameters = True
