"""Compares the last stages of student and teacher behind the connector, as the segmentation recipes do."""

recorders1 = dict(backbone=dict(_scope_="mmrazor", type="ModuleOutputs", source="backbone.layer4"))
recorders2 = dict(backbone=dict(_scope_="mmrazor", type="ModuleOutputs", source="backbone.layer4"))
mappings1 = dict(backbone=dict(recorder="backbone", connector="backbone"))
mappings2 = dict(backbone=dict(recorder="backbone"))
