# mmyolo's recipe; with mmyolo's own models 44.6 -> 45.7 box AP: CWD of normalised maps, without it from epoch 280 on.
_base_ = "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py"
custom_imports = dict(imports=["cankd.openmmlab"])
norm = dict(type="BN", affine=False, track_running_stats=False)
convolution = dict(type="ConvModuleConnector", in_channel=128, out_channel=192, bias=False, norm_cfg=norm, act_cfg=None)
stop = dict(type="mmrazor.StopDistillHook", stop_epoch=280)
model = dict(
    _delete_=True,
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel", cfg="mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py"),
    teacher=dict(type="StockModel", cfg="mmdet::rtmdet/rtmdet_m_8xb32-300e_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_m_8xb32-300e_coco/"
    "rtmdet_m_8xb32-300e_coco_20220719_112220-229f527c.pth",
    distiller=dict(
        type="LevelDistiller",
        source="neck.out_convs.{level}.conv",
        levels=[0, 1, 2],
        loss=dict(type="ChannelWiseDivergence", loss_weight=1),
        student_connector=convolution,
        teacher_connector=dict(type="NormConnector", in_channels=192, norm_cfg=norm),
    ),
)
find_unused_parameters = True
default_hooks = dict(checkpoint=dict(type="DistillCheckpointHook"), stop=stop)
