"""Outcomes as tables say them: HPV status in words, relapse as 0 or 1, days, stages; else a cell is a problem."""

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from mmpl.case import Outcome
from mmpl.names import N_STAGE, T_STAGE, Column

OUTCOMES = (Column.HPV_STATUS, Column.RELAPSE, Column.RFS_DAYS)
STAGES = (T_STAGE, N_STAGE)
"""Columns that a table may have, too."""

_MISSING = ("", "nan", "na")  # a dash or a question mark might as well be a finding
_STATUS = {
    **dict.fromkeys(("1", "1.0", "+", "pos", "positive", "p16+", "p16pos", "p16positive"), True),
    **dict.fromkeys(("0", "0.0", "neg", "negative", "p16-", "p16neg", "p16negative"), False),
}
_HIGHEST = {T_STAGE: 4, N_STAGE: 3}
_STAGE = re.compile(r"[cpry]*([tn]?)(?:([0-4])[abc]?|x)", re.ASCII)
_DASHES = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2212", "------")

_T = TypeVar("_T")


def is_missing(text: str) -> bool:
    """Tell whether an outcome's cell says that it is not known."""
    return _plain(text) in _MISSING


def is_plus(text: str) -> bool:
    """Tell whether a cell is "+", beside which "-" is a finding."""
    return _plain(text) == "+"


def is_dash(text: str) -> bool:
    """Tell whether a cell is a dash alone, which may mean negative or unknown."""
    return _plain(text) == "-"


def read_outcome(row: Mapping[str, str], has_plus: bool) -> tuple[Outcome, list[str]]:
    """Read the outcome of a row.

    Args:
        row: Cells by column, those of `OUTCOMES` among them.
        has_plus: Whether some patient's HPV status is "+".

    Returns:
        The outcome, None for what is missing or cannot be read, and a sentence for each cell that cannot.
    """
    wrong: list[str] = []

    def cell(column: str, parse: Callable[[str], _T]) -> _T | None:
        if is_missing(row[column]):
            return None
        try:
            return parse(row[column])
        except ValueError as error:
            wrong.append(f"{column} is {row[column]!r}, {error}")
            return None

    outcome = Outcome(
        cell(Column.HPV_STATUS, partial(_parse_status, has_plus=has_plus)),
        cell(Column.RELAPSE, _parse_flag),
        cell(Column.RFS_DAYS, _parse_days),
    )
    return outcome, wrong


def read_known_status(text: str) -> bool | None:
    """Read an HPV status that an answer may rest on; None for a blank cell.

    Raises:
        ValueError: It is no status.
    """
    return None if is_missing(text) else _parse_status(text, has_plus=False)


def read_stage(column: str, text: str) -> int | None:
    """Read a stage such as T4a, N2, 2 or cT3 as its number; TX, NX and the like, not assessed, as None.

    Args:
        column: T_STAGE or N_STAGE.
        text: A cell that says something.

    Raises:
        ValueError: It is no stage.
    """
    found = _STAGE.fullmatch(_plain(text).removesuffix(".0"))
    stage = int(found[2]) if found and found[2] else None
    if not found or found[1] not in ("", column[0].casefold()) or (stage or 0) > _HIGHEST[column]:
        raise ValueError(f"not {column[0]}0 to {column[0]}{_HIGHEST[column]}, or {column[0]}X")
    return stage


def _plain(text: str) -> str:
    """Bring a cell to the one way that words are compared in."""
    return "".join(text.split()).translate(_DASHES).casefold()


def _parse_status(text: str, has_plus: bool) -> bool:
    plain = _plain(text)
    if plain == "-":
        if has_plus:
            return False
        raise ValueError("which may mean negative or unknown: write 0, or leave it blank")
    if plain not in _STATUS:
        raise ValueError("not 0, 1, negative, positive, - or +")
    return _STATUS[plain]


def _parse_flag(text: str) -> bool:
    try:
        return {0.0: False, 1.0: True}[float(text)]
    except (ValueError, KeyError):
        raise ValueError("not 0 or 1") from None


def _parse_days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0 <= days < math.inf:
        raise ValueError("not a number of days, 0 or more")
    return days
