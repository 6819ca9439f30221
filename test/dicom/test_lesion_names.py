"""Segments and ROIs by the names that people give them, and by their codes."""

import re

import pytest

from mmpl.case import InvalidInputError
from mmpl.dicom.lesions import Named, label_of, match_lesions
from mmpl.names import Label

PRIMARIES = ["GTV", "GTVp", "GTV-T", "gtv_70", "GTVp_left", "Tumor", "tumour", "Primary", "GTV_primary", "GTVp1"]
NODES = ["GTVn", "GTV_N", "GTVn1", "gtv-ln3", "Node", "Nodes", "GTV_N_L", "LN2", "Lymph_nodes", "GTVnodal"]
TARGETS = ["CTV", "PTV_GTVp", "CTV_N2", "PTV LN II", "ITV T"]
ORGANS = [
    "Parotid_L",
    "SpinalCord",
    "SpinalCanal",
    "BrainStem",
    "Tonsil_R",
    "Liver",
    "Lung",
    "Lens",
    "Larynx",
    "Pharynx",
]
OTHERS = [
    *TARGETS,
    *ORGANS,
    "Optic Nerve",
    "N_opticus_R",
    "CN7",
    "vertebrae_T1",
    "T12",
    "T4-L1",
    "P1",
    "LN_Neck_II_L",
    "Pons",
    "Bulb",
    "Milk",
    "L",
    "12",
]
UNCLEAR = ["GTVtn", "GTV_boost", "Lesion", "tumorbed", "Node_level2x", "primary boost"]
UNCLEAR_NODES = [
    "LN level II",
    "LN 2a",
    "LN_II_L",
    "LNs",
    "reLN2",
    "LK links",
    "LK2",
    "Lymphknoten",
    "N2b",
    "N 2b",
    "N_1 x",
]
LETTERS = ["T", "N", "P", "T1", "N2", "N1 re", "P_L", "N links", "T rechts", "T+N", "p/n"]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        *((name, Label.GTVP) for name in (*PRIMARIES, "Primary tumor", "GTV 1")),
        *((name, Label.GTVN) for name in (*NODES, "Lymph nodes R", "GTV N 2", "GTVn links")),
        *((name, None) for name in (*OTHERS, *UNCLEAR, *UNCLEAR_NODES, *LETTERS, "")),
    ],
)
def test_names(name: str, label: Label | None) -> None:
    assert label_of(Named(name)) is label


@pytest.mark.parametrize("name", OTHERS)
def test_organs_and_other_targets_are_left_aside(name: str) -> None:
    assert match_lesions([Named(name), Named("GTVn")], "ROIs") == [None, Label.GTVN]


@pytest.mark.parametrize("name", [*UNCLEAR, *UNCLEAR_NODES, *LETTERS])
def test_a_lesion_of_unclear_kind_is_not_left_aside(name: str) -> None:
    with pytest.raises(
        InvalidInputError, match=re.escape(f"ROIs that may be GTVp or GTVn, but do not say which: {name}")
    ):
        match_lesions([Named("GTVp"), Named(name)], "ROIs")


def test_what_the_file_calls_a_gtv_is_not_left_aside() -> None:
    with pytest.raises(InvalidInputError, match="do not say which: Target 1"):
        match_lesions([Named("GTVp"), Named("Target 1", is_gtv=True)], "ROIs")


@pytest.mark.parametrize(
    ("code", "label"), [("372087000", Label.GTVP), ("86049000", Label.GTVP), ("14799000", Label.GTVN), ("1", None)]
)
def test_codes(code: str, label: Label | None) -> None:
    assert label_of(Named("Segment_1", (code,))) is label


def test_without_any_lesion_the_names_are_listed() -> None:
    with pytest.raises(InvalidInputError, match="no ROIs named GTVp or GTVn; there are Liver, Heart"):
        match_lesions([Named("Liver"), Named("Heart")], "ROIs")
