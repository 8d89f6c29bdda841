_base_ = ["./crosskd_head_gfl_r101_gfl_r50_1x_coco.py"]

# PKD beside CrossKD, on all five FPN levels (arXiv 2306.11369).
model = dict(
    distiller=dict(
        type="LevelDistiller",
        source="neck",
        name="fpn",
        levels=[0, 1, 2, 3, 4],
        loss=dict(type="PKDLoss", loss_weight=6),
    )
)
