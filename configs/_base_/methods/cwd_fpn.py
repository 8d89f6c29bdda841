# CWD on a neck's five finest maps, as mmrazor configures it (arXiv 2011.13256).
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel"),
    teacher=dict(type="StockModel"),
    distiller=dict(
        type="LevelDistiller",
        source="neck",
        name="fpn",
        levels=5,
        loss=dict(type="ChannelWiseDivergence", tau=1, loss_weight=10),
    ),
)
find_unused_parameters = True
