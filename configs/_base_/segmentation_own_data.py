# A segmenter on data of one's own, which `own_data` describes (docs/your_data.md), for 80k iterations: the published
# optimizer, a validation that also evaluates the teacher, and checkpoints without the teacher.
_base_ = ["mmseg::_base_/schedules/schedule_80k.py", "mmseg::_base_/default_runtime.py"]

resize = dict(scale=(2048, 1024), keep_ratio=True)
load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
train_pipeline = [
    *load,
    dict(type="RandomResize", ratio_range=(0.5, 2.0), **resize),
    dict(type="RandomCrop", crop_size=(512, 1024), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [load[0], dict(type="Resize", **resize), load[1], dict(type="PackSegInputs")]
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(type="BaseSegDataset", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="BaseSegDataset", pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

auto_scale_lr = dict(enable=False, base_batch_size=4)
val_cfg = dict(type="DistillValLoop")
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"))
