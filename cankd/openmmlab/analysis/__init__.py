"""Computations of the analysis tools: curves of runs, robustness, errors and cost.

Not imported by ``import cankd``: some of it needs libraries that only these tools use.
"""
