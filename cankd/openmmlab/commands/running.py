"""Reads, checks and ends the runs of the commands, and reports their errors in one line."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, Iterator

from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import distributed

from cankd.openmmlab.checkpoint_files import local_file
from cankd.openmmlab.commands.arguments import add_cfg_options, add_trust_argument
from cankd.openmmlab.configs import apply_options, expand_config, is_distillation_config, read_config
from cankd.openmmlab.engine.config_checks import (
    check_distiller,
    check_optimizer,
    check_options,
    check_top_level,
)
from cankd.openmmlab.engine.processes import end_with_launcher
from cankd.utils.command_line import one_line_errors

# Launcher -> what it sets for each process, and what starts it.
LAUNCHERS = {
    "none": ("", ""),
    "pytorch": ("RANK", "cankd launch"),
    "slurm": ("SLURM_PROCID", "srun"),
    "mpi": ("OMPI_COMM_WORLD_LOCAL_RANK", "mpirun"),
}


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that training and testing have in common, as mmrazor's tools have them."""
    parser.add_argument("config", help="configuration file")
    parser.add_argument("--work-dir", help="folder for logs, checkpoints and metrics")
    add_cfg_options(parser)
    add_trust_argument(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--launcher", choices=list(LAUNCHERS), default="none", help="job launcher")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace, derive: bool = True) -> Config:
    """Reads the configuration of a parsed command line and applies its overrides.

    Args:
        args: parsed arguments of :func:`add_run_arguments`.
        derive: whether what a distiller leaves out is derived from its models. Defaults to True.

    Returns:
        The configuration; ``work_dir`` is the command line's, else the file's, else
        ``work_dirs/<name of the file>``.

    Raises:
        FileNotFoundError: if the configuration does not exist.
        ValueError: if it has no model.
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    variable, starter = LAUNCHERS[args.launcher]
    if variable and variable not in os.environ:
        raise ValueError(f"--launcher: got {args.launcher}, but {variable} is not set. Start the run with {starter}.")
    if args.launcher == "pytorch":
        end_with_launcher()
    cfg = read_run_config(args.config, args.cfg_options, derive)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / Path(args.config).stem)
    return cfg


def read_run_config(config: str, options: dict[str, Any], derive: bool = True) -> Config:
    """Reads the configuration of a training, applies overrides and checks the result.

    Args:
        config: configuration file.
        options: overrides of ``--cfg-options``, dotted key -> value.
        derive: whether what a distiller leaves out is derived from its models. Defaults to True.

    Returns:
        The configuration, with its distiller in the long form.

    Raises:
        FileNotFoundError: if the configuration does not exist.
        ValueError: if it has no model, or a fault that a training would not notice.
    """
    cfg = read_config(config, expand=False)
    check_options(cfg, options)
    apply_options(cfg, options)
    expand_config(cfg, derive)
    check_top_level(cfg)
    check_optimizer(cfg)
    if is_distillation_config(cfg):
        check_distiller(cfg.model)
    return cfg


def check_teacher_file(cfg: Config) -> None:
    """Refuses a configuration whose teacher's checkpoint is a file that does not exist.

    Args:
        cfg: configuration of the run.

    Raises:
        FileNotFoundError: if the file does not exist.
    """
    teacher = cfg.model.get("teacher_ckpt")
    if teacher and "://" not in teacher and not local_file(teacher).is_file():
        raise FileNotFoundError(
            f"model.teacher_ckpt: got {teacher}, expected an existing file. Train the teacher first (where no "
            "checkpoint is published, the head of the config names the command), or give a file with --cfg-options "
            "teacher_ckpt=FILE."
        )


@contextlib.contextmanager
def tool_errors() -> Iterator[None]:
    """Silences the libraries, and ends a command that fails as ``one_line_errors`` does."""
    warnings.filterwarnings("ignore", category=UserWarning)
    MMLogger.get_current_instance().setLevel("WARNING")
    with one_line_errors():
        yield


@contextlib.contextmanager
def run_errors(debug: bool = False) -> Iterator[None]:
    """Ends a run that fails with one line.

    Args:
        debug: whether errors are left alone, so that Python shows their tracebacks. Defaults to no.

    Raises:
        SystemExit: in place of any other error, with its message.
    """
    if debug:
        yield
        return
    try:
        with one_line_errors():
            yield
    except Exception as error:
        message = " ".join(f"{error} {_bare_assertion(error)}".split())
        sys.exit(f"{type(error).__name__}: {message} (--debug shows where)")


def _bare_assertion(error: BaseException) -> str:
    """Returns the source line of an assertion without a message, which mmengine's registries may have wrapped."""
    while error.__context__ is not None:
        error = error.__context__
    if not isinstance(error, AssertionError) or str(error):
        return ""
    return traceback.extract_tb(error.__traceback__)[-1].line or ""


def leave_process_group() -> None:
    """Ends all processes of a distributed run together: one that exits early aborts those that still talk to it.

    The caller must have released its runner and its wrapped model, so that gloo's threads end here.
    A thread that still had to release a tensor, for which it needs the interpreter, would abort the process
    while the interpreter shuts down ("terminate called without an active exception"), and deadlock with
    a group that is destroyed meanwhile. Nothing tells when they are done, so they are given time.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    distributed.barrier()
    if distributed.get_backend() == "gloo":
        time.sleep(0.5)
    gc.collect()  # a runner and its hooks refer to each other
    distributed.destroy_process_group()
