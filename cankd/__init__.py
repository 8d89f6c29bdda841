"""CanKD: cross-attention-based non-local knowledge distillation for dense prediction.

This package and :mod:`cankd.losses` need torch alone. Everything that knows the OpenMMLab libraries is in
:mod:`cankd.openmmlab`; a configuration loads it with ``custom_imports = dict(imports=["cankd.openmmlab"])``.
"""

__version__ = "0.1.0"
