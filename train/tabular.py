"""Stages 2 and 3 on tables alone, without images: `python -m train.tabular TABLE RUN`."""

from mmpl.training.command import run_program
from mmpl.training.tabular import main

if __name__ == "__main__":
    run_program(main)
