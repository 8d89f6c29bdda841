_base_ = ["./cankd_neck_dino_swin-l_dino_swin-b_12e_coco.py"]

custom_hooks = [dict(type="InheritTeacherHook", modules=["encoder", "decoder", "bbox_head"])]
