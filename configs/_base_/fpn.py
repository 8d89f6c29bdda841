# CanKD on a neck's four finest maps, which are P3-P6 of one-stage and P2-P5 of two-stage detectors. The teacher runs up
# to its neck.
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
        loss=dict(type="NLKDINLoss", loss_weight=10),
    ),
)
find_unused_parameters = True
