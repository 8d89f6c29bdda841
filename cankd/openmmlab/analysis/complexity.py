"""Counts parameters and multiply-adds of distillation losses and whole models.

CanKD's table of losses (supplement, section 5) counts with thop, whose hooks see modules:
convolutions, linear layers and norms, but no matrix product. It calls multiply-adds FLOPs.
:class:`MultiplyAdds` counts the operations that torch runs instead, so the products of attention
are in it. Whole models (CanKD's table 4) are counted by mmengine, operator by operator.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Sequence

import thop
import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmrazor.registry import MODELS
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # torch documents it, but exports it nowhere else

from cankd.losses import FGDLoss, NLKDINLoss
from cankd.losses.cankd_naive import NaiveNLKDINLoss
from cankd.openmmlab.inference import noise_batch
from cankd.openmmlab.loading import build_model


def _operation_cost(name: str, args: tuple[Any, ...], out: Any) -> int:
    """Returns the multiply-adds of one operation of torch, 0 for those without sums of products."""
    if name == "convolution":
        inputs, weight, transposed = args[0], args[1], args[6]
        return (inputs if transposed else out).numel() * weight[0].numel()
    if name in ("mm", "bmm"):
        return out.numel() * args[0].shape[-1]
    if name in ("addmm", "baddbmm"):
        return out.numel() * args[1].shape[-1]
    if name.startswith("_scaled_dot_product"):
        query, key, value = args[:3]
        return query.numel() // query.shape[-1] * key.shape[-2] * (key.shape[-1] + value.shape[-1])
    return 0


class MultiplyAdds(TorchDispatchMode):
    """Counts the multiply-adds of convolutions and matrix products that run inside.

    Example:
        >>> import torch
        >>> from cankd.openmmlab.analysis.complexity import MultiplyAdds
        >>> with MultiplyAdds() as counter:
        ...     _ = torch.ones(2, 3) @ torch.ones(3, 5)
        >>> counter.total
        30
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Runs one operation and adds its cost."""
        out = func(*args, **(kwargs or {}))
        self.total += _operation_cost(func.overloadpacket.__name__, args, out)
        return out


class ConnectedLoss(nn.Module):
    """Loss of two maps that pass connectors first."""

    def __init__(self, loss: dict, student: dict | None = None, teacher: dict | None = None) -> None:
        super().__init__()
        self.student = MODELS.build(student) if student else nn.Identity()
        self.teacher = MODELS.build(teacher) if teacher else nn.Identity()
        self.loss = MODELS.build(loss)

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        """Returns the loss of two maps (B, C, H, W)."""
        return self.loss(self.student(s_feature), self.teacher(t_feature))


class BoxedFGDLoss(FGDLoss):
    """FGD with one box on each image, which covers it; further boxes add no product of matrices."""

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Returns the parts of the loss of two maps (B, C, H, W)."""
        height, width = s_feature.shape[2:]
        boxes = [torch.tensor([[0.0, 0.0, width, height]])] * len(s_feature)
        return super().forward(s_feature, t_feature, boxes, [(height, width)] * len(s_feature))


class Cost(NamedTuple):
    """Cost of one loss for one pair of maps; counts are multiply-adds of a forward pass."""

    parameters: int
    thop: int
    counted: int


def _counted(loss: nn.Module, student: Tensor, teacher: Tensor) -> int:
    with torch.no_grad(), MultiplyAdds() as counter:
        loss(student, teacher)
    return counter.total


