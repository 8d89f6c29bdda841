# CamVid's driving scenes (docs/study.md) at half their size, and the study's schedule: about 7 epochs.
_base_ = ["mmseg::_base_/default_runtime.py"]
custom_imports = dict(imports=["cankd.openmmlab"])

names = "Sky Building Pole Road Pavement Tree SignSymbol Fence Car Pedestrian Bicyclist"
own_data = dict(
    root="data/camvid/",
    classes=names.split(),
    void=11,
    train=dict(images="images/train", masks="labels/train"),
    val=dict(images="images/val", masks="labels/val"),
    test=dict(images="images/test", masks="labels/test"),
)
load, masks, scale = dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), (240, 180)
train_pipeline = [
    load,
    masks,
    dict(type="RandomResize", scale=scale, ratio_range=(0.8, 1.6), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(128, 128)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
pipeline = [load, dict(type="Resize", scale=scale), masks, dict(type="PackSegInputs")]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(type="BaseSegDataset", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="BaseSegDataset", pipeline=pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

max_iters = 600
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=200)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05))
param_scheduler = [dict(type="OneCycleLR", eta_max=2e-3, total_steps=max_iters, by_epoch=False)]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=max_iters, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
