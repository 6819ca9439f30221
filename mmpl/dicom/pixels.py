"""The values that a DICOM file stores, before they are rescaled.

Decoders of compressed pixels are written in C, and a damaged stream may end the process that they run in. So they run
in one of their own.
"""

import threading
from functools import cache
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from mmpl.case import InvalidInputError
from mmpl.dicom.headers import Header, Stored, quiet, read_dataset
from mmpl.io.integrity import caught_stderr

if TYPE_CHECKING:
    from joblib.externals.loky import ProcessPoolExecutor
    from pydicom import Dataset

LONGEST_S = 120.0
"""Seconds that decoding one file may take, the start of the other process among them."""
_OTHER_PROCESS = threading.Lock()


def read_pixels(file: Stored) -> NDArray:
    """Read the stored values of a file, (y, x) or (frame, y, x).

    Raises:
        InvalidInputError: They are damaged, cut short, or compressed in a way that is not read.
    """
    dataset = read_dataset(file, pixels=True)
    try:
        syntax = dataset.file_meta.TransferSyntaxUID
        return _in_another_process(dataset) if syntax.is_encapsulated else decode(dataset)
    except Exception:  # a damaged file raises whatever it likes, and says values of the header in doing so
        raise InvalidInputError(f"{file}: {_why_not(file, dataset)}") from None


def decode(dataset: "Dataset") -> NDArray:
    """Decode the pixels of a dataset.

    Raises:
        ValueError: They are no gray image; or whatever else a decoder raises.
    """
    with quiet():
        stored = dataset.pixel_array
    if stored.dtype.kind not in "iu" or dataset.SamplesPerPixel != 1:
        raise ValueError("no gray image")
    return stored


def decode_compressed(dataset: "Dataset") -> NDArray:
    """Decode compressed pixels, as `decode` does, in a process where nothing else writes to stderr.

    Raises:
        ValueError: The decoder complains, too.
    """
    complaints: list[str] = []
    with caught_stderr(complaints):
        stored = decode(dataset)
    if complaints:
        raise ValueError("a damaged image")
    return stored


@cache
def _decoders() -> "ProcessPoolExecutor":
    """Start the process once; not joblib's own, which its other callers share."""
    from joblib.externals.loky import ProcessPoolExecutor

    return ProcessPoolExecutor(max_workers=1)


def _in_another_process(dataset: "Dataset") -> NDArray:
    from joblib.externals.loky import BrokenProcessPool

    with _OTHER_PROCESS:  # or who waits for it would be lost with a file that ends it
        try:
            return _decoders().submit(decode_compressed, dataset).result(LONGEST_S)
        except (BrokenProcessPool, TimeoutError):
            _decoders().shutdown(wait=False, kill_workers=True)
            _decoders.cache_clear()
            raise


def _why_not(file: Stored, dataset: "Dataset") -> str:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID_dictionary

    syntax = Header(file, dataset.file_meta).get("TransferSyntaxUID")
    if not isinstance(syntax, str):
        return "its header does not say how its pixels are written"
    name = UID_dictionary[syntax][0] if syntax in UID_dictionary else "an unknown way"
    try:
        readable = get_decoder(syntax).is_available
    except NotImplementedError:
        readable = False
    return "its pixels are damaged or cut short" if readable else f"its pixels are written as {name}, which is not read"
