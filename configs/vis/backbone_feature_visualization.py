"""The four maps that a detector's or a segmenter's backbone puts out."""

recorders = dict(backbone=dict(_scope_="mmrazor", type="ModuleOutputs", source="backbone"))
mappings = {f"c{level + 2}": dict(recorder="backbone", data_idx=level) for level in range(4)}
