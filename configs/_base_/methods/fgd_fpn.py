# FGD on a neck's five finest maps, with the weights of RetinaNet and GFL (arXiv 2111.11837). The ground truth boxes
# come from the inputs of the student, which are recorded as `model`.
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
        loss=dict(type="FGDLoss"),
        parts=True,
        student_recorders=dict(model=dict(type="ModuleInputs", source="")),
        extra_inputs=dict(data_samples=dict(recorder="model", from_student=True, data_idx=1)),
    ),
)
find_unused_parameters = True
