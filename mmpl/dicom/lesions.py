"""The two lesions as DICOM objects name them: by code, and by what people write."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mmpl.case import InvalidInputError
from mmpl.errors import some_of
from mmpl.names import LESIONS, Label


@dataclass(frozen=True)
class Term:
    """A concept: its code, in which scheme, and what it means."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Lesion:
    """How one class is named in what is written.

    Attributes:
        name: Name of segment and ROI.
        morphology: What its tissue is (CID 7159).
        target: What radiotherapy calls it (CID 9534).
        site: Where it is.
        color: Color to draw it in, RGB, 0 to 255.
    """

    name: str
    morphology: Term
    target: Term
    site: Term
    color: tuple[int, int, int]


LESION_OF = {
    Label.GTVP: Lesion(
        "GTVp",
        Term("372087000", "SCT", "Neoplasm, Primary"),
        Term("130052", "DCM", "GTV Primary"),
        Term("774007", "SCT", "Head and Neck"),
        (230, 60, 50),
    ),
    Label.GTVN: Lesion(
        "GTVn",
        Term("14799000", "SCT", "Neoplasm, Secondary"),
        Term("130051", "DCM", "GTV Nodal"),
        Term("312501005", "SCT", "lymph node of head and neck"),
        (60, 120, 230),
    ),
}
ABNORMAL = Term("49755003", "SCT", "Morphologically Abnormal Structure")

_CODES = {
    **{term.value: label for label, each in LESION_OF.items() for term in (each.morphology, each.target)},
    "86049000": Label.GTVP,  # malignant neoplasm, primary
    "M-80003": Label.GTVP,  # the codes of both before 2017
    "M-80006": Label.GTVN,
}
_GTVP = re.compile(r"(gtv)?(p|t|primary|primary ?tumou?r|tumou?r)?")
_GTVN = re.compile(r"(gtv)?(n|ln|node|nodes|nodal|lymph ?nodes?)")
_SIDE = re.compile(r" (l|r|li|re|left|right|links|rechts)$")
_NOT_A_LETTER = re.compile(r"[^a-z]+")
_LIKE_A_LESION = re.compile(
    r"gtv|tumou?r|neoplasm|cancer|carcinoma|lesion|metasta|primary|node|nodal|lymph|ln\d"
    r"|(?<![a-z])(l[nk]s?(?![a-z])|n[\W_]?\d)",  # words of letters: LN_II, LK links, N2a
    re.IGNORECASE,
)
_LETTER_ALONE = re.compile(r"p|t[0-4]?[a-c]?|n")
_NODE_LEVEL = re.compile(r"ln_neck_", re.IGNORECASE)  # a region by the standard of names (TG-263), and no lesion
_OTHER_TARGET = re.compile(r"[cip]tv", re.IGNORECASE)
_SINGLE_LETTERS = frozenset(("", "p", "t", "n"))


@dataclass(frozen=True)
class Named:
    """A segment or ROI as its file describes it.

    Attributes:
        name: Its name.
        codes: Values of the codes that say what it is.
        is_gtv: Whether the file calls it a gross tumor volume, whatever its name.
    """

    name: str
    codes: tuple[str, ...] = ()
    is_gtv: bool = False


def label_of(named: Named) -> Label | None:
    """Tell which lesion a segment or ROI is, by its codes and by its name; None where neither says so.

    Of a name, case, digits, punctuation and a side at its end do not count. GTVp is what is then called GTV, GTVp,
    GTVt, primary or tumor (also GTV primary, primary tumor); GTVn is GTVn, GTVln, LN, node, nodes, nodal or lymph node
    (also GTV node).

    Raises:
        InvalidInputError: Code and name say different lesions.
    """
    found = {_CODES[code] for code in named.codes if code in _CODES}
    words = _words_of(named.name)
    for spelling in (words, words.replace(" ", "")):
        for label, pattern in ((Label.GTVP, _GTVP), (Label.GTVN, _GTVN)):
            if spelling not in _SINGLE_LETTERS and pattern.fullmatch(spelling):
                found.add(label)
    if len(found) > 1:
        raise InvalidInputError(f"{named.name!r} is GTVp by its code or name, and GTVn by the other")
    return found.pop() if found else None


def _words_of(name: str) -> str:
    """Give a name's words of letters, without a side at its end."""
    return _SIDE.sub("", _NOT_A_LETTER.sub(" ", name.casefold()).strip())


def _may_be_a_lesion(named: Named) -> bool:
    """Tell whether what is no lesion by code and name may be one, as LN II, N2 or T may, and no organ or CTV."""
    words = _SIDE.sub("", re.sub(r"[\W_]+", " ", named.name.casefold()).strip()).split()
    if named.is_gtv or (words and all(map(_LETTER_ALONE.fullmatch, words))):
        return True
    none = _OTHER_TARGET.search(named.name) or _NODE_LEVEL.match(named.name)
    return bool(_LIKE_A_LESION.search(named.name)) and not none


def match_lesions(found: Iterable[Named], what: str) -> list[Label | None]:
    """Tell which lesion each segment or ROI of a file is; None for what is none, such as an organ.

    Args:
        found: Segments or ROIs, in their order.
        what: What they are called in messages: "segments" or "ROIs".

    Raises:
        InvalidInputError: None of them is a lesion, or one looks like a lesion, but not like which; it lists the names.
    """
    named = list(found)
    labels = [label_of(each) for each in named]
    unclear = [each.name for each, label in zip(named, labels, strict=True) if label is None and _may_be_a_lesion(each)]
    wanted = " or ".join(LESION_OF[label].name for label in LESIONS)
    if unclear:
        raise InvalidInputError(f"{what} that may be {wanted}, but do not say which: {some_of(unclear, 10)}")
    if not any(labels):
        names = some_of([each.name for each in named], 10) or "none at all"
        raise InvalidInputError(f"no {what} named {wanted}; there are {names}")
    return labels
