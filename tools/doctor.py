"""Examines a distillation before it trains, and tells what to change."""

from cankd.openmmlab.commands.doctor import main

if __name__ == "__main__":
    main()
