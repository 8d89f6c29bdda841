"""Result files that are either complete or not there (or still the old ones), and clear errors."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path
from typing import Iterator


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends a tool with one line instead of a traceback where input, output or a missing package is at fault.

    Raises:
        SystemExit: in place of an ``OSError``, ``ValueError``, ``ImportError`` or ``KeyError``, with
            its message. A ``KeyError`` that has only a key to say is no message and stays one.
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


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Gives a path to write to, and puts what was written there in ``path``'s place at the end.

    Args:
        path: the file that is wanted; its folder is made if needed.

    Yields:
        A path beside it. It is removed again if writing fails.

    Raises:
        OSError: if the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.touch()  # so that a folder that cannot be written to is an OSError, whatever writes
        yield part
        os.replace(part, path)
    finally:
        if part.exists():
            part.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
