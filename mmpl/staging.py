"""T and N stage of the AJCC's seventh edition, as the 2026 challenge asks for them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StageResult:
    """The ensemble's T or N stage of one patient.

    Attributes:
        stage: T 1 to 4, or N 0 to 3.
        score: Mean of the models' scores; higher means a higher stage.
        member_scores: Score that each model gives.
    """

    stage: int
    score: float
    member_scores: tuple[float, ...]
