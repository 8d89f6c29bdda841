"""Errors that end a command."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader

from cankd.utils.command_line import one_line_errors


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("size: got 0."), "size: got 0."),
        (FileNotFoundError(2, "No such file", "a.png"), "[Errno 2] No such file: 'a.png'"),
        (KeyError("head.nme: got a key that is not known."), "head.nme: got a key that is not known."),
        (ModuleNotFoundError("No module named 'onnx'"), "No module named 'onnx'"),
    ],
)
def test_faults_of_the_input_end_with_their_message(error, message):
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise error
    assert ended.value.code == message


@pytest.mark.parametrize("error", [KeyError("head"), KeyError(3), KeyError(), TypeError("a fault of the program")])
def test_faults_of_the_program_keep_their_traceback(error):
    with pytest.raises(type(error)), one_line_errors():
        raise error


class Failing:
    """A data set whose images are all absent."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise FileNotFoundError("image: expected a.png. Check the path.")


def test_an_error_in_a_worker_ends_with_its_own_message():
    with pytest.raises(SystemExit) as ended, one_line_errors():
        next(iter(DataLoader(Failing(), num_workers=1)))  # type: ignore[arg-type]
    assert ended.value.code == "image: expected a.png. Check the path."
