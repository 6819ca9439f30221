"""Stored values of several patients at once: what one file does to the decoder is no other's affair."""

import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np

from mmpl.dicom.pixels import _in_another_process, decode
from mmpl.io.integrity import caught_stderr

STORED = np.arange(6, dtype=np.uint16).reshape(2, 3)
WHOLE = SimpleNamespace(pixel_array=STORED, SamplesPerPixel=1)


class Crash:
    """A file that ends the process that decodes it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (1,)


def read(dataset: object) -> object:
    try:
        return _in_another_process(dataset)
    except Exception as error:
        return error


def test_a_file_that_ends_the_decoder_takes_no_other_with_it() -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(read, [WHOLE, Crash(), WHOLE, WHOLE]))
    ended = [isinstance(each, Exception) for each in found]
    assert ended == [False, True, False, False]
    assert all((each == STORED).all() for each, lost in zip(found, ended, strict=True) if not lost)


def test_what_is_said_meanwhile_damages_no_image() -> None:
    said: list[str] = []
    with caught_stderr(said):
        os.write(2, b"of another patient\n")
        assert (decode(WHOLE) == STORED).all()
    assert said == ["of another patient"]
