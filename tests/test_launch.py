"""The end of a distributed run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from cankd.engine.launch import leave_process_group


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_no_thread_of_the_process_group_is_left_when_the_interpreter_shuts_down(tmp_path):
    before = _threads()
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    runner = SimpleNamespace(model=DistributedDataParallel(nn.Linear(2, 2)))
    runner.hook = SimpleNamespace(runner=runner)
    assert _threads() > before
    del runner
    leave_process_group()
    assert not distributed.is_initialized() and _threads() <= before
