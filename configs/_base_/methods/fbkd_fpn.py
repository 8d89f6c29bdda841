# FBKD (the paper's FKD, ICLR 2021) on FPN levels 0 to 3, as mmrazor configures it for a two-stage detector. As
# published, one-stage detectors have six times its weights.
method = dict(
    distiller=dict(
        connectors={
            f"{side}{level}": dict(
                type=f"FBKD{side}Connector", in_channels=256, mode="dot_product", sub_sample=True, **pooling
            )
            for side in ("Student", "Teacher")
            for level, pooling in enumerate(
                [dict(reduction=4, maxpool_stride=8), dict(reduction=4, maxpool_stride=4), {}, {}]
            )
        },
        distill_losses=dict(
            _delete_=True, **{f"loss_fpn{level}": dict(type="FBKDLoss", loss_weight=6) for level in range(4)}
        ),
        loss_forward_mappings=dict(
            _delete_=True,
            **{
                f"loss_fpn{level}": dict(
                    s_input=dict(recorder="fpn", from_student=True, data_idx=level, connector=f"Student{level}"),
                    t_input=dict(recorder="fpn", from_student=False, data_idx=level, connector=f"Teacher{level}"),
                )
                for level in range(4)
            },
        ),
    )
)
