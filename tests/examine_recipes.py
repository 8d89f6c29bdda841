"""Examines configurations, one after the other: ``python -m tests.examine_recipes OUT CONFIG ...``.

OUT gets the doctor's lines for each configuration, and at its end how many have warnings or errors. A configuration
that OUT already has is not examined again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from mmengine.logging import MMLogger

from cankd.openmmlab.configs import read_config
from cankd.openmmlab.doctor import ERROR, WARNING, examine


def main() -> None:
    out = Path(sys.argv[1])
    MMLogger.get_current_instance().setLevel("ERROR")
    done = out.read_text(encoding="utf-8") if out.exists() else ""
    for config in sys.argv[2:]:
        if f"== {config} " in done:
            continue
        began = time.monotonic()
        findings = examine(read_config(config))
        bad = sum(finding.state in (WARNING, ERROR) for finding in findings)
        lines = [f"== {config} ({bad} warnings and errors, {time.monotonic() - began:.0f} s)", *map(str, findings)]
        with out.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
