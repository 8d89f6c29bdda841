# MGD on a neck's five finest maps, with the weights of one-stage detectors (arXiv 2205.01529).
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
        loss=dict(type="MGDLoss", alpha_mgd=2e-5),
        connector=dict(type="MGDConnector", lambda_mgd=0.65),
    ),
)
find_unused_parameters = True
