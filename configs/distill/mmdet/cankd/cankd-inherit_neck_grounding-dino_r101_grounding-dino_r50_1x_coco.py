_base_ = ["./cankd_neck_grounding-dino_r101_grounding-dino_r50_1x_coco.py"]

custom_hooks = [dict(type="InheritTeacherHook", modules=["bbox_head"])]
