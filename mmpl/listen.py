"""A small DICOM node: it takes the CT and the PET of a study, answers it once it is complete, and sends the answer on.

No line of the log holds more of a header than UIDs and the numbers of series.
"""

import ipaddress
import logging
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from mmpl.dicom.headers import quiet
from mmpl.dicom.series import MULTI_FRAME_CT, SOP_CLASSES
from mmpl.errors import one_line
from mmpl.inbox import Inbox, NoRoomError, is_uid
from mmpl.names import DICOM_FORMATS

if TYPE_CHECKING:
    from pynetdicom.events import Event

RETRY_AFTER_S = (10.0, 60.0)
"""Pauses before an answer is sent again to a peer that did not take it."""
CONNECTION_S = 10.0
"""Seconds that a peer may take to take a call."""
STALLED_S = 5.0
"""Seconds that a caller may say nothing in the middle of a message."""
POLL_S = 0.2

_STORED, _NO_ROOM, _MISMATCH, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000  # PS3.4 B.2.3
_STORED_WITH_WARNING = (0xB000, 0xB006, 0xB007)
_PERMANENT, _BY_USER, _CALLING_TITLE, _CALLED_TITLE = 1, 1, 3, 7  # PS3.8 9.3.4
_TITLE = re.compile(r"[ -\[\]-~]{1,16}")  # ASCII without the backslash, PS3.5 6.2
NOT_CONNECTED = "no peer has this address: not connected"

log = logging.getLogger(__name__)

Answer = Callable[[Path, Path, Path | None, threading.Event], str]
"""Answers the images of a folder into another, with a record, unless the event is set; gives what kept it from that."""


@dataclass(frozen=True)
class Peer:
    """A node that may send, by its AE title, and by its IP address where one is named."""

    title: str
    address: str = ""

    @classmethod
    def read(cls, text: str) -> "Peer":
        """Read `AET` or `AET@ADDRESS`.

        Raises:
            ValueError: It is neither.
        """
        title, at, address = text.partition("@")
        with suppress(ValueError):
            return cls(title_of(title), str(ipaddress.ip_address(address)) if at else "")
        raise ValueError(f"{text!r} is no peer: write AET or AET@ADDRESS, an IP address")


@dataclass(frozen=True)
class Destination:
    """A node that answers are sent to."""

    title: str
    host: str
    port: int

    @classmethod
    def read(cls, text: str) -> "Destination":
        """Read `AET@HOST:PORT`.

        Raises:
            ValueError: It is not that.
        """
        title, _, place = text.partition("@")
        host, _, port = place.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 65536 and _TITLE.fullmatch(title)):
            raise ValueError(f"{text!r} is no node to send to: write AET@HOST:PORT")
        return cls(title_of(title), host.strip("[]"), int(port))


def title_of(text: str) -> str:
    """Give an AE title without the spaces around it.

    Raises:
        ValueError: It is none.
    """
    if not (_TITLE.fullmatch(text) and text.strip()):
        raise ValueError(f"{text[:40]!r} is no AE title: 1 to 16 ASCII characters, no backslash")
    return text.strip()


def _plain_address(address: str) -> str:
    """Write an IPv4 address that came over IPv6 (`::ffff:10.0.0.5`) as itself."""
    mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    return str(mapped or address)


