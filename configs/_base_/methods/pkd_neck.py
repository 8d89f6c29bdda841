# PKD on the neck's maps of a DETR, with its weight for detectors: no configuration is published (arXiv 2207.02039).
# A leaf takes `pkd` as its `model`.
_base_ = ["./cwd_neck.py"]

pkd = _base_.method
pkd.distiller.distill_losses = dict(
    _delete_=True, **{f"loss_neck{level}": dict(type="PKDLoss", loss_weight=6) for level in range(3)}
)
