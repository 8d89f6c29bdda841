# mmdet ships no R101 config of GroundingDINO and nobody its checkpoint; train it first:
# bash tools/dist_train.sh configs/teachers/grounding-dino_r101_scratch_8xb2_1x_coco.py 8
_base_ = ["mmdet::grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco.py"]
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _delete_=True,  # replaces the model of the base
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel", cfg="mmdet::grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco.py"),
    teacher=dict(
        type="StockModel",
        cfg="mmdet::grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco.py",
        backbone=dict(depth=101),
    ),
    teacher_ckpt="work_dirs/grounding-dino_r101_scratch_8xb2_1x_coco/epoch_12.pth",
    distiller=dict(
        type="LevelDistiller",
        source="neck",
        levels=[0, 1, 2],
        loss=dict(type="NLKDINLoss", in_channels=256, loss_weight=10),
    ),
)
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
