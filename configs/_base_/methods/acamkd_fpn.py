# ACAM-KD on all five FPN levels, six masks of each kind (arXiv 2503.06307). A leaf takes `method` as its `model`.
method = dict(
    distiller=dict(
        type="PartsDistiller",
        distill_losses=dict(
            _delete_=True,
            **{f"loss_fpn{level}": dict(type="ACAMKDLoss", in_channels=256, num_masks=6) for level in range(5)},
        ),
        loss_forward_mappings={
            f"loss_fpn{level}": dict(
                s_feature=dict(recorder="fpn", from_student=True, data_idx=level),
                t_feature=dict(recorder="fpn", from_student=False, data_idx=level),
            )
            for level in range(5)
        },
    )
)