def loss_costs(shape: tuple[int, int, int, int]) -> dict[str, Cost]:
    """Counts the costs of the losses in Table 5 of the supplement.

    FKD and MGD are mmrazor's modules with their defaults, FGD is this package's, CanKD is counted
    in the paper's order and in the linear order that :class:`~cankd.losses.NLKDINLoss` runs in;
    thop counts its norms only in the module form of :mod:`cankd.losses.cankd_naive`, for either.

    Args:
        shape: shape of both maps, (B, C, H, W).

    Returns:
        Name -> cost.
    """
    channels = shape[1]
    fkd = dict(in_channels=channels, mode="dot_product", sub_sample=True)
    losses: dict[str, nn.Module] = {
        "FKD": ConnectedLoss(
            dict(type="mmrazor.FBKDLoss"),
            dict(type="mmrazor.FBKDStudentConnector", **fkd),
            dict(type="mmrazor.FBKDTeacherConnector", **fkd),
        ),
        "MGD": ConnectedLoss(
            dict(type="mmrazor.MGDLoss"),
            dict(type="mmrazor.MGDConnector", student_channels=channels, teacher_channels=channels),
        ),
        "FGD": BoxedFGDLoss(channels),
        "CanKD, paper's order": NaiveNLKDINLoss(channels),
        "CanKD, linear order": NLKDINLoss(channels),
    }
    maps = torch.rand(2, *shape)
    costs = {}
    for name, loss in losses.items():
        counted = _counted(loss, *maps)
        parameters = sum(parameter.numel() for parameter in loss.parameters())
        module_form = NaiveNLKDINLoss(channels) if isinstance(loss, NLKDINLoss) else loss
        with torch.no_grad():
            seen, _ = thop.profile(module_form, tuple(maps), verbose=False)
        costs[name] = Cost(parameters, int(seen), counted)
    return costs


# The first is private: torch has no public base class of batch and instance norms, SyncBN's replacement included.
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class ModelCost(NamedTuple):
    """Cost of one model for one image.

    ``parameters`` is the number of all parameters, ``deployed`` of those outside of auxiliary heads, which only
    training uses, ``norms`` of those of norms among the deployed. ``operations`` are those of a forward
    pass up to the raw predictions, by operator, with a multiply-add as one, and
    ``uncounted`` the calls of custom operators (deformable convolutions), which cannot be counted.
    """

    parameters: int
    deployed: int
    norms: int
    operations: dict[str, int]
    uncounted: dict[str, int]

    @property
    def total(self) -> int:
        """All operations."""
        return sum(self.operations.values())

    @property
    def printed(self) -> tuple[int, int]:
        """Operations and parameters as in CanKD's Table 4: without norms, resizing and auxiliary heads."""
        left_out = [name for name in self.operations if "norm" in name or name.startswith("upsample")]
        return self.total - sum(self.operations[name] for name in left_out), self.deployed - self.norms


def model_cost(cfg: Config, shape: Sequence[int], role: str = "student") -> ModelCost:
    """Counts a configuration's model with mmengine's ``FlopAnalyzer``.

    The totals are those of mmengine's ``get_model_complexity_info``, which wraps it.

    Args:
        cfg: configuration of a distillation or of a single model, with its test pipeline.
        shape: height and width of the image.
        role: model of a distillation, ``student`` (default) or ``teacher``.

    Returns:
        The cost.

    Raises:
        ValueError: if the configuration has no test pipeline.
    """
    model = build_model(cfg, role)
    deployed = [module for name, module in model.named_children() if name != "auxiliary_head"]
    data = model.data_preprocessor(noise_batch(cfg, shape), False)
    model.forward = functools.partial(model.forward, data_samples=data["data_samples"], mode="tensor")
    with torch.no_grad():
        analyzer = FlopAnalyzer(model, (data["inputs"],)).tracer_warnings("none")
        analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        operations = {name: int(count) for name, count in analyzer.by_operator().items()}
        uncounted = {
            name.split(".")[-1]: count for name, count in analyzer.unsupported_ops().items() if "PythonOp" in name
        }
    return ModelCost(
        sum(parameter.numel() for parameter in model.parameters()),
        sum(parameter.numel() for module in deployed for parameter in module.parameters()),
        sum(
            parameter.numel()
            for module in deployed
            for norm in module.modules()
            if isinstance(norm, NORMS)
            for parameter in norm.parameters()
        ),
        operations,
        uncounted,
    )
