# MGD on the last map of a segmenter's backbone (arXiv 2205.01529).
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _scope_="mmrazor",
    type="PartialTeacherDistill",
    architecture=dict(type="StockModel"),
    teacher=dict(type="StockModel"),
    distiller=dict(
        type="LevelDistiller",
        source="backbone",
        levels="last",
        loss=dict(type="MGDLoss", alpha_mgd=2e-5),
        connector=dict(type="MGDConnector", lambda_mgd=0.75),
    ),
)
find_unused_parameters = True
