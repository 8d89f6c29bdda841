_base_ = ["./cankd_neck_dino_r101_dino_r50_12e_coco.py"]

custom_hooks = [dict(type="InheritTeacherHook", modules=["neck", "encoder", "decoder", "bbox_head"])]
