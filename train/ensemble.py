"""Train the whole ensemble and write its weights: `python -m train.ensemble COHORT RUN --profile paper`."""

from mmpl.training.command import run_program
from mmpl.training.ensemble import main

if __name__ == "__main__":
    run_program(main)
