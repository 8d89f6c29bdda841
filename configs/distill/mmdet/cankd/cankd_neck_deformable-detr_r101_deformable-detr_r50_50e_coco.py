# Beyond the paper. No checkpoint of the teacher is published; train it first:
# bash tools/dist_train.sh configs/teachers/deformable-detr_r101_16xb2-50e_coco.py 16
_base_ = ["mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"]
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _delete_=True,  # replaces the model of the base
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel", cfg="mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"),
    teacher=dict(
        type="StockModel", cfg="mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py", backbone=dict(depth=101)
    ),
    teacher_ckpt="work_dirs/deformable-detr_r101_16xb2-50e_coco/epoch_50.pth",
    distiller=dict(
        type="LevelDistiller",
        source="neck",
        levels=[0, 1, 2],
        loss=dict(type="NLKDINLoss", in_channels=256, loss_weight=10),
    ),
)
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
