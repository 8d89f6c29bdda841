"""The end of a distributed run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from cankd.analysis.benchmark import in_own_process
from cankd.engine.launch import leave_process_group


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def _threads_before_within_and_after(store: str) -> tuple:
    """The process's threads around a run with a process group, and whether the group is still there."""
    before = _threads()
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    runner = SimpleNamespace(model=DistributedDataParallel(nn.Linear(2, 2)))
    runner.hook = SimpleNamespace(runner=runner)
    within = _threads()
    del runner
    leave_process_group()
    return before, within, _threads(), distributed.is_initialized()


def test_no_thread_of_the_process_group_is_left_when_the_interpreter_shuts_down(tmp_path):
    # In a process of its own, where no other test's threads come or go.
    before, within, after, initialized = in_own_process(_threads_before_within_and_after, str(tmp_path / "store"))
    assert before < within and after <= before and not initialized
