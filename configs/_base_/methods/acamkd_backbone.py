# ACAM-KD on the last map of a segmenter's backbone, a mask for each of Cityscapes' 19 classes (arXiv 2503.06307).
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
        loss=dict(type="ACAMKDLoss", num_masks=19),
        parts=True,
    ),
)
find_unused_parameters = True
