"""What a check of the doctor has found."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

from mmengine.config import ConfigDict

OK, WARNING, ERROR, NOT_CHECKED = "ok", "warning", "error", "not checked"


class Finding(NamedTuple):
    """Result of a check.

    ``check`` names what was looked at, ``state`` is ``ok``, ``warning``, ``error`` or ``not checked``, ``found`` tells
    what was found, ``cure`` what to change, and ``changes`` are the values to put into the configuration, by their top
    level key.
    """

    check: str
    state: str
    found: str
    cure: str = ""
    changes: dict[str, Any] = {}  # noqa: RUF012  (a default that nobody changes)

    @property
    def text(self) -> str:
        """What was found, and what to change."""
        return f"{self.found.rstrip('.')}. {self.cure}" if self.cure else self.found

    def __str__(self) -> str:
        """Returns the line that is printed of it."""
        return f"{self.state:11}  {self.check}: {self.text}"


def all_changes(findings: Sequence[Finding]) -> dict[str, Any]:
    """Merges the values that findings want in the configuration."""
    merged = ConfigDict()
    for finding in findings:
        merged.merge(ConfigDict(finding.changes))
    return merged.to_dict()


def some(names: Sequence[str], most: int = 3) -> str:
    """Returns a few names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
