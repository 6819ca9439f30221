"""Every link of the documents leads to a file that is there, and to a heading that it has."""

import re
from pathlib import Path

import pytest

FOLDERS = ("docs", "weights", "train", "benchmarks")
FENCED, CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL), re.compile(r"`[^`\n]*`")
TARGET = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.MULTILINE)
USED, DEFINED = re.compile(r"\]\[([^\]]+)\]"), re.compile(r"^\[([^\]]+)\]: ", re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """Name a document's headings as GitHub does in links."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> list[str]:
    """List the links to files and headings that are not there, and to references that are not defined."""
    text = CODE.sub("", FENCED.sub("", document.read_text()))
    broken = sorted(set(USED.findall(text)) ^ set(DEFINED.findall(text)))
    for target in (inline or reference for inline, reference in TARGET.findall(text)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


def test_every_link_leads_somewhere(root: Path) -> None:
    documents = [*root.glob("*.md"), *(file for folder in FOLDERS for file in (root / folder).rglob("*.md"))]
    assert len(documents) > 10
    broken = {str(document.relative_to(root)): broken_links(document) for document in documents}
    assert {name: links for name, links in broken.items() if links} == {}


@pytest.mark.parametrize(
    ("line", "broken"),
    [
        ("[a](other.md), [b](other.md#what-it-is-1-of-2), [c](#here), [d](https://example.org/none)", []),
        ("[a](none.md), [b](other.md#none), [c](#there)", ["none.md", "other.md#none", "#there"]),
        ("[a][other]\n\n[other]: other.md#here", ["other.md#here"]),
        ("[a][other]", ["other"]),
        ("[other]: other.md", ["other"]),
        ("```\n[a](none.md)\n```", []),
        ("`[a](none.md)` and `row[0][1]`", []),
        ("[`a`](none.md)", ["none.md"]),
    ],
)
def test_a_broken_link_is_found(line: str, broken: list[str], tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# What it is: `1` of 2\n\n```\n# here\n```\n")
    document = tmp_path / "document.md"
    document.write_text(f"# Here\n\n{line}\n")
    assert broken_links(document) == broken
