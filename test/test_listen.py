"""The DICOM node: real associations with pynetdicom, and dcmtk where it is installed, as the peers."""

import copy
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from dicom_files import SECRETS, STUDY, write_ct, write_pet
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    CTImageStorage,
    EnhancedCTImageStorage,
    RTStructureSetStorage,
    Verification,
)

from mmpl import listen
from mmpl.__main__ import main
from mmpl.algorithm import Algorithm
from mmpl.case import Case
from mmpl.errors import one_line
from mmpl.inbox import Inbox, Limits
from mmpl.listen import Destination, Node, Peer, answer_apart
from mmpl.names import DICOM_FORMATS, PAGE
from mmpl.patient import Sources, answer_patient

IDLE_S = 0.5
LIMITS = Limits(IDLE_S, 2**30, 20, 0)
SENT, NO_ROOM = 0x0000, 0xA700
OBJECTS = ["mask_rtstruct.dcm", "mask_seg.dcm", "mask_sr.dcm"]
FILES = ["mask.nii.gz", *OBJECTS, "picture.png", PAGE, "report.json"]
Answer = Callable[[Path, Path, Path | None, threading.Event], str]


@pytest.fixture(scope="module")
def datasets(head: Case, tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """The standard head as a scanner sends it."""
    folder = tmp_path_factory.mktemp("scanner")
    write_ct(folder / "ct", head.ct)
    write_pet(folder / "pet", head.pet)
    return [dcmread(path) for path in sorted(folder.rglob("*.dcm"))]


@pytest.fixture
def study(datasets: list[Dataset]) -> str:
    return str(datasets[0].StudyInstanceUID)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def running(
    folder: Path,
    answer: Answer,
    limits: Limits = LIMITS,
    peers: tuple[str, ...] = ("SCANNER",),
    records: Path | None = None,
    to: Destination | None = None,
) -> Iterator[int]:
    """Run a node in a thread, and give its port."""
    inbox, stop, port, asked = Inbox(folder, limits), threading.Event(), free_port(), list[Path]()

    def watched(images: Path, out: Path, record: Path | None, stop: threading.Event) -> str:
        asked.append(images)
        return answer(images, out, record, stop)

    node = Node("MMPL", inbox, [Peer.read(each) for each in peers], records, to, watched)
    thread = threading.Thread(target=node.serve, args=("127.0.0.1", port, stop))
    thread.start()
    try:
        wait_for(lambda: answers_calls(port))
        wait_for(lambda: not any(isinstance(each, Association) for each in threading.enumerate()))  # of that call
        yield port
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()
    assert not (answer is no_answer and asked)


def answers_calls(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def wait_for(done: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def send(port: int, datasets: list[Dataset], title: str = "SCANNER", called: str = "MMPL") -> list[int]:
    """Send objects in one association; the status of each, none where the association was rejected."""
    ae = AE(title)
    for each in {dataset.SOPClassUID for dataset in datasets}:
        ae.add_requested_context(each)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        assert association.is_rejected
        return []
    statuses = [association.send_c_store(dataset).Status for dataset in datasets]
    association.release()
    return statuses


def no_answer(images: Path, out: Path, record: Path | None, stop: threading.Event) -> str:
    return "nothing is to be answered"


class Recorder:
    """Answers nothing but how many images there were, and keeps what it was given."""

    def __init__(self, reason: str = "") -> None:
        self.counts: list[int] = []
        self.records: list[Path | None] = []
        self.reason = reason

    def __call__(self, images: Path, out: Path, record: Path | None, stop: threading.Event) -> str:
        self.counts.append(len(list(images.glob("*.dcm"))))
        self.records.append(record)
        if not self.reason:
            out.mkdir()
            (out / "report.json").write_text(str(self.counts[-1]))
        return self.reason


@pytest.fixture
def answer(blind_ensemble: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Answer as `mmpl case` does, in this process and without a page."""
    monkeypatch.setenv("MMPL_WEIGHTS", str(blind_ensemble))
    algorithm = Algorithm.load(lesions=True)

    def answered(images: Path, out: Path, record: Path | None, stop: threading.Event) -> str:
        try:
            answer_patient(Sources(images, record=record), out, algorithm, formats=DICOM_FORMATS, page=False)
        except ValueError as error:
            return one_line(error)
        return ""

    return answered


@contextmanager
def archive(title: str = "ARCHIVE", syntax: str = "") -> Iterator[tuple[Destination, list[Dataset]]]:
    """A node that takes what is sent to it, in one transfer syntax alone where one is named."""
    taken: list[Dataset] = []

    def keep(event: evt.Event) -> int:
        taken.append(event.dataset)
        return SENT

    ae = AE(title)
    ae.require_called_aet = True
    for each in ("1.2.840.10008.5.1.4.1.1.66.4", RTStructureSetStorage, "1.2.840.10008.5.1.4.1.1.88.34"):
        ae.add_supported_context(each, *[syntax] * bool(syntax))
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    assert server
    try:
        yield Destination(title, "127.0.0.1", server.server_address[1]), taken
    finally:
        server.shutdown()


def test_a_study_is_answered_and_the_answer_sent(
    datasets: list[Dataset], study: str, answer: Answer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / f"{study}.json").write_text('{"Age": 50, "Treatment": 1}')
    out = tmp_path / "out"
    with archive() as (to, taken), running(out, answer, records=tmp_path / "records", to=to) as port:
        assert set(send(port, datasets)) == {SENT}
        wait_for(lambda: (out / "answered" / study).exists())
    assert sorted(path.name for path in (out / study).iterdir()) == [name for name in FILES if name != PAGE]
    assert sorted(path.name for path in out.iterdir()) == sorted([".lock", study, "answered", "failed", "received"])
    report = json.loads((out / study / "report.json").read_text())
    assert report["patient"] == study
    assert not any(flag.startswith("no clinical record") for flag in report["flags"])
    assert sorted(each.Modality for each in taken) == ["RTSTRUCT", "SEG", "SR"]
    assert {each.StudyInstanceUID for each in taken} == {study}
    assert {each.PatientID for each in taken} == {STUDY.patient_id}
    ours = [record.getMessage() for record in caplog.records if record.name == "mmpl.listen"]
    assert f"study {study}: 3 objects sent to ARCHIVE" in ours
    assert not any(secret in line for line in ours for secret in SECRETS)


def test_a_record_goes_with_its_study(datasets: list[Dataset], study: str, tmp_path: Path) -> None:
    recorder, records = Recorder(), tmp_path / "records"
    records.mkdir()
    (records / "1.2.3.json").write_text("{}")
    with running(tmp_path, recorder, records=records) as port:
        send(port, datasets[:1])
        wait_for(lambda: (tmp_path / "answered" / study).exists())
        (records / f"{study}.json").write_text("{}")
        send(port, datasets[1:2])
        wait_for(lambda: (tmp_path / "former" / f"{study}.1").exists() and (tmp_path / "answered" / study).exists())
    assert recorder.records == [None, records / f"{study}.json"]


def test_echo_and_who_may_call(tmp_path: Path, datasets: list[Dataset], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with running(tmp_path, no_answer, peers=("SCANNER", "PACS@127.0.0.1", "FAR@10.9.8.7")) as port:
        ae = AE("PACS")
        ae.add_requested_context(Verification)
        association = ae.associate("127.0.0.1", port, ae_title="MMPL")
        assert association.send_c_echo().Status == SENT
        association.release()
        assert send(port, datasets[:1], title="STRANGER") == []
        assert send(port, datasets[:1], title="FAR") == []
        assert send(port, datasets[:1], called="OTHER") == []
    assert list((tmp_path / "received").iterdir()) == []
    assert [record.getMessage() for record in caplog.records if record.name == "mmpl.listen"] == [
        "note: association rejected: 'STRANGER' at 127.0.0.1 is no peer",
        "note: association rejected: 'FAR' at 127.0.0.1 is no peer",
        "note: association rejected: 'SCANNER' at 127.0.0.1 called 'OTHER'",
    ]


def test_other_objects_are_refused_by_their_context(tmp_path: Path) -> None:
    """So is an enhanced CT, to which the objects of an answer cannot refer."""
    with running(tmp_path, no_answer) as port:
        ae = AE("SCANNER")
        for each in (RTStructureSetStorage, EnhancedCTImageStorage, CTImageStorage):
            ae.add_requested_context(each)
        association = ae.associate("127.0.0.1", port, ae_title="MMPL")
        assert [each.abstract_syntax for each in association.accepted_contexts] == [CTImageStorage]
        association.release()


def test_what_is_deflated_is_sent_otherwise(tmp_path: Path) -> None:
    """A small message may inflate to any size."""
    with running(tmp_path, no_answer) as port:
        ae = AE("SCANNER")
        ae.add_requested_context(CTImageStorage, DeflatedExplicitVRLittleEndian)
        ae.add_requested_context(CTImageStorage, ImplicitVRLittleEndian)
        association = ae.associate("127.0.0.1", port, ae_title="MMPL")
        assert [each.transfer_syntax for each in association.accepted_contexts] == [[ImplicitVRLittleEndian]]
        association.release()


def test_where_every_peer_has_an_address_no_other_may_even_connect(tmp_path: Path) -> None:
    with (
        running(tmp_path, no_answer, peers=("FAR@10.9.8.7",)) as port,
        socket.create_connection(("127.0.0.1", port), timeout=20) as caller,
    ):
        assert caller.recv(1) == b""  # closed before a word was said


def test_an_object_is_stored_once_and_new_ones_bring_another_answer(
    datasets: list[Dataset], study: str, tmp_path: Path
) -> None:
    recorder = Recorder()
    with running(tmp_path, recorder) as port:
        assert send(port, [*datasets[:3], *datasets[:3]]) == [SENT] * 6
        wait_for(lambda: (tmp_path / "answered" / study).exists())
        assert send(port, datasets[:3]) == [SENT] * 3
        time.sleep(3 * IDLE_S)
        assert recorder.counts == [3]
        assert send(port, datasets[3:5]) == [SENT] * 2
        wait_for(lambda: (tmp_path / "former" / f"{study}.1").exists() and (tmp_path / "answered" / study).exists())
    assert recorder.counts == [3, 5]
    assert (tmp_path / study / "report.json").read_text() == "5"
    assert (tmp_path / "former" / f"{study}.1" / "report.json").read_text() == "3"


def test_a_study_that_a_person_put_back_is_answered_once(datasets: list[Dataset], study: str, tmp_path: Path) -> None:
    """As a copy, so that it lies in two places."""
    recorder = Recorder()
    with running(tmp_path, recorder) as port:
        send(port, datasets[:3])
        wait_for(lambda: (tmp_path / "answered" / study).exists())
        some = sorted((tmp_path / "answered" / study).iterdir())[1:]
        (tmp_path / "copy").mkdir()
        for path in some:
            shutil.copy(path, tmp_path / "copy")
        (tmp_path / "copy").rename(tmp_path / "received" / study)
        wait_for(lambda: not (tmp_path / "received" / study).exists())
        time.sleep(3 * IDLE_S)
    assert recorder.counts == [3, 2]
    assert len(list((tmp_path / "answered" / study).iterdir())) == 3  # nothing is lost


@pytest.mark.parametrize("syntax", ["", ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_objects_are_sent_in_what_the_other_node_takes(datasets: list[Dataset], tmp_path: Path, syntax: str) -> None:
    """PS3.5 10.1: implicit little endian is taken by every node."""
    path = tmp_path / "1.dcm"
    made = copy.deepcopy(datasets[0])
    made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.save_as(path, enforce_file_format=True)
    assert dcmread(path).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    with archive(syntax=syntax) as (to, taken):
        assert listen.send([path], "MMPL", to) == []
    assert [each.SOPInstanceUID for each in taken] == [made.SOPInstanceUID]


def test_what_comes_while_it_is_answered_is_answered_too(datasets: list[Dataset], study: str, tmp_path: Path) -> None:
    begun, sent, recorder = threading.Event(), threading.Event(), Recorder()

    def slow(images: Path, out: Path, record: Path | None, stop: threading.Event) -> str:
        said = recorder(images, out, record, stop)
        begun.set()
        sent.wait(20)
        return said

    with running(tmp_path, slow) as port:
        send(port, datasets[:2])
        assert begun.wait(20)
        send(port, datasets[2:3])
        sent.set()
        wait_for(lambda: (tmp_path / "answered" / study).exists())
    assert recorder.counts == [2, 3]


def test_a_study_that_cannot_be_answered_is_kept_with_the_reason_and_the_next_is_answered(
    datasets: list[Dataset], study: str, head: Case, answer: Answer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = write_ct(tmp_path / "other", head.ct, replace(STUDY, patient_id="Somebody-4712"))
    alone = str(other[0].StudyInstanceUID)
    out = tmp_path / "out"
    answers = {alone: answer, study: Recorder()}
    with running(out, lambda images, *others: answers[images.name](images, *others)) as port:
        send(port, [dcmread(path) for path in (tmp_path / "other").iterdir()])
        wait_for(lambda: (out / "failed" / alone).exists())
        send(port, datasets[:1])
        wait_for(lambda: (out / "answered" / study).exists())
    assert not (out / alone).exists()
    assert len(list((out / "failed" / alone).glob("*.dcm"))) == len(other)
    reason = f"{out}/received/{alone}: no PET series"
    assert (out / "failed" / f"{alone}.txt").read_text() == f"{reason}\n"
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == [f"error: study {alone}: not answered: {reason}"]


def test_a_failed_study_that_is_sent_again_is_tried_again(datasets: list[Dataset], study: str, tmp_path: Path) -> None:
    recorder = Recorder("no")
    with running(tmp_path, recorder) as port:
        send(port, datasets[:2])
        wait_for(lambda: (tmp_path / "failed" / study).exists())
        recorder.reason = ""
        send(port, datasets[:2])
        wait_for(lambda: (tmp_path / "answered" / study).exists())
    assert recorder.counts == [2, 2]
    assert list((tmp_path / "failed").iterdir()) == []


def test_a_study_of_which_an_object_was_refused_is_not_answered_half(
    datasets: list[Dataset], study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up, so that what was received stays; then there is room, and what is missing is sent again."""
    recorder, full = Recorder(), threading.Event()
    write_bytes = Path.write_bytes

    def write(path: Path, content: bytes) -> int:
        if full.is_set() and path.suffix == ".dcm":
            write_bytes(path, content[:100])
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    with running(tmp_path, recorder) as port:
        assert send(port, datasets[:2]) == [SENT] * 2
        full.set()
        assert send(port, datasets[2:4]) == [NO_ROOM] * 2
        wait_for(lambda: (tmp_path / "failed" / study).exists())
        assert sorted(path.stem for path in (tmp_path / "failed" / study).glob("[!.]*")) == sorted(
            str(each.SOPInstanceUID) for each in datasets[:2]
        )
        assert not list(tmp_path.rglob(".partial.*"))
        reason = (tmp_path / "failed" / f"{study}.txt").read_text()
        assert reason == "2 objects were refused: send the study again\n"
        full.clear()
        assert send(port, datasets[2:3]) == [SENT]
        wait_for(lambda: (tmp_path / "failed" / study).exists())  # one is missing still
        assert send(port, datasets[3:4]) == [SENT]
        wait_for(lambda: (tmp_path / "answered" / study).exists())
    assert recorder.counts == [4]


def test_limits_of_a_study_and_of_the_disk(datasets: list[Dataset], study: str, tmp_path: Path) -> None:
    one = Path(datasets[0].filename).stat().st_size
    for name, limits in (
        ("study", replace(LIMITS, study_bytes=5 * one // 2)),
        ("disk", replace(LIMITS, free_bytes=shutil.disk_usage(tmp_path).total)),
    ):
        with running(tmp_path / name, no_answer, limits) as port:
            statuses = send(port, datasets[:4])
            assert statuses == ([SENT, SENT, NO_ROOM, NO_ROOM] if name == "study" else [NO_ROOM] * 4)
            wait_for(lambda name=name: (tmp_path / name / "failed" / study).exists())  # type: ignore[misc]


def test_no_more_studies_wait_than_may(head: Case, datasets: list[Dataset], study: str, tmp_path: Path) -> None:
    other = write_ct(tmp_path / "other", head.ct, replace(STUDY, patient_id="other"))
    others = [dcmread(path) for path in (tmp_path / "other").iterdir()][:2]
    out, alone = tmp_path / "out", str(other[0].StudyInstanceUID)
    recorder = Recorder()
    with running(out, recorder, replace(LIMITS, waiting=1, idle_s=2.0)) as port:
        assert send(port, datasets[:1]) == [SENT]
        assert send(port, others[:1]) == [NO_ROOM]
        assert (out / "failed" / f"{alone}.txt").read_text() == "1 studies wait already: send the study again\n"
        assert send(port, datasets[1:2]) == [SENT]
        wait_for(lambda: (out / "answered" / study).exists())
        assert send(port, others[1:]) == [SENT]
        wait_for(lambda: (out / "failed" / f"{alone}.txt").exists())  # its first was refused
        assert send(port, others[:1]) == [SENT]
        wait_for(lambda: (out / "answered" / alone).exists())
    assert recorder.counts == [2, 2]


def test_a_uid_that_leads_out_of_the_folder_stores_nothing(
    datasets: list[Dataset], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    spoiled = []
    for keyword in ("StudyInstanceUID", "SOPInstanceUID"):
        spoiled.append(dcmread(datasets[0].filename))
        with pytest.warns(UserWarning, match="Invalid value"):
            setattr(spoiled[-1], keyword, "../../4711")
    with running(tmp_path / "out", no_answer) as port:
        before = sorted(tmp_path.rglob("*"))
        for each in spoiled:
            ae = AE("SCANNER")
            ae.add_requested_context(CTImageStorage)
            association = ae.associate("127.0.0.1", port, ae_title="MMPL")
            try:
                status = association.send_c_store(each)
                assert status.get("Status") not in (SENT, None)
            except ValueError:
                pass  # the sender will not have it
            association.abort()
        assert sorted(tmp_path.rglob("*")) == before
    said = [record.getMessage() for record in caplog.records if record.name.startswith("mmpl")]
    assert said == ["error: study ?: refused: an object's UID is none"]


def test_an_object_that_is_not_what_its_sender_calls_it(
    datasets: list[Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender that reads the file's meta information alone."""
    monkeypatch.setattr("pynetdicom._config.STORE_SEND_CHUNKED_DATASET", True)
    disguised = dcmread(datasets[0].filename)
    disguised.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    disguised.save_as(tmp_path / "disguised.dcm")
    with running(tmp_path / "out", no_answer) as port:
        ae = AE("SCANNER")
        ae.add_requested_context(CTImageStorage, disguised.file_meta.TransferSyntaxUID)
        association = ae.associate("127.0.0.1", port, ae_title="MMPL")
        assert association.send_c_store(tmp_path / "disguised.dcm").Status == 0xA900
        association.release()
        assert list((tmp_path / "out" / "received").iterdir()) == []


def test_a_peer_that_does_not_answer_keeps_nothing_from_the_folder(
    datasets: list[Dataset],
    study: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(listen, "RETRY_AFTER_S", (0.0, 0.0))

    def made(images: Path, out: Path, record: Path | None, stop: threading.Event) -> str:
        out.mkdir()
        shutil.copy(next(images.iterdir()), out / "mask_seg.dcm")
        return ""

    with running(tmp_path, made, to=Destination("NOBODY", "127.0.0.1", free_port())) as port:
        send(port, datasets[:1])
        wait_for(lambda: (tmp_path / "answered" / study).exists())
    assert (tmp_path / study / "mask_seg.dcm").is_file()
    said = [record.getMessage() for record in caplog.records if record.name == "mmpl.listen"]
    assert said == [f"note: study {study}: NOBODY did not take 1 of 1 objects"] * 3 + [
        f"error: study {study}: not sent to NOBODY; the answers are in {tmp_path / study}"
    ]


def test_a_folder_of_another_node_and_a_port_in_use(tmp_path: Path) -> None:
    node, stop = Node("MMPL", Inbox(tmp_path, LIMITS), []), threading.Event()
    with Inbox(tmp_path, LIMITS).held(), pytest.raises(ValueError, match="another node uses it"):
        node.serve("127.0.0.1", free_port(), stop)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"^127.0.0.1:{port}: cannot be listened on \(Address already in use\)$"):
            node.serve("127.0.0.1", port, stop)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--peer", "A@host.name"), "'A@host.name' is no peer: write AET or AET@ADDRESS, an IP address"),
        (("--peer", "A\\B"), "'A\\\\B' is no peer: write AET or AET@ADDRESS, an IP address"),
        (("--peer", "A", "--aet", "x" * 17), f"{'x' * 17!r} is no AE title: 1 to 16 ASCII characters, no backslash"),
        (("--peer", "A", "--send-to", "B@host"), "'B@host' is no node to send to: write AET@HOST:PORT"),
        (("--peer", "A", "--send-to", "B@host:99999"), "'B@host:99999' is no node to send to: write AET@HOST:PORT"),
        (("--peer", "A", "--records", "absent"), "absent: no such folder"),
    ],
)
def test_what_is_named_wrongly_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["mmpl", "listen", "--out", str(tmp_path / "out"), *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert (stopped.value.code, capfd.readouterr().err) == (1, f"error: {said}\n")
    assert not (tmp_path / "out").exists()


def test_nobody_may_send_where_nobody_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mmpl", "listen", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "Missing option '--peer'" in capfd.readouterr().err


def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pynetdicom", None)
    monkeypatch.setattr("sys.argv", ["mmpl", "listen", "--out", str(tmp_path / "out"), "--peer", "A"])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = f"error: pynetdicom is not installed: {sys.executable} -m pip install -r requirements-dicom.txt\n"
    assert (stopped.value.code, capfd.readouterr().err) == (1, error)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_with_dcmtk_ends_while_it_answers_and_the_next_start_goes_on(
    datasets: list[Dataset],
    study: str,
    blind_ensemble: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As it is run, answering in processes of their own: SIGTERM while a study is answered."""
    folders = [place for place in os.get_exec_path() if Path(place) != Path(sys.executable).parent]
    storescu = shutil.which("storescu", path=os.pathsep.join(folders))  # pynetdicom brings another of that name
    if not storescu:
        pytest.skip("DCMTK's storescu is not installed")
    for number, dataset in enumerate(datasets):
        dataset.save_as(tmp_path / f"{number}.dcm")
    monkeypatch.setenv("MMPL_WEIGHTS", str(blind_ensemble))
    monkeypatch.chdir(root)
    out, port = tmp_path / "out", free_port()
    arguments = ["--out", out, "--peer", "STORESCU", "--port", port, "--idle", "0.5", "--keep-free-gib", "0"]
    command = [sys.executable, "-m", "mmpl", "listen", *map(str, arguments)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as node:
        try:
            wait_for(lambda: answers_calls(port))
            sent = [storescu, "-R", "-aec", "MMPL", "127.0.0.1", str(port), *map(str, tmp_path.glob("*.dcm"))]
            subprocess.run(sent, check=True, timeout=60)
            wait_for(lambda: list(out.glob(".answering.*")))
            time.sleep(1.0)
        finally:
            node.send_signal(signal.SIGTERM)
            asked = time.monotonic()
            said, _ = node.communicate(timeout=30)
    assert node.returncode == 0
    assert time.monotonic() - asked < 5
    assert f"study {study}: answering" in said
    assert said.endswith("ended; studies that wait for the next start: 1\n")
    assert not (out / study).exists()
    assert not list(out.glob(".answering.*"))
    with running(out, answer_apart):
        wait_for(lambda: (out / "answered" / study).exists(), 240)
    assert sorted(path.name for path in (out / study).iterdir()) == FILES
    assert not any(secret in line for line in (said, caplog.text) for secret in SECRETS)


def test_it_is_no_part_of_the_container(root: Path) -> None:
    assert "pynetdicom" not in (root / "requirements.txt").read_text()
    code = "import sys, mmpl.__main__, mmpl.algorithm; print('pynetdicom' in sys.modules, 'mmpl.listen' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False False"


def is_let_in(port: int) -> bool:
    ae = AE("SCANNER")
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", port, ae_title="MMPL")
    established = association.is_established
    association.release()
    return established


def test_a_caller_who_stalls_holds_up_neither_others_nor_the_end(
    tmp_path: Path, datasets: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "STALLED_S", 1.0)
    with running(tmp_path, no_answer) as port:
        stalled = [socket.create_connection(("127.0.0.1", port)) for _ in range(11)]
        for each in stalled:
            each.sendall(b"\x01\x00\x00\x00")  # the begin of a call
        wait_for(lambda: is_let_in(port), 20)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    for each in stalled:
        each.close()


def test_an_ipv4_address_over_ipv6_is_itself() -> None:
    node = Node("MMPL", Inbox(Path("nowhere"), LIMITS), [Peer.read("PACS@10.0.0.5")])
    assert node._may_call(None, ("::ffff:10.0.0.5", 104))
    assert not node._may_call(None, ("::ffff:10.0.0.6", 104))


def test_an_answer_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nsleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    began = time.monotonic()
    said = answer_apart(tmp_path, tmp_path / "out", None, threading.Event(), most_s=0.6)
    assert (said, time.monotonic() - began < 20) == ("answering it took longer than 0.01 minutes", True)


def test_a_signal_in_the_middle_of_anything_ends_the_node(tmp_path: Path) -> None:
    """As in the middle of asking whether to stop, whose lock the handler may not want."""

    class Held(Node):
        def serve(self, host: str, port: int, stop: threading.Event) -> None:
            with stop._cond:  # type: ignore[attr-defined]
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.5)
            assert stop.wait(20)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    inbox = Inbox(tmp_path, LIMITS)
    try:
        with inbox.held():
            listen.run(Held("MMPL", inbox, []), "127.0.0.1", 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
