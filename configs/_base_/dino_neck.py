# CanKD on the three finest maps of DINO's neck, with its stock data and schedule. The stock file also holds a model,
# which is replaced here.
_base_ = ["mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"]
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _delete_=True,
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel"),
    teacher=dict(type="StockModel"),
    distiller=dict(
        type="LevelDistiller",
        source="neck",
        levels=3,
        loss=dict(type="NLKDINLoss", loss_weight=10),
    ),
)
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
