# FBKD (the paper's FKD, ICLR 2021) on a segmenter's last stage, with its weights for detectors: the paper has no
# segmenters. The student's map gets the teacher's channels first.
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel"),
    teacher=dict(type="StockModel"),
    distiller=dict(
        type="LevelDistiller",
        source="backbone.layer4",
        loss=dict(type="FBKDLoss"),
        student_connector=[
            dict(type="ConvModuleConnector", in_channel=512, out_channel=2048, norm_cfg=None, act_cfg=None),
            dict(type="FBKDStudentConnector", in_channels=2048, reduction=4, sub_sample=True, maxpool_stride=4),
        ],
        teacher_connector=dict(
            type="FBKDTeacherConnector", in_channels=2048, reduction=4, sub_sample=True, maxpool_stride=4
        ),
    ),
)
find_unused_parameters = True
