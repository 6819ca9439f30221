"""The centers that patients come from: scanner, protocol and case mix.

The names echo those of the released table; the values are invented.
"""

from dataclasses import dataclass
from typing import Literal

CenterGroup = Literal["training", "unseen"]


@dataclass(frozen=True)
class Center:
    """One hospital with one scanner.

    Attributes:
        share: Fraction of its group's patients.
        hpv_prevalence: Fraction of all its patients who are HPV positive.
        ct_pixel_mm: In-plane CT spacing of a head-and-neck scan, on a square matrix of `ct_matrix` pixels.
        ct_noise_hu: Standard deviation of CT noise.
        vessel_hu: Contrast of the great vessels, HU; lesions enhance with it.
        psf_mm: PET point spread, full width at half maximum.
        pet_noise: PET noise as a fraction of the square root of the activity.
        suv_factor: Calibration error of the PET, times the true SUV.
        length_mm: Shortest and longest head-and-neck scan.
        long_share: Fraction of scans that reach down to the pelvis.
        flipped: Whether files run from left to right and from back to front (direction -1, -1, 1).
        volume_factor: Case mix, times every lesion's volume, whatever the HPV status.
        missing: Probability that (tobacco, alcohol, performance status) was not recorded, whatever the HPV status.
    """

    name: str
    code: int
    share: float
    hpv_prevalence: float
    ct_pixel_mm: float
    ct_matrix: int
    ct_slice_mm: float
    ct_noise_hu: float
    vessel_hu: float
    pet_pixel_mm: float
    pet_slice_mm: float
    psf_mm: float
    pet_noise: float
    suv_factor: float
    length_mm: tuple[float, float]
    long_share: float
    flipped: bool
    volume_factor: float
    missing: tuple[float, float, float]


TRAINING_CENTERS = (
    Center("MDA", 1, 0.25, 0.92, 1.17, 256, 2.5, 11.0, 150.0, 4.0, 3.27, 6.0, 0.13, 1.00, (280.0, 320.0),
           0.00, False, 1.00, (0.35, 0.50, 0.30)),
    Center("CHUP", 2, 0.18, 0.88, 1.17, 256, 2.0, 14.0, 60.0, 4.07, 4.07, 6.5, 0.17, 1.05, (270.0, 300.0),
           0.00, False, 1.05, (0.55, 0.60, 0.25)),
    Center("CHUS", 3, 0.15, 0.90, 1.17, 256, 3.0, 12.0, 50.0, 4.0, 4.0, 7.0, 0.20, 0.95, (280.0, 330.0),
           0.05, False, 0.95, (0.60, 0.70, 0.50)),
    Center("CHUM", 4, 0.13, 0.90, 0.98, 272, 2.0, 16.0, 130.0, 3.65, 3.27, 5.5, 0.16, 1.03, (270.0, 300.0),
           0.00, False, 1.00, (0.50, 0.65, 0.40)),
    Center("HGJ", 5, 0.12, 0.86, 1.37, 224, 3.0, 10.0, 50.0, 5.47, 3.27, 7.5, 0.15, 0.92, (300.0, 340.0),
           0.06, False, 1.08, (0.65, 0.70, 0.60)),
    Center("HMR", 6, 0.10, 0.92, 1.17, 240, 2.5, 13.0, 55.0, 4.0, 4.0, 6.8, 0.18, 1.08, (270.0, 310.0),
           0.00, False, 0.92, (0.60, 0.75, 0.55)),
    Center("USZ", 7, 0.07, 0.92, 1.27, 240, 2.78, 9.0, 140.0, 2.73, 2.78, 5.0, 0.20, 1.00, (280.0, 320.0),
           0.15, True, 1.00, (0.40, 0.45, 0.35)),
)  # fmt: skip
UNSEEN_CENTERS = (
    Center("CHUB", 8, 0.45, 0.20, 1.07, 256, 2.0, 15.0, 145.0, 3.18, 3.0, 5.2, 0.19, 1.10, (270.0, 310.0),
           0.04, False, 1.10, (0.50, 0.60, 0.40)),
    Center("CHUV", 9, 0.30, 0.16, 1.37, 224, 2.5, 12.0, 70.0, 4.69, 3.27, 7.2, 0.14, 0.90, (290.0, 330.0),
           0.00, True, 0.95, (0.45, 0.55, 0.30)),
    Center("CHB", 10, 0.25, 0.248, 1.17, 240, 3.0, 13.0, 120.0, 5.3, 5.0, 8.0, 0.17, 1.04, (270.0, 300.0),
           0.08, False, 1.00, (0.70, 0.80, 0.65)),
)  # fmt: skip

GROUPS: dict[CenterGroup, tuple[Center, ...]] = {"training": TRAINING_CENTERS, "unseen": UNSEEN_CENTERS}
BY_NAME = {center.name: center for group in GROUPS.values() for center in group}
