"""Stage 1, networks, out-of-fold masks and thresholds: `python -m train.segmentation RUN`."""

from mmpl.training.command import run_program
from mmpl.training.segmentation import main

if __name__ == "__main__":
    run_program(main)
