"""The training programs, one runnable step a file; they import mmpl, never the other way."""
