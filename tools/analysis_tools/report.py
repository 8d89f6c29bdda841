"""Writes one HTML page about trainings: curves, comparison, pictures, cost and configurations; it needs no network."""

from cankd.openmmlab.commands.report import main

if __name__ == "__main__":
    main()
