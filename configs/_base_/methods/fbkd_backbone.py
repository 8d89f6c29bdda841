# FBKD (the paper's FKD, ICLR 2021) on the last map of a segmenter's backbone, with its weights for detectors: the paper
# has no segmenters.
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
        loss=dict(type="FBKDLoss"),
        student_connector=dict(type="FBKDStudentConnector", reduction=4, sub_sample=True, maxpool_stride=4),
        teacher_connector=dict(type="FBKDTeacherConnector", reduction=4, sub_sample=True, maxpool_stride=4),
    ),
)
find_unused_parameters = True
