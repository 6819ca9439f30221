"""The checklists have every item once, answered in the words that they explain, and counted and added up rightly."""

import re
from collections import Counter
from pathlib import Path

import pytest

TRIPOD_PARTS = {
    **dict.fromkeys((3, 6, 8, 9, 20, 27), "abc"),
    **dict.fromkeys((5, 23), "ab"),
    12: "abcdefg",
    18: "abcdef",
}
ITEMS = {
    "TRIPOD+AI": [f"{item}{part}" for item in range(1, 28) for part in TRIPOD_PARTS.get(item, [""])],
    "CLAIM": [str(item) for item in range(1, 45)],
    "CLEAR": [str(item) for item in range(1, 59)],
}
ANSWERS = ("done", "partly", "not done", "does not apply")


def rows(document: Path) -> list[list[str]]:
    """Read the rows of a document's tables, without their headings."""
    lines = [line for line in document.read_text().splitlines() if re.match(r"\| \d", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("checklist", ITEMS)
def test_every_item_is_answered_and_counted(checklist: str, root: Path) -> None:
    found = rows(root / "docs" / "standards" / f"{checklist.lower().replace('+', '-')}.md")
    assert [item for item, *_ in found] == ITEMS[checklist]
    counted = Counter(answer for _, _, answer, _ in found)
    assert set(counted) <= set(ANSWERS)
    numbers = " | ".join(str(counted[answer]) for answer in ANSWERS)
    assert f"| {checklist} | {len(found)} | {numbers} |" in (root / "docs" / "reporting-standards.md").read_text()


def test_the_score_is_the_weight_of_what_is_met(root: Path) -> None:
    document = root / "docs" / "standards" / "metrics.md"
    found = rows(document)
    assert [item for item, *_ in found] == [str(item) for item in range(1, 31)]
    assert {answer for _, _, _, answer, _ in found} == {"yes", "no"}
    met = [weight for _, _, weight, answer, _ in found if answer == "yes"]
    total = sum(float(weight) for _, _, weight, _, _ in found)
    doubtful = sum(float(weight) for _, _, weight, _, why in found if "In doubt" in why)
    score, surely = sum(map(float, met)), sum(map(float, met)) - doubtful
    text = document.read_text()
    assert f"Met: {' + '.join(met)} = {score:.3f}. All weights: {total:.3f}. **Score: {score / total:.1%}.**" in text
    assert f"it is {surely:.3f} of {total:.3f}, {surely / total:.1%}" in text
    summary = f"{len(met)} of 30 items are met, {score / total:.1%} by weight; {surely / total:.1%} without the four"
    assert summary in (root / "docs" / "reporting-standards.md").read_text()