class Node:
    """A node that takes studies and answers them, one after the other.

    Attributes:
        title: Its AE title.
        peers: Nodes that may send to it.
        records: Folder of clinical records, `<StudyInstanceUID>.json`.
        destination: Node that answers are sent to.
        answer: Function that answers a study.
    """

    def __init__(
        self,
        title: str,
        inbox: Inbox,
        peers: Sequence[Peer],
        records: Path | None = None,
        destination: Destination | None = None,
        answer: Answer | None = None,
    ) -> None:
        self.title, self.inbox, self.peers = title, inbox, peers
        self.records, self.destination, self.answer = records, destination, answer or answer_apart
        self._told = set[tuple[str, str]]()

    def serve(self, host: str, port: int, stop: threading.Event) -> None:
        """Take studies and answer them until an event is set.

        Raises:
            OSError: The port cannot be had; the message names it.
            ValueError: Another node has the folder.
        """
        from pydicom import uid
        from pynetdicom import AE, evt
        from pynetdicom.presentation import DEFAULT_TRANSFER_SYNTAXES
        from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

        compressed = (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes, uid.JPEG2000Lossless, uid.JPEG2000)
        read = [*DEFAULT_TRANSFER_SYNTAXES, *compressed, *uid.RLETransferSyntaxes]
        read.remove(uid.DeflatedExplicitVRLittleEndian)  # a small message may inflate to any size
        ae = AE(self.title)
        ae.require_called_aet = True
        ae.acse_timeout = STALLED_S
        ae.require_calling_aet = [peer.title for peer in self.peers]
        ae.add_supported_context(Verification)
        for sop_class in SOP_CLASSES.keys() - MULTI_FRAME_CT:  # to which the objects of an answer cannot refer
            ae.add_supported_context(sop_class, read)
        handlers = [
            (evt.EVT_CONN_OPEN, _limit_silence),
            (evt.EVT_REQUESTED, self._admit),
            (evt.EVT_C_STORE, self._store),
        ]
        with quiet(), self.inbox.held():
            try:
                server = ae.start_server((host, port), block=False, evt_handlers=handlers)  # type: ignore[arg-type]
                assert server
                server.verify_request = self._may_call  # type: ignore[assignment]
            except OSError as error:
                raise OSError(f"{host}:{port}: cannot be listened on ({error.strerror or error})") from error
            log.info("%s listens on %s:%d, answers in %s", self.title, host, port, self.inbox.folder)
            try:
                while not stop.is_set():
                    ready = self.inbox.ready()
                    if not ready:
                        stop.wait(POLL_S)
                        continue
                    try:
                        self._answer(*ready, stop)
                    except Exception as error:  # the disk is full, say: what was received stays
                        log.error("error: study %s: %s; tried again later", ready[0], one_line(error))
                        self.inbox.postpone(ready[0])
                        stop.wait(max(self.inbox.limits.idle_s, POLL_S))
            finally:
                ae.shutdown()

    def _may_call(self, _: object, address: tuple[str, int]) -> bool:
        """Tell whether a connection is taken at all: not where every peer has an address, and none has the caller's."""
        caller = _plain_address(address[0])
        known = any(peer.address in ("", caller) for peer in self.peers)
        if not known and (caller, NOT_CONNECTED) not in self._told:
            self._told.add((caller, NOT_CONNECTED))
            log.info("%s: %s", caller, NOT_CONNECTED)
        return known

    def _admit(self, event: "Event") -> None:
        """Reject an association that no named peer asks for, or that is meant for another node."""
        asked = event.assoc.requestor.primitive
        assert asked
        caller, address = asked.calling_ae_title.strip(), _plain_address(event.assoc.requestor.address)
        if not any(peer.title == caller and peer.address in ("", address) for peer in self.peers):
            reason, said = _CALLING_TITLE, "is no peer"
        elif asked.called_ae_title.strip() != self.title:
            reason, said = _CALLED_TITLE, f"called {asked.called_ae_title.strip()!r}"
        else:
            return
        log.warning("note: association rejected: %r at %s %s", caller, address, said)
        event.assoc.acse.send_reject(_PERMANENT, _BY_USER, reason)
        event.assoc.kill()

    def _store(self, event: "Event") -> int:
        """Take one object; the status of C-STORE."""
        from pydicom import dcmread

        try:
            content = event.encoded_dataset()
            tags = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"]
            header = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=tags)
            sop_class, instance, study = (str(header[tag].value) for tag in tags)
            asked = str(event.request.AffectedSOPInstanceUID)  # type: ignore[union-attr]
        except Exception:  # a damaged object raises whatever it likes, and says values of the header in doing so
            return self._refuse(_NOT_UNDERSTOOD, "?", "an object cannot be read")
        if not (is_uid(instance) and is_uid(study)):
            return self._refuse(_NOT_UNDERSTOOD, "?", "an object's UID is none")
        if (sop_class, instance) != (event.context.abstract_syntax, asked):
            self.inbox.note_refused(study, instance)
            return self._refuse(_MISMATCH, study, "an object is not what its sender calls it")
        try:
            self.inbox.store(study, instance, content)
        except (NoRoomError, OSError) as error:
            return self._refuse(_NO_ROOM, study, getattr(error, "strerror", None) or str(error))
        return _STORED

    def _refuse(self, status: int, study: str, why: str) -> int:
        if (study, why) not in self._told:  # a line a study, not one an object
            self._told.add((study, why))
            log.error("error: study %s: refused: %s", study, why)
        return status

    def _answer(self, study: str, newest: float, stop: threading.Event) -> None:
        """Answer a study, and send the answer on; where it is to stop, or more has come, another time."""
        images, record = self.inbox.received / study, self.records / f"{study}.json" if self.records else None
        if record and not record.is_file():
            record = None
        log.info("study %s: answering, %s clinical record", study, "with a" if record else "without a")
        began = time.monotonic()
        with self.inbox.scratch() as scratch:
            answers = scratch / study
            missing = self.inbox.missing(study)
            causes = self.inbox.causes(study) or ["send the study again"]
            reason = f"{missing} objects were refused: {'; '.join(causes)}" if missing else ""
            reason = reason or self.answer(images, answers, record, stop)
            if stop.is_set() or not self.inbox.is_whole(study, newest):
                return
            if reason:
                log.error("error: study %s: not answered: %s", study, reason)
                self.inbox.settle(study, newest, reason)
                return
            answers = self.inbox.publish(answers)
        log.info("study %s: answered in %.0f s: %s", study, time.monotonic() - began, answers)
        if self.destination:
            self._send(study, sorted(answers.glob("*.dcm")), self.destination, stop)
        if not stop.is_set():
            self.inbox.settle(study, newest)

    def _send(self, study: str, objects: list[Path], to: Destination, stop: threading.Event) -> None:
        """Send objects to a node, a few times where it does not take them; they stay where they are."""
        count = len(objects)
        for pause in (*RETRY_AFTER_S, 0.0):
            objects = send(objects, self.title, to)
            if not objects:
                log.info("study %s: %d objects sent to %s", study, count, to.title)
                return
            log.warning("note: study %s: %s did not take %d of %d objects", study, to.title, len(objects), count)
            if stop.wait(pause):
                return
        log.error("error: study %s: not sent to %s; the answers are in %s", study, to.title, objects[0].parent)


