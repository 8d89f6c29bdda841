# No checkpoint of the teacher is published; train it first:
# bash tools/dist_train.sh configs/teachers/dino-4scale_r101_8xb2-12e_coco.py 8
_base_ = ["../../../_base_/dino_neck.py"]

model = dict(
    architecture=dict(cfg="mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py", backbone=dict(frozen_stages=-1)),
    teacher=dict(cfg="mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py", backbone=dict(depth=101)),
    teacher_ckpt="work_dirs/dino-4scale_r101_8xb2-12e_coco/epoch_12.pth",
)
# As published: mmdet then initialises the matrices of encoder and decoder anew, and the whole head.
custom_hooks = [dict(type="InheritTeacherHook", modules=["neck", "encoder", "decoder"], lasting=False)]
auto_scale_lr = dict(base_batch_size=4)
