"""The neck's maps of two-stage detectors and of the quickstart's, whose FPN starts at stride 4."""

recorders = dict(neck=dict(_scope_="mmrazor", type="ModuleOutputs", source="neck"))
mappings = {f"p{level + 2}": dict(recorder="neck", data_idx=level) for level in range(4)}
