"""Check a cohort's folder before anything is trained on it: `python -m train.check COHORT`."""

from mmpl.training.check import main
from mmpl.training.command import run_program

if __name__ == "__main__":
    run_program(main)
