"""Stage 3, networks and Cox models: `python -m train.survival RUN`."""

from mmpl.training.command import run_program
from mmpl.training.survival import main

if __name__ == "__main__":
    run_program(main)
