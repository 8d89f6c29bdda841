_base_ = ["../../../_base_/dino_neck.py"]

swin_b = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window12_384_22k.pth"
model = dict(
    architecture=dict(
        cfg="mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py",
        backbone=dict(embed_dims=128, num_heads=[4, 8, 16, 32], drop_path_rate=0.3, init_cfg=dict(checkpoint=swin_b)),
        neck=dict(in_channels=[128, 256, 512, 1024]),
    ),
    teacher=dict(cfg="mmdet::dino/dino-5scale_swin-l_8xb2-36e_coco.py"),
    teacher_ckpt="https://github.com/RistoranteRist/mmlab-weights/releases/download/dino-swinl/"
    "dino-5scale_swin-l_8xb2-36e_coco-5486e051.pth",
    distiller=dict(levels=[0, 1, 2, 3]),
)
custom_hooks = [dict(type="InheritTeacherHook", modules=["encoder", "decoder"], lasting=False)]
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=2)
