"""The core of the package needs torch alone."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

# Imports torch, then forbids everything else that is neither of the standard library nor of cankd's core.
CODE = """
import sys, torch

class Forbidding:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top.startswith("mm") or name.startswith("cankd.openmmlab") or top in ("numpy", "cv2", "matplotlib"):
            raise ImportError(f"the core imports {name}")

sys.meta_path.insert(0, Forbidding())
before = set(sys.modules)
import cankd, cankd.losses, cankd.losses.cankd_naive, cankd.functional, cankd.utils.files, cankd.utils.command_line
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))

maps = torch.randn(2, 2, 16, 12, 20)
boxes = [torch.tensor([[8.0, 8.0, 60.0, 40.0]])] * 2
for loss, more in ((cankd.losses.NLKDINLoss(16), ()), (cankd.losses.ACAMKDLoss(16), ()),
                   (cankd.losses.FGDLoss(16), (boxes, [(96, 160)] * 2)), (cankd.losses.FeatureMSELoss(), ())):
    student = maps[0].clone().requires_grad_()
    parts = loss(student, maps[1], *more)
    sum(parts.values() if isinstance(parts, dict) else [parts]).backward()
    assert student.grad.isfinite().all() and student.grad.any()
"""


def test_the_core_imports_torch_alone():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    allowed = {"cankd", "torch", *getattr(sys, "stdlib_module_names", STANDARD)}
    assert set(done.stdout.split()) <= allowed


# What the core imports of the standard library, for Python < 3.10, which has no list of its modules.
STANDARD = {"argparse", "gettext", "locale", "hashlib", "errno", "_hashlib", "_blake2", "_sha3"}
