# FBKD (the paper's FKD, ICLR 2021) on a segmenter's last stage, with its weights for detectors: the paper has no
# segmenters. The student's map gets the teacher's channels first.
method = dict(
    distiller=dict(
        connectors=dict(
            _delete_=True,
            Student=[
                dict(type="ConvModuleConnector", in_channel=512, out_channel=2048, norm_cfg=None, act_cfg=None),
                dict(type="FBKDStudentConnector", in_channels=2048, reduction=4, sub_sample=True, maxpool_stride=4),
            ],
            Teacher=dict(type="FBKDTeacherConnector", in_channels=2048, reduction=4, sub_sample=True, maxpool_stride=4),
        ),
        distill_losses=dict(loss_backbone=dict(_delete_=True, type="FBKDLoss")),
        loss_forward_mappings=dict(
            loss_backbone=dict(
                _delete_=True,
                s_input=dict(recorder="backbone", from_student=True, connector="Student"),
                t_input=dict(recorder="backbone", from_student=False, connector="Teacher"),
            )
        ),
    )
)
