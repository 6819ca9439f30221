"""The clinical record: read leniently through a schema, encoded as numbers by statistics of a training split.

The schema is `resources/clinical.yaml`. Missing or odd values are never errors: they become missing, and the record
says so in `assumed`.
"""

from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmpl.case import ClinicalRecord

_SCHEMA_FILE = Path(__file__).parents[1] / "resources" / "clinical.yaml"
_MISSING = "missing"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ContinuousField(_Frozen):
    """A measured quantity.

    Attributes:
        also: Other spellings of the field's name.
        unit: Unit of values and range.
        range: Lowest and highest plausible value.
    """

    name: str
    also: tuple[str, ...] = ()
    unit: str
    range: tuple[float, float]

    def read(self, text: str) -> float | None:
        """Read a normalized value; None where it is no plausible number."""
        try:
            number = float(text)
        except ValueError:
            return None
        return number if self.range[0] <= number <= self.range[1] else None


class CategoricalField(_Frozen):
    """One of a few levels.

    Attributes:
        also: Other spellings of the field's name.
        levels: Other spellings of each level, by its code.
    """

    name: str
    also: tuple[str, ...] = ()
    levels: Mapping[str, tuple[str, ...]]

    @cached_property
    def _codes(self) -> Mapping[str, str]:
        return {_text(spelling): code for code, others in self.levels.items() for spelling in (code, *others)}

    @model_validator(mode="after")
    def _check_spellings(self) -> Self:
        if len(self._codes) != sum(1 + len(others) for others in self.levels.values()):
            raise ValueError(f"two levels of {self.name} share a spelling")
        return self

    def read(self, text: str) -> str | None:
        """Read a normalized value as a level's code; None where it is none."""
        return self._codes.get(text)


class ClinicalSchema(_Frozen):
    """The content of `resources/clinical.yaml`: which fields exist and how they may be spelled."""

    missing: tuple[str, ...]
    ignored: tuple[str, ...]
    fields: tuple[ContinuousField | CategoricalField, ...]

    @cached_property
    def names_by_key(self) -> Mapping[str, str]:
        """The field's name for each of its normalized spellings."""
        return {_key(spelling): field.name for field in self.fields for spelling in (field.name, *field.also)}

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if len(self.names_by_key) != sum(1 + len(field.also) for field in self.fields):
            raise ValueError("two fields share a spelling")
        return self


@cache
def read_schema() -> ClinicalSchema:
    """Read and check `resources/clinical.yaml`."""
    return ClinicalSchema.model_validate(yaml.safe_load(_SCHEMA_FILE.read_text()))


def fields() -> tuple[str, ...]:
    """Name the clinical fields, in the schema's order."""
    return tuple(field.name for field in read_schema().fields)


def field_of_key(key: str) -> str | None:
    """Find which field a spelling of its name means; None where it means none."""
    return read_schema().names_by_key.get(_key(key))


def is_missing(value: object) -> bool:
    """Tell whether a value says that it is not known."""
    return value is None or _text(value) in read_schema().missing


def read_record(raw: Mapping[str, object]) -> ClinicalRecord:
    """Read a record from JSON or from a row of a table; never raises for a missing or odd value."""
    schema = read_schema()
    given: dict[str, object] = {}
    assumed: list[str] = []
    ignored = {_key(name) for name in schema.ignored}
    for key, value in raw.items():
        name = field_of_key(str(key))
        if name is None:
            if _key(str(key)) not in ignored:
                assumed.append(f"{_shown(key)} is no field of the clinical record: not used")
        elif name not in given or is_missing(given[name]):
            given[name] = value
        elif not is_missing(value) and _text(value) != _text(given[name]):
            assumed.append(f"{name} is given twice: {_shown(given[name])} taken, {_shown(value)} not used")

    values: dict[str, float | str | None] = {}
    for field in schema.fields:
        value = given.get(field.name)
        values[field.name] = None if is_missing(value) else field.read(_text(value))
        if field.name not in given:
            assumed.append(f"{field.name} is not given: taken as missing")
        elif is_missing(value):
            assumed.append(f"{field.name} is {_shown(value)}: taken as missing")
        elif values[field.name] is None:
            assumed.append(f"{field.name} is {_shown(value)}, not {_expected(field)}: taken as missing")
    return ClinicalRecord(values, tuple(assumed))


