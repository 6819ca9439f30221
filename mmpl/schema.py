"""The clinical record's schema: which fields there are, how they may be spelled, and the lenient reading of them.

Missing or odd values are never errors: they become missing, and the record says so in `assumed`. A training run and its
weights carry the schema of `resources/clinical.yaml` as it was, in their profile.
"""

from collections.abc import Mapping
from functools import cache, cached_property
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from mmpl.case import ClinicalRecord
from mmpl.datafiles import read_data

TAKEN_AS_MISSING = ": taken as missing"
"""End of the notes on fields without a value that can be read."""
_LONGEST_SHOWN = 30  # characters of a value; what is typed into a wrong field may be a person's name


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ContinuousField(_Frozen):
    """A measured quantity.

    Attributes:
        also: Other spellings of the field's name.
        unit: Unit of values and range.
        range: Lowest and highest plausible value.
        optional: Whether a table to be trained on may lack the column.
    """

    name: str
    also: tuple[str, ...] = ()
    optional: bool = False
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
        assumed: Code of the level that a value is read as, by the value, where it is not sure to mean it.
        optional: Whether a table to be trained on may lack the column.
    """

    name: str
    also: tuple[str, ...] = ()
    optional: bool = False
    levels: Mapping[str, tuple[str, ...]]
    assumed: Mapping[str, str] = {}

    @cached_property
    def _codes(self) -> Mapping[str, str]:
        return {normalized(spelling): code for code, others in self.levels.items() for spelling in (code, *others)}

    @model_validator(mode="after")
    def _check_spellings(self) -> Self:
        if len(self._codes) != sum(1 + len(others) for others in self.levels.values()):
            raise ValueError(f"two levels of {self.name} share a spelling")
        if wrong := [v for v, code in self.assumed.items() if normalized(v) in self._codes or code not in self.levels]:
            raise ValueError(f"{self.name}: {wrong[0]} is assumed to be a level that is not there, or is one itself")
        return self

    def read(self, text: str) -> str | None:
        """Read a normalized value as a level's code; None where it is none."""
        return self._codes.get(text) or self.assumed.get(text)


class ClinicalSchema(_Frozen):
    """The clinical fields that exist and how they may be spelled; the content of `resources/clinical.yaml`.

    Attributes:
        missing: Words that say a value is not known.
        ignored: Columns that come with the record and are no fields.
    """

    missing: tuple[str, ...]
    ignored: tuple[str, ...]
    fields: tuple[ContinuousField | CategoricalField, ...]

    @cached_property
    def _names_by_key(self) -> Mapping[str, str]:
        """The field's name for each of its normalized spellings."""
        return {plain_name(spelling): field.name for field in self.fields for spelling in (field.name, *field.also)}

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if len(self._names_by_key) != sum(1 + len(field.also) for field in self.fields):
            raise ValueError("two fields share a spelling")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields, in their order."""
        return tuple(field.name for field in self.fields)

    @property
    def optional_names(self) -> tuple[str, ...]:
        """Names of the fields whose columns a table to be trained on may lack."""
        return tuple(field.name for field in self.fields if field.optional)

    def field_of_key(self, key: str) -> str | None:
        """Find which field a spelling of its name means; None where it means none."""
        return self._names_by_key.get(plain_name(key))

    def code_of(self, name: str, text: str) -> str | None:
        """Give the code of the level of a field that a spelling means; None without such a field or level."""
        field = next((field for field in self.fields if field.name == name), None)
        return field.read(normalized(text)) if isinstance(field, CategoricalField) else None

    def is_missing(self, value: object) -> bool:
        """Tell whether a value says that it is not known."""
        return value is None or normalized(value) in self.missing

    def read(self, raw: Mapping[str, object]) -> ClinicalRecord:
        """Read a record from JSON or from a row of a table; never raises for a missing or odd value."""
        given: dict[str, object] = {}
        assumed: list[str] = []
        ignored = {plain_name(name) for name in self.ignored}
        for key, value in raw.items():
            name = self.field_of_key(str(key))
            if name is None:
                if plain_name(str(key)) not in ignored:
                    assumed.append(f"{shown(key)} is no field of the clinical record: not used")
            elif name not in given or self.is_missing(given[name]):
                given[name] = value
            elif not self.is_missing(value) and normalized(value) != normalized(given[name]):
                assumed.append(f"{name} is given twice: {shown(given[name])} taken, {shown(value)} not used")

        values: dict[str, float | str | None] = {}
        odd: list[str] = []
        for field in self.fields:
            value = given.get(field.name)
            values[field.name] = None if self.is_missing(value) else field.read(normalized(value))
            if field.name not in given:
                assumed.append(f"{field.name} is not given{TAKEN_AS_MISSING}")
            elif self.is_missing(value):
                assumed.append(f"{field.name} is {shown(value)}{TAKEN_AS_MISSING}")
            elif values[field.name] is None:
                assumed.append(f"{field.name} is {shown(value)}, not {_expected(field)}{TAKEN_AS_MISSING}")
                odd.append(field.name)
            elif isinstance(field, CategoricalField) and normalized(value) in field.assumed:
                assumed.append(f"{field.name} is {shown(value)}: assumed to be {values[field.name]}")
        as_given = {name: shown(value) for name, value in given.items()}
        return ClinicalRecord(values, tuple(assumed), tuple(odd), as_given)

    def complete(self, record: ClinicalRecord, found: Mapping[str, object], source: str) -> ClinicalRecord:
        """Fill what a record lacks with what was found elsewhere, and say so, but not what it is.

        Args:
            record: A record of this schema.
            found: Values by any spelling of their field; those of no field are left alone.
            source: Where they were found, for the record's notes.
        """
        known = {name: value for key, value in found.items() if (name := self.field_of_key(key))}
        more = {name: value for name, value in self.read(known).values.items() if value is not None}
        filled = [name for name, value in more.items() if record.values.get(name) is None]
        notes = [f"{name} is that of {source}" for name in filled]
        notes += [note for note in record.assumed if not note.startswith(tuple(f"{name} is " for name in filled))]
        values = dict(record.values) | {name: more[name] for name in filled}
        odd = tuple(name for name in record.odd if name not in filled)
        return ClinicalRecord(values, tuple(notes), odd, {**record.given, **dict.fromkeys(filled, source)})


@cache
def default_schema() -> ClinicalSchema:
    """Read and check `resources/clinical.yaml`."""
    return ClinicalSchema.model_validate(read_data("clinical.yaml"))


def _expected(field: ContinuousField | CategoricalField) -> str:
    if isinstance(field, ContinuousField):
        return f"{field.range[0]:g} to {field.range[1]:g} {field.unit}"
    return "one of " + ", ".join(field.levels)


def normalized(value: object) -> str:
    """Write a value the one way that schema and records are compared in: 1, 1.0, "1.0" and " 1 " are all "1"."""
    text = " ".join(_printed(value).split()).casefold()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


def shown(value: object) -> str:
    """Show a value in one short line of a log or a page, without control characters."""
    text = repr(value) if isinstance(value, str) else _printed(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def _printed(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "a huge number"


def plain_name(name: str) -> str:
    """Write a field's name the one way that names are compared in."""
    return "".join(character for character in name.casefold() if character.isalnum())
