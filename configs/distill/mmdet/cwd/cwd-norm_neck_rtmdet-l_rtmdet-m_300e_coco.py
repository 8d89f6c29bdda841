# mmyolo's recipe; with mmyolo's own models 49.3 -> 50.2 box AP: CWD of normalised maps, without it from epoch 280 on.
_base_ = "mmdet::rtmdet/rtmdet_m_8xb32-300e_coco.py"
custom_imports = dict(imports=["cankd.openmmlab"])
norm = dict(type="BN", affine=False, track_running_stats=False)
convolution = dict(type="ConvModuleConnector", in_channel=192, out_channel=256, bias=False, norm_cfg=norm, act_cfg=None)
stop = dict(type="mmrazor.StopDistillHook", stop_epoch=280)
model = dict(
    _delete_=True,
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel", cfg="mmdet::rtmdet/rtmdet_m_8xb32-300e_coco.py"),
    teacher=dict(type="StockModel", cfg="mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_l_8xb32-300e_coco/"
    "rtmdet_l_8xb32-300e_coco_20220719_112030-5a0be7c4.pth",
    distiller=dict(
        type="LevelDistiller",
        source="neck.out_convs.{level}.conv",
        levels=[0, 1, 2],
        loss=dict(type="ChannelWiseDivergence", loss_weight=1),
        student_connector=convolution,
        teacher_connector=dict(type="NormConnector", in_channels=256, norm_cfg=norm),
    ),
)
find_unused_parameters = True
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"), stop=stop)
