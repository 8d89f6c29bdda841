# mmdet ships no R101 config of GroundingDINO and nobody its checkpoint; train it first:
# bash tools/dist_train.sh configs/teachers/grounding-dino_r101_scratch_8xb2_1x_coco.py 8
_base_ = ["../../../_base_/detr_neck.py", "mmdet::grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco.py"]

gdino = dict(type="StockModel", cfg="mmdet::grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco.py")
model = dict(
    _delete_=True,
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=gdino,
    teacher=dict(gdino, backbone=dict(depth=101)),
    teacher_ckpt="work_dirs/grounding-dino_r101_scratch_8xb2_1x_coco/epoch_12.pth",
    distiller=_base_.distiller,
)
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
