"""Measure radiomics on the out-of-fold masks: `python -m train.radiomics RUN`."""

from mmpl.training.command import run_program
from mmpl.training.radiomics import main

if __name__ == "__main__":
    run_program(main)
