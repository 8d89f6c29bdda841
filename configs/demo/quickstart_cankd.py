# The quickstart's student under its teacher: CanKD on all four FPN levels.
_base_ = ["../_base_/fpn.py", "./quickstart_data.py"]

model = dict(
    architecture=dict(cfg="{{ fileDirname }}/quickstart_student.py"),
    teacher=dict(cfg="{{ fileDirname }}/quickstart_teacher.py"),
    teacher_ckpt="{{ fileDirname }}/quickstart_teacher.pth",
    distiller=dict(loss=dict(in_channels=64, loss_weight=4)),
)
