"""What a program prints of itself and of its libraries."""

import logging
import sys


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
