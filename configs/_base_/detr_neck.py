# CanKD on the neck's maps 0 to 2 of a DETR. A stock DETR file has a model of its own beside data and schedule, so this
# file holds the distiller alone; a leaf names it in the `model` that replaces the stock one.
custom_imports = dict(imports=["cankd.openmmlab"])

distiller = dict(
    type="LevelDistiller",
    source="neck",
    levels=[0, 1, 2],
    loss=dict(type="NLKDINLoss", in_channels=256, loss_weight=10),
)
