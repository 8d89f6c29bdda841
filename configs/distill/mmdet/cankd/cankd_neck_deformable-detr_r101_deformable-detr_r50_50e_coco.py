# Beyond the paper. No checkpoint of the teacher is published; train it first:
# bash tools/dist_train.sh configs/teachers/deformable-detr_r101_16xb2-50e_coco.py 16
_base_ = ["../../../_base_/detr_neck.py", "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"]

detr = dict(type="StockModel", cfg="mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py")
model = dict(
    _delete_=True,
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=detr,
    teacher=dict(detr, backbone=dict(depth=101)),
    teacher_ckpt="work_dirs/deformable-detr_r101_16xb2-50e_coco/epoch_50.pth",
    distiller=_base_.distiller,
)
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
