"""Stage 4, ordinal models: `python -m train.staging RUN`."""

from mmpl.training.command import run_program
from mmpl.training.staging import main

if __name__ == "__main__":
    run_program(main)
