"""How fast each part is beside what a user would run instead: `python -m benchmarks`."""
