"""Runs a tool inside the test's process, which spares it the seconds that importing the libraries takes."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
import traceback
import warnings
from typing import Any, NamedTuple
from unittest.mock import patch

from mmengine.logging import MMLogger

from tests.conftest import ROOT, forget_runs


class Done(NamedTuple):
    """How a tool ended: its exit status, and what it printed to both streams."""

    returncode: int
    stdout: str


def call_tool(name: str, *arguments: Any, check: bool = True) -> Done:
    """Runs ``python tools/NAME ARGUMENTS`` from the test's own folder; pass check=False to look at a failure."""
    tool = ROOT / "tools" / name
    logger = MMLogger.get_current_instance()
    level, printed, status = logger.level, io.StringIO(), 0
    argv = [name, *map(str, arguments)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.redirect_stderr(printed))
        stack.enter_context(patch.object(sys, "argv", argv))
        stack.enter_context(patch.object(sys, "path", [str(tool.parent), *sys.path]))
        try:
            runpy.run_path(str(tool), run_name="__main__")
        except SystemExit as ending:
            status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
            if isinstance(ending.code, str):
                printed.write(ending.code)
        except Exception:
            status = 1
            printed.write(traceback.format_exc())
        finally:
            logger.setLevel(level)
            forget_runs()
    done = Done(status, printed.getvalue())
    assert not check or done.returncode == 0, done.stdout[-6000:]
    return done
