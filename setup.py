"""Packaging of cankd; everything else about the project is in README.md."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

root = Path(__file__).parent
weights = set((root / "configs/study").rglob("*.pth"))  # the study's teachers: a checkout alone uses them
configs = [
    file.relative_to(root)
    for file in (root / "configs").rglob("*")
    if file.is_file() and file.parent.name != "__pycache__" and file not in weights
]


class BuildWithConfigs(build_py):
    """Ships ``configs`` as ``cankd/.mim/configs``, where mmengine and mim look for a package's configurations."""

    def run(self):
        super().run()
        if getattr(self, "editable_mode", False):
            return  # the checkout's own are found
        mim = Path(self.build_lib, "cankd", ".mim")
        shutil.rmtree(mim, ignore_errors=True)
        for file in configs:
            target = mim / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / file, target)
        (mim / "model-index.yml").write_text("Import: []\n")

    def get_source_files(self):
        return [*super().get_source_files(), *map(str, configs)]


setup(
    name="cankd",
    version=re.search(r'__version__ = "(.+?)"', (root / "cankd" / "__init__.py").read_text(encoding="utf-8")).group(1),
    description="Cross-attention-based non-local knowledge distillation for mmdet, mmsegmentation and mmpretrain",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.8",
    packages=find_packages(include=["cankd", "cankd.*"]),
    package_data={"cankd.openmmlab": ["public_data.txt"], "cankd.openmmlab.report": ["page.html"]},
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["cankd = cankd.__main__:main"]},
    # torch and the OpenMMLab libraries are found, not required: see requirements.txt. The losses need only torch.
    extras_require={
        "openmmlab": ["numpy>=1.21", "matplotlib>=3.5"],
        "report": ["jinja2>=3", "vl-convert-python>=1.7"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
