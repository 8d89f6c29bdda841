"""The part of cankd that extends mmengine, mmdet, mmsegmentation, mmpretrain and mmrazor.

Importing it makes mmrazor importable and registers every loss, algorithm, distiller and hook, so that a
configuration needs only ``custom_imports = dict(imports=["cankd.openmmlab"])``.
"""

from cankd.openmmlab import compat

compat.prepare()

from cankd.openmmlab import (  # noqa: E402  (after the patches)
    algorithms,
    connectors,
    distillers,
    engine,
    losses,
    models,
    published,
)

__all__ = ["algorithms", "connectors", "distillers", "engine", "losses", "models", "published"]
