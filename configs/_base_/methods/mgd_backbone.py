# MGD on a segmenter's last stage (arXiv 2205.01529).
_base_ = ["../segmentation_cityscapes.py"]

model = dict(
    distiller=dict(
        loss=dict(_delete_=True, type="MGDLoss", alpha_mgd=2e-5),
        connector=dict(
            _delete_=True, type="MGDConnector", student_channels=512, teacher_channels=2048, lambda_mgd=0.75
        ),
    )
)
