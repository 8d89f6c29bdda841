# FBKD (the paper's FKD, ICLR 2021) on a segmenter's last stage, with its weights for detectors: the paper has no
# segmenters. The student's map gets the teacher's channels first.
_base_ = ["../segmentation_cityscapes.py"]

model = dict(
    distiller=dict(
        loss=dict(_delete_=True, type="FBKDLoss"),
        connector=None,
        student_connector=[
            dict(type="ConvModuleConnector", in_channel=512, out_channel=2048, norm_cfg=None, act_cfg=None),
            dict(type="FBKDStudentConnector", in_channels=2048, reduction=4, sub_sample=True, maxpool_stride=4),
        ],
        teacher_connector=dict(
            type="FBKDTeacherConnector", in_channels=2048, reduction=4, sub_sample=True, maxpool_stride=4
        ),
    )
)