def _expected(field: ContinuousField | CategoricalField) -> str:
    if isinstance(field, ContinuousField):
        return f"{field.range[0]:g} to {field.range[1]:g} {field.unit}"
    return "one of " + ", ".join(field.levels)


def _text(value: object) -> str:
    """Write a value the one way that schema and records are compared in: 1, 1.0, "1.0" and " 1 " are all "1"."""
    text = " ".join(_printed(value).split()).casefold()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


def _shown(value: object) -> str:
    """Show a value in one short line of a log."""
    text = repr(value) if isinstance(value, str) else _printed(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _printed(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "a huge number"


def _key(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


class ScaledTerm(_Frozen):
    """A continuous field as its z-score, the training median where it is missing, and whether it is missing.

    Attributes:
        mean: Of the training values, as are `sd` and `median`; in the field's unit.
    """

    kind: Literal["continuous"] = "continuous"
    field: str
    mean: float
    sd: float
    median: float

    @classmethod
    def fit(cls, field: str, values: Sequence[float]) -> Self:
        """Take the statistics of the known values; a field that training never saw encodes as 0."""
        known = np.array(values or [0.0])
        sd = float(known.std())
        return cls(field=field, mean=float(known.mean()), sd=sd if sd > 0 else 1.0, median=float(np.median(known)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self.field, f"{self.field}_missing"

    def encode(self, value: float | str | None) -> tuple[float, ...]:
        """Encode one value, one number for each column."""
        number = self.median if value is None else float(value)
        return (number - self.mean) / self.sd, float(value is None)


class OneHotTerm(_Frozen):
    """A categorical field as one column for each level that training saw and one for "missing"."""

    kind: Literal["categorical"] = "categorical"
    field: str
    levels: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(f"{self.field}={level}" for level in (*self.levels, _MISSING))

    def encode(self, value: float | str | None) -> tuple[float, ...]:
        """Encode one value, one number for each column; a level that training never saw is missing."""
        known = value if value in self.levels else _MISSING
        return tuple(float(level == known) for level in (*self.levels, _MISSING))


class ClinicalEncoder(_Frozen):
    """Clinical records as a table of numbers, by what one training split showed; frozen with the model."""

    terms: tuple[Annotated[ScaledTerm | OneHotTerm, Field(discriminator="kind")], ...]

    @classmethod
    def fit(cls, records: Sequence[ClinicalRecord]) -> Self:
        """Learn means, deviations, medians and levels from the records of a training split."""
        terms: list[ScaledTerm | OneHotTerm] = []
        for field in read_schema().fields:
            known = [value for record in records if (value := record.values.get(field.name)) is not None]
            if isinstance(field, ContinuousField):
                terms.append(ScaledTerm.fit(field.name, [float(value) for value in known]))
            else:
                terms.append(OneHotTerm(field=field.name, levels=tuple(code for code in field.levels if code in known)))
        return cls(terms=tuple(terms))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns: `Age`, `Age_missing`, `Gender=0`, `Gender=1`, `Gender=missing`, ..."""
        return tuple(name for term in self.terms for name in term.names)

    def encode(self, records: Sequence[ClinicalRecord]) -> NDArray[np.float64]:
        """Encode records as rows (n, columns); no value is ever missing in the result."""
        rows = [
            [number for term in self.terms for number in term.encode(record.values.get(term.field))]
            for record in records
        ]
        return np.array(rows, dtype=np.float64).reshape(len(records), len(self.names))

    def notes(self, record: ClinicalRecord) -> tuple[str, ...]:
        """Say, for the log, which of a record's levels training never saw."""
        return tuple(
            f"{term.field} {value} was in no training record: taken as missing"
            for term in self.terms
            if isinstance(term, OneHotTerm)
            and (value := record.values.get(term.field)) is not None
            and value not in term.levels
        )

    def to_dict(self) -> dict[str, Any]:
        """Write the encoder as JSON can hold it; the inverse of `from_dict`."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote; unknown keys are errors."""
        return cls.model_validate(content)
