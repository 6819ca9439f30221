"""Why an answer is what it is: what each finding of a patient adds to it, so that all together are the answer.

The risk is a sum already, of each Cox model's covariates. Of the HPV score, the forests' mean probability, the shares
are Shapley values (`mmpl.forest`). Columns of one clinical field belong together, as none of them changes alone.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmpl.evidence import Evidence
from mmpl.reference import Reference


@dataclass(frozen=True)
class Share:
    """What one model makes of a patient's columns: their parts of its score, and the score without them."""

    baseline: float
    columns: Mapping[str, float]


@dataclass(frozen=True)
class Contribution:
    """What one finding of a patient adds to an answer.

    Attributes:
        name: A column of radiomics or of scores, or a clinical field.
        value: The patient's value, a score's mean over the models; None where it is missing.
        percentile: Share of the training patients, 1 to 99, whose value is lower; None for what is no number, for a
            missing value, and where the weights hold no percentiles.
        added: What it adds, on the scale of the answer.
    """

    name: str
    value: float | str | None
    percentile: float | None
    added: float


@dataclass(frozen=True)
class Explanation:
    """The parts of an answer.

    Attributes:
        baseline: The answer where nothing is known of a patient: of the risk, at the means of the training patients; of
            the HPV score, the mean over patients of whom half are positive, as the forests learnt from them.
        contributions: What the patient's findings add to it, the largest first; those that no model reads are left out.
    """

    baseline: float
    contributions: tuple[Contribution, ...]

    @property
    def total(self) -> float:
        """The answer."""
        return self.baseline + sum(each.added for each in self.contributions)


def explain(
    shares: Sequence[Share],
    evidence: Sequence[Evidence],
    stated: Mapping[str, float | str | None],
    field_of: Mapping[str, str],
    reference: Reference,
) -> Explanation:
    """Average what the models make of one patient, and say what each finding's value is.

    Args:
        shares: Share of each model.
        evidence: Evidence that each model saw, one row.
        stated: What is known of the patient rather than measured, by name: fields of the clinical record, a known HPV
            status. None where it is missing.
        field_of: Clinical field of each column of an encoder.
        reference: Training patients to compare values with.
    """
    added = defaultdict[str, float](float)
    for share in shares:
        for column, part in share.columns.items():
            added[field_of.get(column, column)] += part / len(shares)

    def value_of(name: str) -> float | str | None:
        if name in stated or name in field_of.values():
            return stated.get(name)
        value = float(np.mean([each.table.read([name])[0, 0] for each in evidence]))
        return value if np.isfinite(value) else None

    contributions = []
    for name, part in sorted(added.items(), key=lambda item: -abs(item[1])):
        value = value_of(name)
        percentile = reference.percentile(name, value) if isinstance(value, float) else None
        contributions.append(Contribution(name, value, percentile, part))
    return Explanation(float(np.mean([share.baseline for share in shares])), tuple(contributions))
