# CrossKD alone, with the published weights (arXiv 2306.11369).
custom_imports = dict(imports=["cankd.openmmlab"])

model = dict(
    _scope_="mmrazor",
    type="CrossKD",
    architecture=dict(type="StockModel"),
    teacher=dict(type="StockModel"),
    distiller=dict(type="ConfigurableDistiller"),
)
