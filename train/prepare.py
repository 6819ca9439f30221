"""Cache every patient's patch and make the folds: `python -m train.prepare COHORT RUN --profile demo`."""

from mmpl.training.command import run_program
from mmpl.training.prepare import main

if __name__ == "__main__":
    run_program(main)
