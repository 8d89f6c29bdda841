"""Adds the arguments that commands of all kinds share."""

from __future__ import annotations

import argparse
from typing import Any

from mmengine.config import DictAction

from cankd.openmmlab.checkpoint_files import trust_checkpoints


class KeyValues(DictAction):
    """Parses ``key=value`` arguments as mmengine does; anything else is reported as an error in one line."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Takes the arguments.

        Raises:
            argparse.ArgumentError: for an argument without ``=``.
        """
        for value in values:
            if "=" not in value:
                raise argparse.ArgumentError(self, f"got {value}, expected key=value.")
        super().__call__(parser, namespace, values, option_string)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--cfg-options``, the overrides of a configuration."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=KeyValues,
        default={},
        help="overrides of the configuration, key=value; teacher_ckpt=FILE replaces the teacher's checkpoint "
        "whatever the configuration. A list is written key=a,b or key='[a,b]', without blanks.",
    )


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--trust-checkpoints``, without which no checkpoint can run code."""

    class Trust(argparse.Action):
        def __call__(self, *_: Any) -> None:
            trust_checkpoints()

    parser.add_argument(
        "--trust-checkpoints",
        nargs=0,
        action=Trust,
        help="also read checkpoints that contain code; that code is run, so only for files whose origin you know",
    )
