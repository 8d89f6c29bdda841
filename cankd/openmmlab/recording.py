"""Records inputs, outputs and calls of modules, by hooks of PyTorch and by mmrazor's recorders."""

from __future__ import annotations

import contextlib
import difflib
import functools
from typing import Any, Callable, Iterator, Mapping, Sequence, Tuple

import torch
from mmengine.model import BaseModel
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules import RecorderManager
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from mmrazor.models.task_modules.recorder.param_recorder import ParameterRecorder
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cankd.openmmlab.connectors import set_image_sizes
from cankd.openmmlab.preprocessing import TeacherImages, crop_maps

# Place of an output among all outputs of a module: record_idx, then data_idx and further indices of nested outputs.
OutputIndex = Tuple[int, ...]


# Hooks of PyTorch.


@contextlib.contextmanager
def _removed(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Removes hooks at the end of the block."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def recorded_inputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Any]]]:
    """Records the first argument of every call of some modules inside the block.

    Args:
        modules: name -> module.

    Yields:
        Name -> the arguments in the order of the calls.
    """
    records: dict[str, list[Any]] = {name: [] for name in modules}

    def hook(name: str, module: nn.Module, inputs: tuple) -> None:
        records[name].append(inputs[0])

    handles = [module.register_forward_pre_hook(functools.partial(hook, name)) for name, module in modules.items()]
    with _removed(handles):
        yield records


@contextlib.contextmanager
def recorded_outputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """Records what the last call of some modules inside the block returned.

    Args:
        modules: name -> module.

    Yields:
        Name -> the output; a module that is not called has none.
    """
    records: dict[str, Any] = {}

    def hook(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        records[name] = output

    handles = [module.register_forward_hook(functools.partial(hook, name)) for name, module in modules.items()]
    with _removed(handles):
        yield records


@contextlib.contextmanager
def recorded_calls(owner: Any, method: str) -> Iterator[list[tuple[tuple, Any]]]:
    """Records the calls of an object's method inside the block.

    Args:
        owner: object that has the method.
        method: name of the method.

    Yields:
        The positional arguments and the result of each call.
    """
    calls: list[tuple[tuple, Any]] = []
    original = getattr(owner, method)

    def recording(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        calls.append((args, result))
        return result

    setattr(owner, method, recording)
    try:
        yield calls
    finally:
        delattr(owner, method)  # of the object: its class's own is found again


def watch_calls(modules: Mapping[str, nn.Module], until: nn.Module, then: Callable[[set[str]], None]) -> None:
    """Collects the modules that are called before the first call of ``until``.

    Args:
        modules: name -> module to watch.
        until: module whose next call ends the watch.
        then: function that gets the names of the modules that were called; it may raise an error.
    """
    called: set[str] = set()
    handles: list[RemovableHandle] = []

    def note(name: str, *_: Any) -> None:
        called.add(name)

    def end(*_: Any) -> None:
        for handle in handles:
            handle.remove()
        then(called)

    handles += [module.register_forward_pre_hook(functools.partial(note, name)) for name, module in modules.items()]
    handles.append(until.register_forward_pre_hook(end))


@torch.no_grad()
def module_shapes(
    model: BaseModel, data: Mapping[str, Any], whole: bool = True
) -> dict[str, dict[OutputIndex, tuple[int, ...]]]:
    """Finds the shape of every tensor that each module returns when the model predicts.

    Args:
        model: model in eval mode.
        data: batch that its ``data_preprocessor`` returned.
        whole: whether the model predicts; with False it only extracts its features, by backbone and neck. Defaults to
            True.

    Returns:
        Name of the module -> index of the output, see :data:`OutputIndex` -> shape. A module that
        does not run (such as an auxiliary head, which only training uses) has none.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    shapes: dict[str, dict[OutputIndex, tuple[int, ...]]] = {name: {} for name in modules}
    calls = dict.fromkeys(modules, 0)

    def collect(name: str, index: OutputIndex, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[name][index] = tuple(output.shape)
        elif isinstance(output, (list, tuple)):
            for i, part in enumerate(output):
                collect(name, (*index, i), part)

    def hook(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        collect(name, (calls[name],), output)
        calls[name] += 1

    handles = [module.register_forward_hook(functools.partial(hook, name)) for name, module in modules.items()]
    with _removed(handles):
        if whole:
            model(**data, mode="predict")
        else:
            model.extract_feat(data["inputs"])
    return shapes


@contextlib.contextmanager
def maps_of_training(backbone: nn.Module) -> Iterator[None]:
    """Makes a backbone in eval mode return what it returns in training, as PIDNet's and DDRNet's return further maps.

    Its batch norms and dropout stay in eval mode.

    Args:
        backbone: backbone of a model.
    """
    backbone.training = True  # of the backbone itself; the modules inside stay as they are
    try:
        yield
    finally:
        backbone.training = False


def shapes_in_training(model: BaseModel, data: Mapping[str, Any]) -> dict[OutputIndex, tuple[int, ...]]:
    """Finds the shapes of a backbone's maps in training.

    Args:
        model: model in eval mode.
        data: batch that its ``data_preprocessor`` returned.

    Returns:
        Index of the output, see :data:`OutputIndex` -> shape.
    """
    with maps_of_training(model.backbone):
        return module_shapes(model, data, whole=False)["backbone"]


# mmrazor's recorders.


class _WatchedBuffer(list):
    """A recorder's records that call a function after each one."""

    def __init__(self, after_record: Callable[[], None]) -> None:
        super().__init__()
        self._after_record = after_record

    def append(self, record: Any) -> None:
        super().append(record)
        self._after_record()


def watch_records(recorder: BaseRecorder, after_record: Callable[[], None]) -> None:
    """Makes a recorder call a function after each record, from its next reset on.

    Args:
        recorder: recorder that appends its records.
        after_record: function to call; an error that it raises ends the model's forward pass.
    """
    recorder.reset_data_buffer = functools.partial(_reset_watched, recorder, after_record)


def _reset_watched(recorder: BaseRecorder, after_record: Callable[[], None]) -> None:
    # Private, because mmrazor has no other way to learn of a record: all its kinds of recorders (hooks, wrapped
    # functions and methods) append to this list and tell nobody.
    recorder._data_buffer = _WatchedBuffer(after_record)


def release_records(distiller: ConfigurableDistiller) -> None:
    """Empties all recorders of a distiller, so that no feature map outlives its step.

    Args:
        distiller: distiller whose losses have been computed.
    """
    for manager in (distiller.teacher_recorders, distiller.student_recorders):
        for recorder in manager.recorders.values():
            recorder.reset_data_buffer()


def fit_teacher_records(distiller: ConfigurableDistiller, images: Tensor, inputs: Tensor) -> None:
    """Crops the maps that the teacher's recorders hold to the extent of the student's images, if these are smaller.

    The connectors that make maps of tokens are told the sizes of both.

    Args:
        distiller: distiller whose recorders hold the teacher's records.
        images: images of the teacher, (B, 3, H', W').
        inputs: images of the student, (B, 3, H, W).
    """
    sizes = {True: inputs.shape[2:], False: images.shape[2:]}
    for mappings in distiller.loss_forward_mappings.values():
        for mapping in mappings.values():
            if mapping.get("connector"):
                set_image_sizes(distiller.connectors[mapping["connector"]], sizes[mapping["from_student"]], sizes[True])
    if images.shape == inputs.shape:
        return
    for recorder in distiller.teacher_recorders.recorders.values():
        if not isinstance(recorder, ParameterRecorder):
            recorder.data_buffer[:] = crop_maps(list(recorder.data_buffer), images, inputs)


def describe_records(record: Any) -> str:
    """Describes a recorder's ``data_buffer``, or a record in it, by the shapes of its tensors."""
    if isinstance(record, Tensor):
        return str(tuple(record.shape))
    if isinstance(record, (list, tuple)):
        return f"[{', '.join(describe_records(part) for part in record)}]"
    return type(record).__name__


def record_predictions(
    distiller: ConfigurableDistiller,
    student: BaseModel,
    teacher: BaseModel,
    data: Mapping[str, Any],
    teacher_images: TeacherImages | None = None,
) -> None:
    """Fills a distiller's recorders: both models predict for one batch.

    Where a loss reads one of several maps that a backbone returns in training alone, the backbone runs again for them.

    Args:
        distiller: distiller whose recorders are attached to both models.
        student: student in eval mode.
        teacher: teacher in eval mode.
        data: batch that the student's ``data_preprocessor`` returned.
        teacher_images: what makes the teacher's images of it, for a distillation with ``teacher_preprocess``.
            Defaults to None: the teacher gets the same batch.
    """
    inputs, images, samples = data["inputs"], data["inputs"], data["data_samples"]
    if teacher_images is not None:
        images, samples = teacher_images(inputs, samples)
    with distiller.student_recorders:
        student(**data, mode="predict")
    with distiller.teacher_recorders:
        teacher(images, samples, mode="predict")
    for mappings in distiller.loss_forward_mappings.values():
        for mapping in mappings.values():
            if mapping.get("data_idx") is not None:
                is_student = mapping["from_student"]
                manager = distiller.student_recorders if is_student else distiller.teacher_recorders
                recorder = manager.get_recorder(mapping["recorder"])
                _record_maps_of_training(recorder, *((student, inputs) if is_student else (teacher, images)))
    fit_teacher_records(distiller, images, inputs)


def _record_maps_of_training(recorder: BaseRecorder, model: BaseModel, images: Tensor) -> None:
    """Replaces a record of a backbone that is one map by all that the backbone returns in training."""
    if recorder.source == "backbone" and isinstance(recorder.data_buffer[0], Tensor):
        with maps_of_training(model.backbone):
            recorder.data_buffer[0] = model.backbone(images)


def nearest_names(name: str, names: Sequence[str]) -> str:
    """Returns the names most like one that does not exist, for an error message."""
    last = name.split(".")[-1]
    near = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
    near += [other for other in names if other.split(".")[-1] == last and other not in near]
    return ", ".join((near or [other for other in names if "." not in other])[:6])


class ModelRecorder:
    """Records what a single model's modules return, by mmrazor's recorders, while a ``with`` block runs.

    Args:
        model: model to record. Its in-place activations are switched off, so that a record stays as it was.
        recorders: name -> configuration of a recorder, as in mmrazor; a source may say ``architecture.neck`` for
            the model's ``neck``, as published files do.

    Raises:
        ValueError: if a recorder's source does not exist; the error names the nearest that do.
    """

    def __init__(self, model: nn.Module, recorders: Mapping[str, Any]) -> None:
        configs = {name: {"_scope_": "mmrazor", **_own_source(model, config)} for name, config in recorders.items()}
        for name, config in configs.items():
            _check_source(model, config, name)
        for module in model.modules():
            if isinstance(getattr(module, "inplace", None), bool):
                module.inplace = False  # type: ignore[assignment]
        self.manager = RecorderManager(configs)
        self.manager.initialize(model)

    def __enter__(self) -> ModelRecorder:
        """Starts recording, without what was recorded before."""
        self.manager.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stops recording."""
        self.manager.__exit__(*error)

    def record(self, mapping: str, recorder: str, record_idx: int = 0, data_idx: int | None = None) -> Any:
        """Returns one record.

        Args:
            mapping: name of the mapping that asks for it, for the error.
            recorder: name of the recorder.
            record_idx: number of the module's call. Defaults to 0.
            data_idx: number of the output among several. Defaults to None, for all of them.

        Raises:
            ValueError: if there is no such record; the error says how many there are.
        """
        found = self.manager.get_recorder(recorder)
        try:
            return found.get_record_data(record_idx, data_idx)
        except (AssertionError, TypeError) as error:
            records = found.data_buffer
            if record_idx >= len(records):
                problem = f"record_idx={record_idx}, but the module ran {len(records)} times"
            elif isinstance(records[record_idx], (list, tuple)):
                problem = f"data_idx={data_idx}, but the module put out {len(records[record_idx])} maps"
            else:
                problem = f"data_idx={data_idx}, but the module put out one map; leave data_idx out"
            raise ValueError(f"mapping {mapping!r} of recorder {recorder!r}: got {problem}.") from error


def no_such_source(side: str, name: str, source: str, modules: Sequence[str]) -> str:
    """Returns the error of a distiller's recorder whose source is no module.

    Args:
        side: ``student`` or ``teacher``.
        name: name of the recorder.
        source: its source.
        modules: names of the modules of this side's model.
    """
    near = difflib.get_close_matches(source, modules, n=3) or [other for other in modules if other and "." not in other]
    return (
        f"distiller.{side}_recorders.{name}: got source={source!r}, expected a module of the {side} like "
        f"{', '.join(near)}. Correct it; `cankd list-modules` lists all of them."
    )


def _own_source(model: nn.Module, recorder: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recorder's configuration whose source is a module of the model, not of a distillation around it."""
    source, prefix = str(recorder.get("source")), "architecture."
    if source.startswith(prefix) and not hasattr(model, "architecture"):
        return {**recorder, "source": source[len(prefix) :]}
    return dict(recorder)


def _check_source(model: nn.Module, recorder: Mapping[str, Any], name: str) -> None:
    """Refuses a recorder of modules or parameters whose source the model does not have."""
    kind = str(recorder.get("type"))
    if not kind.startswith(("Module", "Parameter")):
        return
    there = dict(model.named_parameters() if kind.startswith("Parameter") else model.named_modules())
    if recorder.get("source") not in there or not recorder["source"]:
        raise ValueError(
            f"recorder {name!r}: got source={recorder.get('source')!r}, which the model does not have; the nearest are "
            f"{nearest_names(str(recorder.get('source')), [key for key in there if key])}. "
            "`cankd list-modules CONFIG` lists all."
        )
