"""A DICOM node's studies on disk."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mmpl.inbox import TOO_LARGE, Inbox, Limits, NoRoomError, is_uid

LIMITS = Limits(0.5, 2**30, 20, 0)


@pytest.mark.parametrize("uid", ["..", ".", "../../etc", "1..2", "1.2.", "", "1" * 65, "1.2\n", "1/2", "١.٢"])
def test_what_is_no_uid(uid: str) -> None:
    assert not is_uid(uid)


def test_a_corrected_object_takes_the_place_of_the_former(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, LIMITS)
    with inbox.held():
        inbox.store("1.2", "3", b"damaged")
        newest = inbox._newest["1.2"]
        inbox.settle("1.2", newest, "it is damaged")
        inbox.store("1.2", "3", b"mended")
        assert (tmp_path / "received/1.2/3.dcm").read_bytes() == b"mended"
        inbox.settle("1.2", inbox._newest["1.2"])
        inbox.store("1.2", "3", b"late")
        assert (tmp_path / "answered/1.2/3.dcm").read_bytes() == b"mended"


def test_a_refusal_that_cannot_be_noted_on_disk_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox(tmp_path, LIMITS)
    with inbox.held():
        inbox.store("1.2", "3", b"whole")
        with monkeypatch.context() as full:
            full.setattr(Path, "touch", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space"):
                inbox.store("1.2", "4", b"lost")
        assert inbox.missing("1.2") == 1
        inbox.store("1.2", "4", b"found")
        assert inbox.missing("1.2") == 0


def test_a_study_that_is_too_large_says_so(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, replace(LIMITS, study_bytes=8))
    with inbox.held():
        inbox.store("1.2", "3", b"whole")
        with pytest.raises(NoRoomError):
            inbox.store("1.2", "4", b"too much")
        assert (inbox.missing("1.2"), inbox.causes("1.2")) == (1, [TOO_LARGE])


def test_an_object_that_was_answered_and_then_sent_wrongly_is_not_missed(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, LIMITS)
    with inbox.held():
        inbox.store("1.2", "3", b"whole")
        inbox.settle("1.2", inbox._newest["1.2"])
        inbox.note_refused("1.2", "3")
        inbox.store("1.2", "3", b"whole")
        inbox.store("1.2", "4", b"another")
        assert inbox.missing("1.2") == 0


def test_a_second_answer_of_a_study_costs_no_former_one(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, LIMITS)
    with inbox.held():
        for content in ("a person's", "the first again", "the last"):
            scratch = tmp_path / "scratch" / "1.2"
            scratch.mkdir(parents=True)
            (scratch / "report.json").write_text(content)
            inbox.publish(scratch)
    found = {path.parent.name: path.read_text() for path in sorted((tmp_path / "former").rglob("*.json"))}
    assert found == {"1.2.1": "a person's", "1.2.2": "the first again"}
    assert (tmp_path / "1.2" / "report.json").read_text() == "the last"


def test_the_reason_goes_with_a_study_that_a_person_moves_back(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, LIMITS)
    with inbox.held():
        inbox.store("1.2", "3", b"whole")
        inbox.settle("1.2", inbox._newest["1.2"], "no weights")
        assert (tmp_path / "failed/1.2.txt").read_text() == "no weights\n"
        (tmp_path / "failed/1.2").rename(tmp_path / "received/1.2")
        assert inbox.ready() is None
        inbox.settle("1.2", inbox._newest["1.2"])
    assert [path.name for path in (tmp_path / "failed").iterdir()] == []
    assert (tmp_path / "answered/1.2/3.dcm").is_file()


def test_what_was_cut_short_anywhere_is_gone_at_the_next_start(tmp_path: Path) -> None:
    places = [tmp_path / "failed" / ".partial.1.txt", tmp_path / "received" / "1.2" / ".partial.2.3.dcm"]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    with Inbox(tmp_path, LIMITS).held():
        assert not list(tmp_path.rglob(".partial.*"))


def test_what_is_taken_and_answered_outlasts_a_loss_of_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file and its folder are forced to the disk; answers, before they have their name."""
    forced, fsync = set[str](), os.fsync

    def watched(file: int) -> None:
        forced.add(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    inbox = Inbox(tmp_path, LIMITS)
    with inbox.held(), inbox.scratch() as scratch:
        monkeypatch.setattr(os, "fsync", watched)
        inbox.store("1.2", "1.2.3", b"whole")
        assert any("1.2.3.dcm" in path for path in forced)
        assert str(tmp_path / "received" / "1.2") in forced
        (scratch / "1.2").mkdir()
        named_at_sync: list[bool] = []
        monkeypatch.setattr(os, "sync", lambda: named_at_sync.append((tmp_path / "1.2").exists()))
        assert inbox.publish(scratch / "1.2").is_dir()
    assert named_at_sync == [False]
