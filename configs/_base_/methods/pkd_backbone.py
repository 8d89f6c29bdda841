# PKD on the last map of a segmenter's backbone, with its weight for detectors: the paper has no segmenters
# (arXiv 2207.02039).
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
        loss=dict(type="PKDLoss", loss_weight=6),
    ),
)
find_unused_parameters = True
