"""Measures time and memory of CanKD's loss, forward and backward, in the paper's order and in ours."""

from cankd.openmmlab.commands.benchmark_loss import main

if __name__ == "__main__":
    main()
