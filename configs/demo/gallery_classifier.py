# A small ResNet for the gallery of docs/visualization.md: digits on photographs, cut out of the scenes.
_base_ = ["mmpretrain::_base_/default_runtime.py", "./gallery_schedule.py"]
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    type="mmrazor.StockModel",
    cfg="mmpretrain::resnet/resnet18_8xb32_in1k.py",
    backbone=dict(base_channels=16),
    head=dict(in_channels=128, num_classes=10, topk=(1,)),
)
pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(64, 64)), dict(type="PackInputs")]
dataset = dict(type="CustomDataset", data_root="data/gallery/train/digits", pipeline=pipeline)
train_dataloader = dict(
    batch_size=32, num_workers=0, sampler=dict(type="InfiniteSampler", shuffle=True), dataset=dataset
)
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(dataset, data_root="data/gallery/val/digits"),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=400, save_optimizer=False))
randomness = dict(_delete_=True, seed=0)
