"""Argument types and one-line errors of the command line tools."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from typing import Callable, Iterator, Sequence


def at_least(least: int) -> Callable[[str], int]:
    """Returns a type for argparse: whole numbers from ``least`` on."""

    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"got {value}, expected at least {least}")
        return value

    return integer


def command_parser(text: str | None) -> argparse.ArgumentParser:
    """Returns a parser whose help is a command's whole docstring.

    Args:
        text: the docstring. Where the command runs as ``cankd NAME``, that stands for the path of its script.
    """
    if sys.argv[0].startswith("cankd "):
        text = re.sub(r"python tools/\S+\.py", sys.argv[0], text or "")
    return argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def figure(value: float | None, digits: int = 1) -> str:
    """Returns a number for a printed table, ``-`` for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table for a terminal, whose columns are as wide as their longest cell."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in [header, *rows])
    return "\n".join(line.rstrip() for line in lines)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends a tool with one line instead of a traceback where input, output or a missing package is at fault.

    Raises:
        SystemExit: in place of an ``OSError``, ``ValueError``, ``ImportError`` or ``KeyError``, with
            its message. A ``KeyError`` with a bare key as its message is raised as it is.
    """
    try:
        yield
    except (OSError, ValueError, ImportError, KeyError) as error:
        message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        if "Original Traceback" in message:  # of a data loader's worker, the error itself in the last line
            message = message.strip().splitlines()[-1].split(": ", 1)[-1]
        if isinstance(error, KeyError) and " " not in message:
            raise
        sys.exit(" ".join(line.strip() for line in message.splitlines()))
