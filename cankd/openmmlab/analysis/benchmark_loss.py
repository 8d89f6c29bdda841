"""Measures time and memory of CanKD's loss, forward and backward, in the paper's order and in linear order."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, ContextManager, Iterator

import torch
import torch._dynamo
from matplotlib.figure import Figure
from torch import Tensor, nn

from cankd.losses import NLKDINLoss
from cankd.losses.cankd_naive import NaiveNLKDINLoss
from cankd.openmmlab.analysis.benchmark import markdown_table, measure
from cankd.openmmlab.visualization.panels import save_figure

# Maps of an 800 x 1333 image, padded to 800 x 1344, and of a segmenter's last stage: B, C, H, W.
LEVELS = {
    "P2": (2, 256, 200, 336),
    "P3": (2, 256, 100, 168),
    "P4": (2, 256, 50, 84),
    "P5": (2, 256, 25, 42),
    "seg": (1, 2048, 64, 128),
}
# Type -> the maps' dtype, autocast, largest relative difference of an implementation from the naive loss. In the
# narrow types, rounding also changes which of two near values a max-pool takes: up to 9 % of a small map's gradient.
DTYPES = {
    "float64": (torch.float64, False, 1e-10),
    "float32": (torch.float32, False, 1e-3),
    "tf32": (torch.float32, False, 0.1),
    "bfloat16": (torch.bfloat16, True, 0.2),
    "float16": (torch.float16, True, 0.1),
}
# Factor on the loss before the backward pass, as in mixed precision: gradients of large maps underflow in float16.
LOSS_SCALES = {"float16": 2.0**16}
ODD_SHAPES = [(2, 8, 10, 14), (1, 6, 7, 9), (3, 4, 5, 3)]


class LinearNaiveLoss(NaiveNLKDINLoss):
    """The naive loss in linear order: g phi^T is summed over the teacher's positions first."""

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:  # noqa: D102
        theta, phi = self.theta(s_feature).flatten(2), self.pool(self.phi(t_feature)).flatten(2)
        g = self.pool(self.g(t_feature)).flatten(2)
        z = (g @ phi.transpose(1, 2) / phi.shape[2]) @ theta
        enhanced = self.bn(self.w_z(z.view(len(s_feature), -1, *s_feature.shape[2:]))) + s_feature
        return self.loss_weight * nn.functional.mse_loss(self.norm(enhanced), self.norm(t_feature)) / 2


def build(implementation: str, channels: int) -> nn.Module:
    """Builds a loss with random weights, equal for all implementations; at its zero start the block does nothing."""
    torch.manual_seed(0)
    naive = NaiveNLKDINLoss(channels)
    nn.init.normal_(naive.get_parameter("bn.weight"))
    if implementation in ("naive", "linear"):
        loss = naive if implementation == "naive" else LinearNaiveLoss(channels)
        loss.load_state_dict(naive.state_dict())
        return loss
    ours: Any = NLKDINLoss(channels)
    ours.block.load_state_dict(naive.state_dict())
    if implementation == "compiled":
        torch._dynamo.reset()  # else a process falls back to eager code after some sizes
        ours = torch.compile(ours)
    return ours


