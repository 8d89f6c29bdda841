_base_ = ["./acamkd-dagger_fpn_reppoints_x101_reppoints_r50_2x_coco.py"]

model = dict(
    teacher=dict(cfg="mmdet::reppoints/reppoints-moment_r101_fpn-gn_head-gn_2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/reppoints/"
    "reppoints_moment_r101_fpn_gn-neck%2Bhead_2x_coco/"
    "reppoints_moment_r101_fpn_gn-neck%2Bhead_2x_coco_20200329-4fbc7310.pth",
)
