"""Write the weights of a finished run: `python -m train.export RUN WEIGHTS`."""

from mmpl.training.command import run_program
from mmpl.training.export import main

if __name__ == "__main__":
    run_program(main)
