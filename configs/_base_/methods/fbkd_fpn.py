# FBKD (the paper's FKD, ICLR 2021) on a neck's four finest maps; the weight is for one-stage detectors, else it is 1.
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
        loss=dict(type="FBKDLoss", loss_weight=6),
        student_connector=dict(type="FBKDStudentConnector", mode="dot_product", sub_sample=True),
        teacher_connector=dict(type="FBKDTeacherConnector", mode="dot_product", sub_sample=True),
        connectors=dict(
            Student0=dict(reduction=4, maxpool_stride=8),
            Student1=dict(reduction=4, maxpool_stride=4),
            Teacher0=dict(reduction=4, maxpool_stride=8),
            Teacher1=dict(reduction=4, maxpool_stride=4),
        ),
    ),
)
find_unused_parameters = True
