"""Draws which teacher positions chosen student positions attend to in a CanKD distillation."""

from cankd.openmmlab.commands.show_attention import main

if __name__ == "__main__":
    main()
