"""Writes result files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

if TYPE_CHECKING:
    import numpy as np


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write to, and renames that file to ``path`` at the end.

    Args:
        path: file to write; its folder is made if needed.

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
    except OSError as error:
        if error.filename is None:  # a full disk is reported without the file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        if part.exists():
            part.unlink()


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder to write to, and renames it to ``path``, a new or empty folder, at the end.

    Args:
        path: folder to write.

    Yields:
        A folder beside it. It is removed again if writing fails.
    """
    part = path.with_name(f"{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if path.exists():
            path.rmdir()
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Removes unfinished files of :func:`whole` whose processes have ended.

    Args:
        folder: folder to search, without its subfolders.

    Returns:
        The files that were removed.
    """
    parts = [(file, file.name.split(".")[-2]) for file in Path(folder).glob("*.*.part")]
    left = [file for file, pid in parts if pid.isdigit() and not is_alive(int(pid))]
    for file in left:
        file.unlink()
    return left


def is_alive(pid: int) -> bool:
    """Returns whether a process of this machine is still running."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:  # not Linux
        return True
    return state != "Z"  # ended, but its parent has not read its exit status


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Writes an image, whole or not at all; unlike ``cv2.imwrite`` it fails where the disk is full.

    Args:
        path: file to write; its suffix determines the format.
        image: (H, W, 3) uint8, BGR, or (H, W).

    Raises:
        OSError: if the file cannot be written.
    """
    import cv2  # here, as the losses need torch alone

    with whole(path) as part:
        part.write_bytes(cv2.imencode(Path(path).suffix, image)[1].tobytes())


def check_writable(path: str | Path) -> None:
    """Checks that a file can be written, before the work whose result it will hold.

    Args:
        path: file to check; its folder is made if needed.

    Raises:
        OSError: if the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "expected the name of a file, got a folder", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    probe = path.with_name(f"{path.name}.{os.getpid()}.part")
    probe.touch()
    probe.unlink()


def sha256(path: str | Path) -> str:
    """Computes the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
