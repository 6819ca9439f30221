"""How fast each part is beside what a user would run instead: `python -m benchmarks`."""

import sys
from pathlib import Path

# the plain ways that are compared with are the oracles of the tests
sys.path.append(str(Path(__file__).parents[1] / "test"))
