"""The challenge's program: `inference.py` answers the one case in /input and exits, `inference.py invoke` is a server.

Exits 0, or 1 with one line on stderr that says what is wrong; 130 where it was interrupted. `MMPL_INPUT` and
`MMPL_OUTPUT` name other folders for local use, `MMPL_WEIGHTS` other weights, `MMPL_EDITION` another edition of the
challenge, `MMPL_TASKS` some of its tasks; `MMPL_PICTURE`, `MMPL_REPORT` and `MMPL_PAGE` are paths for a picture, a
report and a page of the case. Without a GPU a case keeps to the platform's limit of time, by doing less where it must;
`MMPL_TIME_BUDGET_S` is another limit, in seconds, or 0 for none; `MMPL_HPV_PREVALENCE` is the share of HPV-positive
patients that the calibrated probability is for. With `MMPL_DEBUG=1` an unforeseen error shows where it came from.
Nothing but the challenge's own files lands in the output folder, unless one of those three paths is in it, as
`./run.sh` has them.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

FOLDERS = (("MMPL_INPUT", "/input"), ("MMPL_OUTPUT", "/output"))
EXTRAS = ("MMPL_PICTURE", "MMPL_REPORT", "MMPL_PAGE")


def main(arguments: list[str]) -> int:
    """Answer the case, or serve; returns the exit code."""
    began = time.monotonic()  # nothing large is imported yet: Python itself and the lines above took 0.1 s
    if arguments not in ([], ["invoke"]):
        print("usage: inference.py [invoke]", file=sys.stderr)
        return 2
    from mmpl.errors import one_line, report_error, wanted_in_full
    from mmpl.logs import set_up_logging
    from mmpl.surroundings import settle

    settle()
    set_up_logging()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the first process of a container ignores it otherwise
    from mmpl.io.server import serve

    try:
        if arguments:
            serve(partial(load, keep_networks=True))
        else:
            load(began=began)()
    except KeyboardInterrupt:
        report_error("interrupted")
        return 130
    except Exception as error:
        if wanted_in_full():
            raise
        report_error(one_line(error))
        return 1
    return 0


def load(keep_networks: bool = False, began: float | None = None) -> Callable[[], None]:
    """Open the weights; what is returned answers the case that lies in the input folder when it is called.

    Args:
        keep_networks: Read all networks now.
        began: When the case's time began, as `time.monotonic` has it; by default when what is returned is called.
    """
    from mmpl.algorithm import Algorithm
    from mmpl.files import refuse_inside
    from mmpl.io.challenge import clear_challenge_result, former_answer

    source, target = (Path(os.environ.get(name) or path) for name, path in FOLDERS)
    picture, report, page = (Path(value) if (value := os.environ.get(name)) else None for name in EXTRAS)
    for output in filter(None, (target, picture, report, page)):
        refuse_inside(output, source)
    former_answer(target)  # refuses a folder in which a person's files have the names of ours
    clear_challenge_result(
        target, picture, report, page
    )  # weights that cannot be loaded leave no answer of an earlier case, either
    algorithm = Algorithm.load(keep_networks, lesions=bool(report or page))
    return partial(algorithm.answer, source, target, picture, report, began, page=page)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
