"""Packaging of cankd; everything else about the project is in README.md."""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent

setup(
    name="cankd",
    version=re.search(r'__version__ = "(.+?)"', (root / "cankd" / "__init__.py").read_text(encoding="utf-8")).group(1),
    description="Cross-attention-based non-local knowledge distillation for mmdet, mmsegmentation and mmpretrain",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.8",
    packages=find_packages(include=["cankd", "cankd.*"]),
    # torch and the OpenMMLab libraries are found, not required: see requirements.txt.
    install_requires=["numpy>=1.21", "matplotlib>=3.5"],
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
