"""The training programs, one runnable step a file, each a shell over a step of `mmpl.training`."""
