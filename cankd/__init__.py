"""CanKD: cross-attention-based non-local knowledge distillation for dense prediction.

Importing this package makes mmrazor importable and registers everything, so that a
configuration needs only ``custom_imports = dict(imports=['cankd'])``.
"""

from cankd import stack

__version__ = "0.1.0"

stack.prepare()

from cankd import algorithms, engine, losses, models, published  # noqa: E402  (they register in mmrazor, now importable)

__all__ = ["__version__", "algorithms", "engine", "losses", "models", "published", "stack"]
