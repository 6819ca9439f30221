"""The version of the code, which weights and reports carry."""

__version__ = "0.3.0"
