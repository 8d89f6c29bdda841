# CrossKD as published (arXiv 2306.11369). A leaf inherits the student's stock configuration, whose data, schedule and
# optimizer the published runs share (SGD, 0.01 for every 16 images), and replaces the model there by `crosskd`. The
# weights of the losses are CrossKD's defaults.
custom_imports = dict(imports=["cankd.openmmlab"])

crosskd = dict(_scope_="mmrazor", type="CrossKD", distiller=dict(type="ConfigurableDistiller"))
