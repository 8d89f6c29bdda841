# ACAM-KD on a neck's five finest maps, six masks of each kind (arXiv 2503.06307).
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
        levels=5,
        loss=dict(type="ACAMKDLoss", num_masks=6),
        parts=True,
    ),
)
find_unused_parameters = True
