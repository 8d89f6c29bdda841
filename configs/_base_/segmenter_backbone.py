# CanKD on the last map of a segmenter's backbone; where channels differ, a 1x1 convolution maps the student's to the
# teacher's.
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
        loss=dict(type="NLKDINLoss", loss_weight=10),
    ),
)
find_unused_parameters = True
