"""Plan a training's disk and hours: `python -m train.plan COHORT --profile paper`."""

from mmpl.training.command import run_program
from mmpl.training.plan import main

if __name__ == "__main__":
    run_program(main)
