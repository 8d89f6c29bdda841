"""The neck's maps of one-stage detectors, whose FPN starts at stride 8."""

recorders = dict(neck=dict(_scope_="mmrazor", type="ModuleOutputs", source="neck"))
mappings = {f"p{level + 3}": dict(recorder="neck", data_idx=level) for level in range(4)}
