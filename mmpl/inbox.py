"""The studies of a DICOM node on disk.

The images of a study lie in one folder below one of three places, and that is all the state there is: `received` until
they are answered, then `answered`, or `failed` with the reason beside them. A start goes on with what was received.
"""

import fcntl
import logging
import os
import re
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from mmpl.files import PARTIAL, write_whole

TOO_LARGE = "the study is larger than the limit"
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_REFUSED, _SCRATCH = ".refused.", ".answering."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How much a node takes.

    Attributes:
        idle_s: Seconds without a new object after which a study is complete.
        study_bytes: Bytes of one study.
        waiting: Studies that wait for their answer.
        free_bytes: Bytes of disk that stay free.
    """

    idle_s: float
    study_bytes: int
    waiting: int
    free_bytes: int


class NoRoomError(Exception):
    """An object that is not taken, and why."""


def is_uid(text: str) -> bool:
    """Tell a UID, numbers with dots between, which cannot lead out of a folder as a file's name (PS3.5 9.1)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


class Inbox:
    """The studies on disk; more than one thread may store.

    Attributes:
        folder: Takes the three places of images, and a folder of answers a study.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self.received, self.answered, self.failed = (folder / name for name in ("received", "answered", "failed"))
        self._lock, self._newest = threading.Lock(), dict[str, float]()
        self._refused: defaultdict[str, set[str]] = defaultdict(set)
        self._told_again = set[str]()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the folder, and remove what an end in the middle of something left there.

        Raises:
            ValueError: Another node has it.
        """
        for place in (self.received, self.answered, self.failed):
            place.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(f"{self.folder}: another node uses it") from None
            for path in self.folder.glob(f"{_SCRATCH}*"):
                shutil.rmtree(path)
            for path in self.folder.rglob(f"{PARTIAL}*"):
                path.unlink()
            yield

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Make a folder for answers until they are published; what is left in it goes."""
        with TemporaryDirectory(prefix=_SCRATCH, dir=self.folder) as folder:
            yield Path(folder)

    def store(self, study: str, instance: str, content: bytes) -> None:
        """Store an object, once. It brings a study that failed, or that lacked it when answered, back to be answered.

        One with other content takes the place of the former, until the study is answered. That an object was refused,
        or that writing it was cut short, is noted, in the study's folder, too, until it is there.

        Raises:
            NoRoomError: A limit would be passed.
            OSError: It cannot be written.
        """
        with self._lock:
            places = (self.received, self.answered, self.failed)
            place = next((each for each in places if (each / study).is_dir()), None)
            name = f"{instance}.dcm"
            there = place / study / name if place else None
            if there and there.is_file() and place == self.answered:
                self._refused[study].discard(instance)
                if study not in self._told_again and there.read_bytes() != content:
                    self._told_again.add(study)
                    log.warning("note: study %s: objects came again, otherwise than they were answered", study)
                return
            known = there is not None and there.is_file() and there.read_bytes() == content
            self._refused[study].add(instance)
            home = (place or self.failed) / study
            home.mkdir(exist_ok=True)
            if not known:
                self._newest[study] = time.monotonic()
            refused = home / f"{_REFUSED}{instance}"
            refused.touch()
            if place != self.received:
                if len(self.waiting) >= self.limits.waiting:
                    reason = f"{self.limits.waiting} studies wait already"
                    if home.parent == self.failed:
                        self._say_why(study, f"{reason}: send the study again")
                    raise NoRoomError(reason)
                home = self._move(study, home.parent, self.received)
            if not known:
                if len(content) + sum(path.stat().st_size for path in home.iterdir()) > self.limits.study_bytes:
                    refused.write_text(TOO_LARGE)
                    raise NoRoomError(TOO_LARGE)
                if shutil.disk_usage(home).free - len(content) < self.limits.free_bytes:
                    raise NoRoomError("the disk is as full as it may be")
                with write_whole(home / name, lasting=True) as written:
                    written.write_bytes(content)
            (home / refused.name).unlink()
            self._refused[study].discard(instance)

    def note_refused(self, study: str, instance: str) -> None:
        """Note an object that is not taken, so that its study is not answered without it."""
        with self._lock:
            self._refused[study].add(instance)
            self._newest[study] = time.monotonic()
            if (self.received / study).is_dir():
                with suppress(OSError):
                    (self.received / study / f"{_REFUSED}{instance}").touch()

    def postpone(self, study: str) -> None:
        """Let a study wait behind the others."""
        with self._lock:
            self._newest[study] = time.monotonic()

    def ready(self) -> tuple[str, float] | None:
        """Give the study that has been complete for longest, and the moment of its newest object; None without one."""
        with self._lock:
            now = time.monotonic()
            newest = {study: self._newest.setdefault(study, now) for study in self.waiting}
            study = min(newest, key=newest.__getitem__, default=None)
            return (study, newest[study]) if study and now - newest[study] >= self.limits.idle_s else None

    def missing(self, study: str) -> int:
        """Count the objects of a study that were refused, and have not come again."""
        noted = {path.name.removeprefix(_REFUSED) for path in (self.received / study).glob(f"{_REFUSED}*")}
        with self._lock:
            return len(noted | self._refused[study])

    def causes(self, study: str) -> list[str]:
        """Give why objects of a study were refused, as far as that stays true when they come again."""
        with self._lock:
            return sorted({path.read_text() for path in (self.received / study).glob(f"{_REFUSED}*")} - {""})

    def is_whole(self, study: str, newest: float) -> bool:
        """Tell whether nothing has come of a study since, be it stored or refused."""
        return self._newest.get(study) == newest

    def settle(self, study: str, newest: float, reason: str = "") -> None:
        """Move a study that was answered, or could not be for a reason; but not where more of it has come since."""
        with self._lock:
            if not self.is_whole(study, newest):
                return
            self._say_why(study, reason)  # before the study is there: who sees it finds the reason
            self._move(study, self.received, self.failed if reason else self.answered)
            del self._newest[study]
            self._refused.pop(study, None)

    def publish(self, answers: Path) -> Path:
        """Give a study's answers their place; those of before, which may hold a person's work, go to `former`."""
        target, former = self.folder / answers.name, self.folder / "former"
        if target.exists():
            former.mkdir(exist_ok=True)
            names = (former / f"{answers.name}.{number}" for number in count(1))
            target.rename(next(name for name in names if not name.exists()))
        os.sync()  # no loss of power may leave a study settled and its answers empty
        return answers.rename(target)

    @property
    def waiting(self) -> list[str]:
        """The studies that were received and not answered."""
        return [path.name for path in self.received.iterdir() if is_uid(path.name)]

    def _move(self, study: str, source: Path, target: Path) -> Path:
        if source == self.failed:
            self._say_why(study, "")
        moved, there = source / study, target / study
        if there.is_dir():  # a person put a copy of the study back: it counts, with what only the other has
            for path in there.iterdir():
                if not (moved / path.name).exists():
                    path.rename(moved / path.name)
            shutil.rmtree(there)
        return moved.rename(there)

    def _say_why(self, study: str, reason: str) -> None:
        """Write why a study failed beside it, or remove what stood there before, where a person moved it back, too."""
        path = self.failed / f"{study}.txt"
        if not reason:
            path.unlink(missing_ok=True)
            return
        with write_whole(path) as written:
            written.write_text(f"{reason}\n")
