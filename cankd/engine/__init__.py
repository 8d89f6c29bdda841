"""What training and testing need beyond mmengine."""

from cankd.engine.runner import CPUDistributedDataParallel, Runner

__all__ = ["CPUDistributedDataParallel", "Runner"]
