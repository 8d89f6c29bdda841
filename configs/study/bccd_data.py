# The quickstart on other data, BCCD's photographs of blood cells (docs/study.md), and with a shorter schedule.
_base_ = ["../demo/quickstart_student.py"]

data_root = "data/bccd/"
load = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(256, 192))]
boxes = dict(type="LoadAnnotations", with_bbox=True)
meta_keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
dataset = dict(
    data_root=data_root,
    data_prefix=dict(img="images/"),
    metainfo=dict(classes=("RBC", "WBC", "Platelets")),
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        ann_file="annotations/instances_train.json",
        pipeline=[
            load[0],
            boxes,
            load[1],
            dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
            dict(type="PackDetInputs"),
        ],
        **dataset,
    ),
)
pipeline = [*load, boxes, dict(type="PackDetInputs", meta_keys=meta_keys)]
val_dataloader = dict(dataset=dict(ann_file="annotations/instances_val.json", pipeline=pipeline, **dataset))
val_evaluator = dict(ann_file=data_root + "annotations/instances_val.json")
test_dataloader = dict(dataset=dict(ann_file="annotations/instances_test.json", pipeline=pipeline, **dataset))
test_evaluator = dict(ann_file=data_root + "annotations/instances_test.json")

max_iters = 600
train_cfg = dict(max_iters=max_iters, val_interval=100)
param_scheduler = [dict(type="OneCycleLR", eta_max=1e-3, total_steps=max_iters, by_epoch=False)]
