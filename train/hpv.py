"""Stage 2, networks and forests: `python -m train.hpv RUN`."""

from mmpl.training.command import run_program
from mmpl.training.hpv import main

if __name__ == "__main__":
    run_program(main)
