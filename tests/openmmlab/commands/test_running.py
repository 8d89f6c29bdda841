"""The end of a distributed run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from cankd.openmmlab.analysis.benchmark import in_own_process
from cankd.openmmlab.commands.running import leave_process_group
from tests.conftest import free_port, run_command


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


@pytest.mark.slow
def test_no_thread_of_the_process_group_is_left_when_the_interpreter_shuts_down(tmp_path):
    # In a process of its own, where no other test's threads come or go.
    before, within, after, initialized = in_own_process(_threads_before_within_and_after, str(tmp_path / "store"))
    assert before < within and after <= before and not initialized


@pytest.mark.slow
def test_the_launcher_leaves_the_last_word_to_the_process_that_failed(tmp_path):
    done = run_command("bash", "tools/dist_train.sh", str(tmp_path / "absent.py"), "1", check=False, PORT=free_port())
    lines = [line for line in done.stdout.splitlines() if "elastic" not in line]
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert lines[-1].endswith("absent.py, expected an existing file. Check the path.")
