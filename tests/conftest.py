"""Shares tolerances, functions that run the tools, and small data among the tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.utils import ManagerMixin

import cankd.openmmlab  # noqa: F401  (makes mmrazor importable for every test)
from cankd.openmmlab.checkpoint_files import release_what_was_read
from tests import forked

ROOT = Path(__file__).resolve().parents[1]
# Files whose slow tests run on both stacks: they read all recipes, train one of each kind, also in several processes,
# and use the installed package.
LIBRARIES = (
    "configs/test_configs.py",
    "configs/test_recipes.py",
    "openmmlab/commands/test_wheel.py",
    "openmmlab/engine/test_training.py",
    "openmmlab/test_connectors.py",
)
GOLDEN = ROOT / "tests" / "golden"

# Relative error allowed per dtype, of the norm of the whole tensor. The half types are limited
# by the rounding of the maps themselves, 2^-8 and 2^-11, carried through four products and a
# max-pool and a ReLU, in which rounding also changes which of two near values wins.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4, torch.bfloat16: 0.1, torch.float16: 6e-2}

# One and one is added 4096 times; in bfloat16 the sum stops at 256.
_ONES = torch.ones(4096, 2, dtype=torch.bfloat16)
SUMS_IN_FLOAT32 = bool((_ONES.T @ _ONES == 4096).all())
needs_bfloat16 = pytest.mark.skipif(
    not SUMS_IN_FLOAT32,
    reason="this torch adds up products of bfloat16 in bfloat16 on this CPU; the modern stack runs this test",
)


def relative_error(got: torch.Tensor, expected: torch.Tensor, floor: float = 1e-10) -> float:
    """Returns the norm of the difference over that of the expected tensor (absolute below ``floor``)."""
    got, expected = got.double().cpu(), expected.double().cpu()
    return (got - expected).norm().item() / max(expected.norm().item(), floor)


def enliven(module: torch.nn.Module, seed: int = 0) -> None:
    """Draws every parameter at random: with its initial zeros the block has no effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", choices=["cpu", "cuda"], default="cpu", help="device of the tests that are marked gpu; default: cpu"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device: got cuda on a machine without a GPU. Leave it out.")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that take the device as a parameter, and those that always run on both stacks."""
    for item in items:
        if "device" in getattr(item, "fixturenames", ()):
            item.add_marker("gpu")
        if item.path in [ROOT / "tests" / file for file in LIBRARIES]:
            item.add_marker("libraries")


@pytest.fixture
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns ``cpu``, or the device of ``--device``; on a GPU float32 is not rounded to TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    return request.config.getoption("--device")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def forget_runs(kind: Any = ManagerMixin) -> None:
    """Deletes the objects that mmengine keeps by a run's name, which a second run of the same second would share."""
    for cls in kind.__subclasses__():
        default = {"mmengine"} if cls is MMLogger else set()  # it writes to the stream of when it was made
        # Private: mmengine has no public way to delete an instance.
        for name in set(cls._instance_dict) - default:
            del cls._instance_dict[name]
        forget_runs(cls)


@pytest.fixture(autouse=True)
def _no_runs_before() -> Iterator[None]:
    """Deletes after each test the registry scope and the loggers of runs in the test's own process."""
    yield
    forget_runs()
    release_what_was_read()  # by a runner whose loop did not begin


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), **env}


def _checked(done: subprocess.CompletedProcess, check: bool) -> subprocess.CompletedProcess:
    assert not check or done.returncode == 0, done.stdout[-6000:]
    return done


def run_command(*command: str, check: bool = True, timeout: int = 900, **env: str) -> subprocess.CompletedProcess:
    """Runs a command from the checkout's root, as a user would, and returns what it printed."""
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=ROOT, env=_environment(env), timeout=timeout, **output)  # type: ignore[call-overload]
    return _checked(done, check)


def run_python(*command: Any, check: bool = True, timeout: int = 900, **env: str) -> subprocess.CompletedProcess:
    """:func:`run_command` for ``python COMMAND``, without the seconds of importing the libraries (tests/forked.py)."""
    return _checked(forked.run(*map(str, command), timeout=timeout, env=_environment(env)), check)


def free_port() -> str:
    """Returns a port that nothing listens on, for a process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="session")
def run_tool() -> Callable[..., subprocess.CompletedProcess]:
    """Runs ``python tools/NAME ARGS``; pass check=False to look at a failure."""

    def run(name: str, *args: Any, **kwargs: Any) -> subprocess.CompletedProcess:
        return run_python(ROOT / "tools" / name, *args, **kwargs)

    return run


@pytest.fixture(scope="session")
def mini_data(tmp_path_factory, run_tool) -> Path:
    """Returns eight training and eight validation scenes of the quickstart's data."""
    out = tmp_path_factory.mktemp("data") / "mini"
    run_tool("dataset_tools/make_quickstart_data.py", "--out", out, "--train", 8, "--val", 8)
    return out
