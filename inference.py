"""One case in the challenge's layout, from /input to /output: exits 0, or 1 with one line that says what is wrong.

`MMPL_INPUT` and `MMPL_OUTPUT` name other folders for local use, `MMPL_WEIGHTS` other weights; with `MMPL_PICTURE` a
picture of the case is written to that path. Nothing but the challenge's own files ever lands in the output folder.
"""

import logging
import os
import sys
from pathlib import Path

INPUT_VARIABLE, OUTPUT_VARIABLE, PICTURE_VARIABLE = "MMPL_INPUT", "MMPL_OUTPUT", "MMPL_PICTURE"

log = logging.getLogger("mmpl")


def main() -> int:
    """Answer the case; returns the exit code."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(is_news)
    logging.basicConfig(handlers=[handler], level=logging.INFO, format="%(message)s")
    logging.captureWarnings(True)  # into the log: the platform shows a user whatever is on stderr
    source, target = Path(os.environ.get(INPUT_VARIABLE, "/input")), Path(os.environ.get(OUTPUT_VARIABLE, "/output"))
    try:
        answer(source, target, os.environ.get(PICTURE_VARIABLE))
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        expected = isinstance(error, ValueError | OSError)
        print(f"error: {reason}" if expected else f"error: {type(error).__name__}: {reason}", file=sys.stderr)
        return 1
    return 0


def is_news(record: logging.LogRecord) -> bool:
    """Keep what this program says and what libraries warn of; pyradiomics logs and warns at every step."""
    library = record.name.partition(".")[0]
    return library == "mmpl" or (library != "radiomics" and record.levelno >= logging.WARNING)


def answer(source: Path, target: Path, picture: str | None) -> None:
    """Read a case, run the pipeline, write the answers."""
    import torch

    from mmpl.io.challenge import clear_challenge_result, read_challenge_case, write_challenge_result
    from mmpl.pipeline import Pipeline
    from mmpl.weights import load_ensemble

    target.mkdir(parents=True, exist_ok=True)
    clear_challenge_result(target)
    if picture:
        Path(picture).unlink(missing_ok=True)
    case = read_challenge_case(source)
    ensemble = load_ensemble()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = len(ensemble.members)
    log.info("%d models, profile %s, from %s, on %s", count, ensemble.profile.name, ensemble.folder, device)
    result = Pipeline(ensemble, device, progress=log.info)(case)
    for note in result.notes:
        log.info("clinical record: %s", note)
    for flag in result.flags:
        log.info("note: %s", flag)
    if picture:
        from mmpl.picture import draw

        draw(case, result, Path(picture), ensemble.hpv_threshold)
    written = write_challenge_result(result, target)
    status = "positive" if result.hpv.positive else "negative"
    log.info("GTVp %.1f ml, GTVn %.1f ml: %s", result.gtvp_ml, result.gtvn_ml, written[0])
    log.info("HPV %s, probability %.2f: %s", status, result.hpv.probability, written[2])
    log.info("recurrence risk %+.2f (higher is worse, 0 is average): %s", result.survival.risk_score, written[1])
    if picture:
        log.info("picture: %s", picture)


if __name__ == "__main__":
    sys.exit(main())
