# BCCD's student, trained alone: the quickstart's RetinaNet on strides 8 to 64, for about 12 epochs.
_base_ = ["./bccd_data.py"]

model = dict(
    neck=dict(start_level=1),
    bbox_head=dict(num_classes=3, anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32, 64])),
)
