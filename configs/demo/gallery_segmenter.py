# A small PSPNet for the gallery of docs/visualization.md.
_base_ = ["mmseg::_base_/default_runtime.py", "./gallery_schedule.py"]
custom_imports = dict(imports=["cankd.openmmlab"])

norm = dict(type="BN", requires_grad=True)
model = dict(
    type="mmrazor.StockModel",
    cfg="mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py",
    data_preprocessor=dict(size=(96, 96)),
    pretrained=None,
    backbone=dict(base_channels=8, strides=(1, 1, 1, 1), norm_cfg=norm),
    decode_head=dict(in_channels=64, channels=16, num_classes=2, norm_cfg=norm, loss_decode=dict(class_weight=[1, 5])),
    auxiliary_head=dict(in_channels=32, channels=16, num_classes=2, norm_cfg=norm),
)
pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
dataset = dict(
    type="BaseSegDataset",
    data_root="data/gallery/train",
    data_prefix=dict(img_path="images", seg_map_path="labels"),
    img_suffix=".png",
    metainfo=dict(classes=("background", "digit"), palette=[[40, 40, 40], [255, 210, 0]]),
    pipeline=pipeline,
)
train_dataloader = dict(batch_size=16, sampler=dict(type="InfiniteSampler", shuffle=True), dataset=dataset)
val_dataloader = dict(
    batch_size=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(dataset, data_root="data/gallery/val", test_mode=True),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=400, save_optimizer=False))
randomness = dict(seed=0)
