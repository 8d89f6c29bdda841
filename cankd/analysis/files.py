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
    """Ends a tool with one line instead of a traceback where input or output is at fault.

    Raises:
        SystemExit: in place of an ``OSError`` or a ``ValueError``, with its message.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        sys.exit(str(error))


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
