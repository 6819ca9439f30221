"""Selection of columns: what is blank is no risk factor."""

import numpy as np
import pytest

from mmpl.case import ClinicalRecord
from mmpl.clinical import ClinicalEncoder
from mmpl.evidence import FeatureTable, hpv_evidence, survival_evidence
from mmpl.profile import ForestSettings
from mmpl.schema import default_schema
from mmpl.training.cox import fit_cox
from mmpl.training.forest import fit_forest
from mmpl.training.selection import known_levels

PATIENTS = 120
NO_RADIOMICS = FeatureTable(("gtvp_absent", "gtvn_absent"), np.zeros((PATIENTS, 2)))
FOREST = ForestSettings(
    trees=(40,),
    depth=(4,),
    minimum_leaf=(5,),
    radiomics_images=("original",),
    radiomics_kept=(1,),
    inner_folds=3,
    inner_repeats=1,
)


def test_blanks_and_the_commonest_level_are_left_out() -> None:
    clinical = FeatureTable.of(
        **{"Gender=0": [1, 0, 0, 0], "Gender=1": [0, 1, 1, 0], "Gender=missing": [0, 0, 0, 1]},
        Age=[1, 2, 3, 4],
        Age_missing=[0, 0, 0, 1],
    )
    assert known_levels(clinical).names == ("Gender=0", "Age")
    np.testing.assert_array_equal(known_levels(clinical).values, [[1, 1], [0, 2], [0, 3], [0, 4]])


def test_a_field_that_nobody_knows_leaves_nothing() -> None:
    assert known_levels(FeatureTable.of(**{"Gender=missing": [1, 1]})).names == ()


def draw_records() -> tuple[list[ClinicalRecord], np.ndarray]:
    """Draw whether a patient relapses early, and a record whose blank treatments go with it by design."""
    rng = np.random.default_rng(0)
    early = rng.random(PATIENTS) < 0.5
    blank = rng.random(PATIENTS) < np.where(early, 0.6, 0.05)
    values = [
        {
            "Age": float(rng.integers(40, 80)),
            "Treatment": None if hidden else str(int(rng.random() < 0.7)),
            "Performance Status": str(rng.integers(0, 3)),
        }
        for hidden in blank
    ]
    return [ClinicalRecord(each) for each in values], early


@pytest.mark.parametrize("field", ["Treatment", "Performance Status", "Age"])
@pytest.mark.parametrize("kind", ["forest", "Cox model"])
def test_a_blank_field_moves_a_score_no_more_than_its_known_levels_do(kind: str, field: str) -> None:
    """Though in training the blanks were those who relapsed."""
    records, early = draw_records()
    encoder = ClinicalEncoder.fit(records, default_schema())
    zeros, days = np.zeros(PATIENTS), np.where(early, 100.0, 1000.0) + np.arange(PATIENTS)
    if kind == "forest":
        answer = fit_forest(hpv_evidence(zeros, NO_RADIOMICS, encoder.encode(records)), early, FOREST, 0).probability
    else:
        relapse = early | (np.arange(PATIENTS) % 3 == 0)
        evidence = survival_evidence(zeros, None, NO_RADIOMICS, encoder.encode(records))
        answer = fit_cox(evidence, days, relapse, 0.9, 0).log_partial_hazard
    known = sorted({record.values[field] for record in records} - {None}, key=str)
    for record in records[:20]:
        variants = [ClinicalRecord({**record.values, field: value}) for value in (None, *known)]
        table = encoder.encode(variants)
        scores, absent = np.zeros(len(variants)), FeatureTable(NO_RADIOMICS.names, np.zeros((len(variants), 2)))
        evidence = (
            hpv_evidence(scores, absent, table) if kind == "forest" else survival_evidence(scores, None, absent, table)
        )
        blank, *given = answer(evidence)
        assert min(given) - 1e-12 <= blank <= max(given) + 1e-12
