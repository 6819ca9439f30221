"""Clinical records as a table of numbers, encoded by the statistics of a training split."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mmpl.case import ClinicalRecord
from mmpl.evidence import FeatureTable
from mmpl.schema import TAKEN_AS_MISSING, ClinicalSchema, ContinuousField

_MISSING = "missing"


def says_missing(column: str) -> bool:
    """Tell a column that says that a field is missing from those that say what it is."""
    return column.endswith((f"={_MISSING}", f"_{_MISSING}"))


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScaledTerm(_Frozen):
    """A continuous field as its z-score, the training median where it is missing, and whether it is missing.

    Attributes:
        mean: Mean of the training values, in the field's unit; `sd` and `median` likewise.
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

    def is_assumed(self, value: float | str | None) -> bool:
        """Tell whether a value is encoded as missing."""
        return value is None

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

    def is_assumed(self, value: float | str | None) -> bool:
        """Tell whether a value is encoded as missing."""
        return value not in self.levels

    def encode(self, value: float | str | None) -> tuple[float, ...]:
        """Encode one value, one number for each column; a level that training never saw is missing."""
        known = value if value in self.levels else _MISSING
        return tuple(float(level == known) for level in (*self.levels, _MISSING))


class ClinicalEncoder(_Frozen):
    """Clinical records as a table of numbers, by what one training split showed; frozen with the model."""

    terms: tuple[Annotated[ScaledTerm | OneHotTerm, Field(discriminator="kind")], ...]

    @classmethod
    def fit(cls, records: Sequence[ClinicalRecord], schema: ClinicalSchema) -> Self:
        """Learn means, deviations, medians and levels from the records of a training split, read by this schema."""
        terms: list[ScaledTerm | OneHotTerm] = []
        for field in schema.fields:
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

    @property
    def field_of(self) -> dict[str, str]:
        """The field that each column tells of."""
        return {name: term.field for term in self.terms for name in term.names}

    def encode(self, records: Sequence[ClinicalRecord]) -> FeatureTable:
        """Encode n records, a row each; no value is ever missing in the result."""
        rows = [
            [number for term in self.terms for number in term.encode(record.values.get(term.field))]
            for record in records
        ]
        return FeatureTable(self.names, np.array(rows, dtype=np.float64).reshape(len(records), len(self.names)))

    def notes(self, record: ClinicalRecord) -> tuple[str, ...]:
        """Say, for the log, which of a record's levels training never saw."""
        return tuple(
            f"{term.field} {value} was in no training record{TAKEN_AS_MISSING}"
            for term in self.terms
            if isinstance(term, OneHotTerm)
            and (value := record.values.get(term.field)) is not None
            and value not in term.levels
        )
