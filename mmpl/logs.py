"""What a program prints of itself and of its libraries."""

import logging
import os
import sys


def open_standard_streams() -> None:
    """Open what a caller closed of stdin, stdout and stderr, on nothing: the next file must not take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def set_up_logging() -> None:
    """Send news to stdout, errors to stderr, and warnings into the log: the platform shows whatever is on stderr."""
    news, errors = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    news.addFilter(is_news)
    errors.setLevel(logging.ERROR)
    logging.basicConfig(handlers=[news, errors], level=logging.INFO, format="%(message)s")
    logging.captureWarnings(True)


def is_news(record: logging.LogRecord) -> bool:
    """Keep what this program says and what libraries warn of; pyradiomics logs and warns at every step."""
    library = record.name.partition(".")[0]
    return record.levelno < logging.ERROR and (
        library == "mmpl" or (library != "radiomics" and record.levelno >= logging.WARNING)
    )