def maps(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns random student and teacher maps that are correlated, as those of trained networks are."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(shape, generator=generator)
    x = (torch.randn(shape, generator=generator) + y) / 2
    return x.to(device, dtype).requires_grad_(), y.to(device, dtype)


@contextlib.contextmanager
def precision(kind: str, device: str) -> Iterator[None]:
    """Sets autocast and TF32 for a type of measurement."""
    dtype, autocast, _ = DTYPES[kind]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = kind == "tf32"
    context: ContextManager = torch.autocast(device, dtype) if autocast else contextlib.nullcontext()
    with context:
        yield


def run(loss: nn.Module, x: Tensor, y: Tensor, kind: str, device: str) -> Tensor:
    """Runs one forward and backward pass and returns the loss; gradients are multiplied by its type's scale."""
    x.grad = None
    loss.zero_grad()
    with precision(kind, device):
        value = loss(x, y)
    (value * LOSS_SCALES.get(kind, 1.0)).backward()
    return value


def gradients(loss: nn.Module, x: Tensor, kind: str) -> dict[str, Tensor]:
    """Returns the gradients by name in float64, without those that are zero except for rounding."""
    scale = LOSS_SCALES.get(kind, 1.0)
    parameters = {name.rpartition("block.")[2]: part for name, part in loss.named_parameters()}
    found = {"x": x, **{name: part for name, part in parameters.items() if not name.endswith("bias")}}
    return {name: part.grad.double() / scale for name, part in found.items() if part.grad is not None}


def differences(implementation: str, shape: tuple[int, ...], kind: str, device: str) -> dict[str, float]:
    """Computes the relative differences of loss and gradients from the naive loss in float64, by name."""
    found = []
    for name, wide in ((implementation, kind), ("naive", "float64")):
        loss = build(name, shape[1]).to(device, parameter_dtype(wide))
        x, y = (part.detach() for part in maps(shape, device, DTYPES[kind][0]))
        x = x.to(DTYPES[wide][0]).requires_grad_()
        value = run(loss, x, y.to(DTYPES[wide][0]), wide, device)
        found.append({"loss": value.detach(), **gradients(loss, x, wide)})
    # What is small beside the largest gradient is compared in absolute terms.
    floor = 0.1 * max(part.double().norm().item() for part in found[1].values())
    return {
        name: ((found[0][name].double() - part.double()).norm() / part.double().norm().clamp(min=floor)).item()
        for name, part in found[1].items()
    }


def check(implementations: list[str], kinds: list[str], device: str) -> None:
    """Compares everything that will be measured with the naive loss, on small odd sizes.

    Raises:
        ValueError: if something differs by more than its type's rounding.
    """
    for kind in dict.fromkeys(["float64", *kinds]):
        for implementation in implementations:
            for shape in ODD_SHAPES:
                for name, difference in differences(implementation, shape, kind, device).items():
                    if not difference < DTYPES[kind][2]:
                        raise ValueError(
                            f"{implementation}, {kind}, {shape}: got a relative difference of {difference:.1e} in "
                            f"{name}, expected less than {DTYPES[kind][2]:.0e}. Nothing is measured of a wrong loss."
                        )


def check_norms(results: list[dict[str, Any]]) -> None:
    """Compares the measured losses with the naive one, or with `linear` where the naive one does not fit in memory.

    Raises:
        ValueError: if a loss or the norm of a gradient differs by more than its type's rounding.
    """
    for result in results:
        same = [r for r in results if (r["level"], r["dtype"]) == (result["level"], result["dtype"])]
        expected = same[0]
        pairs = {"loss": (result["loss"], expected["loss"])}
        pairs.update({name: (norm, expected["gradients"][name]) for name, norm in result["gradients"].items()})
        floor = 0.1 * max(norm for _, norm in pairs.values())
        for name, (got, wanted) in pairs.items():
            if not abs(got - wanted) < DTYPES[result["dtype"]][2] * max(wanted, floor):
                raise ValueError(
                    f"{result['implementation']}, {result['level']}, {result['dtype']}: got {got} for {name}, expected "
                    f"{wanted} as in {expected['implementation']}. Nothing is printed of a wrong loss."
                )


def parameter_dtype(kind: str) -> torch.dtype:
    """Returns the dtype of the weights, which is float32 under autocast."""
    return torch.float64 if kind == "float64" else torch.float32


def measure_one(label: str, implementation: str, shape: tuple[int, ...], kind: str, options: dict) -> dict[str, Any]:
    """Measures one implementation on one size, and computes the norms of its loss and gradients."""
    device = options["device"]
    torch.set_num_threads(options["threads"])
    loss = build(implementation, shape[1]).to(device, parameter_dtype(kind))
    x, y = maps(shape, device, DTYPES[kind][0])
    # Loads the code; where that depends on the size (a compiled loss, workspaces on a GPU), on the size itself.
    warm_up = (
        (x, y) if device == "cuda" or implementation == "compiled" else maps((1, shape[1], 16, 16), device, x.dtype)
    )
    run(loss, *warm_up, kind, device)
    x.grad = None
    loss.zero_grad()
    result = measure(lambda: run(loss, x, y, kind, device).detach(), device, options["repeats"])
    # The batch norm takes each batch's own statistics, so the steps before change nothing.
    result["loss"] = run(loss, x, y, kind, device).item()
    result["gradients"] = {name: grad.norm().item() for name, grad in gradients(loss, x, kind).items()}
    return result


def measure_rates(label: str, kind: str, options: dict) -> dict[str, Any]:
    """Measures the device: bytes per second of a copy, and operations per second of the faster of two products."""
    device, dtype = options["device"], DTYPES[kind][0]
    torch.set_num_threads(options["threads"])
    size = 8192 if device == "cuda" else 2048
    source = torch.ones(64 << 20, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    maps, weight = (
        torch.randn(shape, device=device).to(dtype) for shape in ((1, size, 64, 128), (size // 2, size, 1, 1))
    )
    products = ((size**3, lambda: a @ b), (maps.numel() * len(weight), lambda: torch.conv2d(maps, weight)))
    with precision(kind, device):
        copy = measure(lambda: target.copy_(source), device, options["repeats"])["median"]
        rates = [2 * count / measure(take, device, options["repeats"])["median"] for count, take in products]
    return {"bytes_per_second": 2 * 4 * source.numel() / copy, "flops_per_second": max(rates)}


def floor_seconds(shape: tuple[int, ...], kind: str, rates: dict[str, float]) -> float:
    """Returns the least time of a forward and backward pass: of reading and writing the maps, or of the products.

    Forward reads both maps, backward reads both and writes one. Four 1x1 convolutions' worth of
    products forward and six backward (the teacher's map needs no gradient), the context and W_z
    times it once forward and twice backward.
    """
    batch, channels, height, width = shape
    inner, positions = channels // 2, height * width
    pooled = (height // 2) * (width // 2)
    products = batch * inner * (10 * channels * positions + 3 * inner * pooled + 3 * inner * channels)
    moved = 5 * batch * channels * positions * torch.empty((), dtype=DTYPES[kind][0]).element_size()
    return max(moved / rates["bytes_per_second"], 2 * products / rates["flops_per_second"])


def attention_bytes(shape: tuple[int, ...], kind: str) -> int:
    """Returns the least memory of the paper's order: scores, scaled scores and the gradient of one of them."""
    batch, _, height, width = shape
    pairs = height * width * (height // 2) * (width // 2)
    return 3 * batch * pairs * torch.empty((), dtype=DTYPES[kind][0]).element_size()


def draw(rows: list[dict[str, Any]], machine: dict[str, Any], path: Path) -> None:
    """Draws time and memory against the number of positions, for maps that differ in nothing else."""
    first = rows[0]
    rows = [r for r in rows if r["dtype"] == first["dtype"] and r["shape"][:2] == first["shape"][:2]]
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    figure.suptitle(
        f"CanKD loss, forward + backward, {first['shape'][0]} x {first['shape'][1]} channels, {first['dtype']}, "
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}",
        fontsize=9,
    )
    for ax, key, label in zip(figure.subplots(1, 2), ("median", "peak_extra_bytes"), ("seconds", "extra memory, MB")):
        scale = 1 if key == "median" else 1e-6
        for color, name in enumerate(dict.fromkeys(r["implementation"] for r in rows)):
            found = [r for r in rows if r["implementation"] == name and key in r]
            points = sorted((r["shape"][2] * r["shape"][3], r[key] * scale) for r in found)
            if points:
                style = ":" if name == "floor" else "-"
                ax.loglog(*zip(*points), marker="o", linestyle=style, color=f"C{color}", label=name)
        ax.set_xlabel("positions of a map, H x W")
        ax.set_ylabel(label)
        ax.grid(alpha=0.3, which="both")
        ax.legend()
    save_figure(figure, path)


def table(rows: list[dict[str, Any]]) -> str:
    """Returns a Markdown table of all measurements, also relative to the paper's order and to the floor."""
    lines = []
    for row in rows:
        same = {r["implementation"]: r for r in rows if (r["shape"], r["dtype"]) == (row["shape"], row["dtype"])}
        naive, extra = same.get("naive"), row.get("peak_extra_bytes")
        lines.append(
            [
                row["level"],
                row["dtype"],
                row["implementation"],
                f"{row['median'] * 1e3:.1f}",
                " - ".join(f"{seconds * 1e3:.1f}" for seconds in row.get("quartiles", [])),
                f"{naive['median'] / row['median']:.2f}x" if naive else "",
                f"{row['median'] / same['floor']['median']:.1f}x",
                "" if extra is None else f"{extra / 1e6:.0f}",
                f"{extra / (naive['peak_extra_bytes'] or 1):.2f}" if naive and extra is not None else "",
            ]
        )
    header = ["maps", "type", "order", "ms", "quartiles", "faster than naive", "x floor", "extra MB", "of naive"]
    return markdown_table(header, lines)
