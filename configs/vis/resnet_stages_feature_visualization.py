"""The stages of a ResNet one by one: for classifiers, whose backbone puts out the last one only."""

recorders = {
    f"layer{i}": dict(_scope_="mmrazor", type="ModuleOutputs", source=f"backbone.layer{i}") for i in range(1, 5)
}
mappings = {f"layer{i}": dict(recorder=f"layer{i}") for i in range(1, 5)}