def _limit_silence(event: "Event") -> None:
    """Let a caller who stalls in the middle of a message hold nothing up, neither others nor the node's end."""
    connection = event.assoc.dul.socket
    if connection and connection.socket:
        connection.socket.settimeout(STALLED_S)


def send(objects: Sequence[Path], title: str, to: Destination) -> list[Path]:
    """Send DICOM objects by C-STORE, in one association.

    Args:
        objects: Their files.
        title: AE title of the sender.
        to: The node.

    Returns:
        Those that it did not take.
    """
    from pydicom import dcmread
    from pydicom.uid import ImplicitVRLittleEndian
    from pynetdicom import AE, build_context

    ae = AE(title)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = CONNECTION_S
    datasets = [dcmread(path) for path in objects]
    own = [(each.SOPClassUID, each.file_meta.TransferSyntaxUID) for each in datasets]
    ae.requested_contexts = [
        build_context(sop, list(dict.fromkeys((syntax, ImplicitVRLittleEndian)))) for sop, syntax in own
    ]
    left = list(objects)
    try:
        association = ae.associate(to.host, to.port, ae_title=to.title)
    except (OSError, UnicodeError):  # no such host, or a name that can be none
        return left
    for path, dataset in zip(objects, datasets, strict=True):
        with suppress(RuntimeError, ValueError):  # no association, or not for such objects
            status = association.send_c_store(dataset).get("Status")
            if status == _STORED or status in _STORED_WITH_WARNING:
                left.remove(path)
    association.release()
    return left


def answer_apart(images: Path, out: Path, record: Path | None, stop: threading.Event, most_s: float = math.inf) -> str:
    """Answer a study by `mmpl case` in a process of its own, which what damages it, or is to stop, ends at once.

    Args:
        images: Folder of the study's images.
        out: Folder that takes the answers.
        record: Clinical record.
        stop: Set where it is to end before it is finished.
        most_s: Seconds after which it is ended.

    Returns:
        What kept it from an answer; blank where nothing did.
    """
    command = [sys.executable, "-m", "mmpl", "case", "--dicom", str(images), "--out", str(out)]
    command += [word for form in sorted(DICOM_FORMATS) for word in ("--format", form)]
    command += ["--record", str(record)] if record else []
    late = time.monotonic() + most_s
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    ) as process:
        while True:
            with suppress(subprocess.TimeoutExpired):
                _, said = process.communicate(timeout=POLL_S)
                break
            if stop.is_set() or time.monotonic() > late:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode == -signal.SIGKILL and time.monotonic() > late:
        return f"answering it took longer than {most_s / 60:g} minutes"
    if process.returncode == 0:
        return ""
    return " ".join(said.partition("error: ")[2].split()) or f"answering it ended with code {process.returncode}"


def run(node: Node, host: str, port: int) -> None:
    """Run a node until the process is asked to end, by SIGTERM or SIGINT.

    Raises:
        OSError: The port cannot be had; the message names it.
    """
    stop, asked = threading.Event(), list[int]()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.append(number))  # no event, whose lock may be held
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(node.serve, host, port, stop)
        while not (asked or wait([served], POLL_S).done):
            pass
        stop.set()
        served.result()
    log.info("ended; studies that wait for the next start: %d", len(node.inbox.waiting))
