# No checkpoint of the teacher is published; train it first:
# bash tools/dist_train.sh configs/teachers/dino-4scale_r101_8xb2-12e_coco.py 8
_base_ = ["../../../_base_/detr_neck.py", "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"]

dino = dict(type="StockModel", cfg="mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py")
model = dict(
    _delete_=True,
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(dino, backbone=dict(frozen_stages=-1)),
    teacher=dict(dino, backbone=dict(depth=101)),
    teacher_ckpt="work_dirs/dino-4scale_r101_8xb2-12e_coco/epoch_12.pth",
    distiller=_base_.distiller,
)
# As published: mmdet then initialises the matrices of encoder and decoder anew, and the whole head.
custom_hooks = [dict(type="InheritTeacherHook", modules=["neck", "encoder", "decoder"], lasting=False)]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
