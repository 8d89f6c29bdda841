"""Measures what a distillation step costs beside a plain training step of the student."""

from cankd.openmmlab.commands.benchmark_step import main

if __name__ == "__main__":
    main()
