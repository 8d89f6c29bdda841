# CrossKD as published (arXiv 2306.11369). A leaf adds the student's stock configuration, whose data, schedule and
# optimizer the published runs share: SGD, 0.01 for every 16 images. The student's own weight of each loss and the
# number of its convolutions are CrossKD's defaults.
custom_imports = dict(imports=["cankd.openmmlab"])

crosskd = dict(_scope_="mmrazor", type="CrossKD", distiller=dict(type="ConfigurableDistiller"))
