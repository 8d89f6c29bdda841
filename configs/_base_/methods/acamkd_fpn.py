# ACAM-KD on all five FPN levels, six masks of each kind (arXiv 2503.06307).
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
        levels=[0, 1, 2, 3, 4],
        loss=dict(type="ACAMKDLoss", in_channels=256, num_masks=6),
        parts=True,
    ),
)
find_unused_parameters = True
