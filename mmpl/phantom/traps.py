"""What real scans have that misleads, and version 1 has not: each a share of the patients, from a stream of its own.

None of it says anything of HPV or relapse, and none changes a lesion's volume.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmpl.phantom.anatomy import AIR, FAT, MUSCLE, Build, Vector
from mmpl.phantom.scene import Canvas, Ellipsoid, Part

SHARES = {
    "lung_lesion": 0.25,
    "dental": 0.20,
    "pose": 0.15,
    "arms_up": 0.15,
    "field_cut": 0.10,
    "contrast": 0.25,
    "reconstruction": 0.50,
}
"""Fraction of patients with each trap; the lesion in the lung is a share of the long scans, which alone show it.

`pose` is a turned or a tilted head, each as likely.
"""

NATIVE_HU, ENHANCED_HU = 45.0, 165.0
"""Great vessels without and with contrast agent."""


@dataclass(frozen=True)
class Traps:
    """The traps of one patient; the defaults are those of version 1, which has none and no arms.

    Attributes:
        lung_lesion_mm: Diameter of a second tumor, in the lung, which is neither GTVp nor GTVn; 0 for none.
        dental: Whether crowns streak the CT widely, and the PET, corrected by it, is too hot around them.
        turn_deg: Head turned to the left.
        tilt_deg: Chin up.
        arms: "up" beside the head, "down" beside the trunk, which is no trap, or "" where none are drawn.
        field_cut_mm: How far the patient lies from the middle of a round field of view, which cuts a shoulder; 0 where
            the field is square.
        vessel_hu: HU of the great vessels, where the CT was made otherwise than the center does.
        pet_fwhm_mm: Point spread of the PET, full width at half maximum, where it was reconstructed otherwise.
        pet_iterations: Iterations of that reconstruction: the more, the stronger and finer the noise.
    """

    lung_lesion_mm: float = 0.0
    dental: bool = False
    turn_deg: float = 0.0
    tilt_deg: float = 0.0
    arms: str = ""
    field_cut_mm: float = 0.0
    vessel_hu: float | None = None
    pet_fwhm_mm: float | None = None
    pet_iterations: int = 0

    @property
    def noise_fwhm_mm(self) -> float:
        """Point spread of the PET's noise, full width at half maximum: the finer the noise, the smaller."""
        return 6.0 - 0.8 * self.pet_iterations if self.pet_iterations else 3.5

    @property
    def noise_factor(self) -> float:
        """Times the center's PET noise."""
        return 0.55 + 0.15 * self.pet_iterations if self.pet_iterations else 1.0


NO_TRAPS = Traps()


def draw_traps(
    rng: np.random.Generator, vessel_hu: float, long_scan: bool, shares: Mapping[str, float] = SHARES
) -> Traps:
    """Draw the traps of one patient.

    Args:
        vessel_hu: HU of the great vessels at the patient's center.
        shares: Chance of each trap; of those that are not named, none.
    """
    streams = dict(zip(SHARES, rng.spawn(len(SHARES)), strict=True))
    sprung = {name: bool(stream.random() < shares.get(name, 0.0)) for name, stream in streams.items()}
    lung, pose, field = (streams[name] for name in ("lung_lesion", "pose", "field_cut"))
    degrees, turned = float(pose.uniform(12.0, 20.0) * pose.choice((-1, 1))), bool(pose.random() < 0.5)
    lesion_mm, cut_mm = float(lung.uniform(12.0, 35.0)), float(field.uniform(20.0, 40.0) * field.choice((-1, 1)))
    return Traps(
        lung_lesion_mm=lesion_mm if sprung["lung_lesion"] and long_scan else 0.0,
        dental=sprung["dental"],
        turn_deg=degrees if sprung["pose"] and turned else 0.0,
        tilt_deg=degrees if sprung["pose"] and not turned else 0.0,
        arms="up" if sprung["arms_up"] else "down",
        field_cut_mm=cut_mm if sprung["field_cut"] else 0.0,
        vessel_hu=other_vessel_hu(vessel_hu) if sprung["contrast"] else None,
        pet_fwhm_mm=float(streams["reconstruction"].choice((4.0, 6.0))) if sprung["reconstruction"] else None,
        pet_iterations=int(streams["reconstruction"].integers(2, 6)) if sprung["reconstruction"] else 0,
    )


def other_vessel_hu(vessel_hu: float) -> float:
    """Give what the great vessels have in a CT without contrast agent where the center gives it, and with it else."""
    return NATIVE_HU if vessel_hu > 100.0 else ENHANCED_HU


def draw_trap_parts(rng: np.random.Generator, build: Build, traps: Traps) -> list[Part]:
    """List what a patient's body has beyond that of version 1: arms, and a tumor in the lung."""
    parts = _arms(build, traps.arms)
    if traps.lung_lesion_mm:
        x, y, z = 76.0 * rng.choice((-1.0, 1.0)), 24.0, -270.0
        center = build.place((x + rng.uniform(-20, 20), y + rng.uniform(-25, 25), z + rng.uniform(-60, 60)))
        radius = 0.5 * traps.lung_lesion_mm
        parts.append(Part(Ellipsoid(center, (radius, radius, radius)), 40.0, float(rng.uniform(4.0, 12.0)), 2.0))
    return parts


def _arms(build: Build, arms: str) -> list[Part]:
    """Draw upper arms beside the head, or whole ones beside the trunk; most of the latter only long scans show."""
    if not arms:
        return []
    x, low, high = (136, -120, 280) if arms == "up" else (226, -640, -135)
    parts = []
    for side in (-1, 1):
        for radius, hu, suv in ((44, FAT, 0.25), (38, MUSCLE, 0.7), (11, 700.0, 0.8)):
            shape = build.tube((low, side * x, 40, radius, radius), (high, side * x, 40, radius, radius))
            parts.append(Part(shape, hu, suv, posed=False))
    return parts


def overcorrect(pet: Canvas, crown_xyz: Vector) -> None:
    """Make the PET too hot around metal, by the attenuation that the CT wrongly has there."""
    x0, y0, z0 = crown_xyz
    z, y, x = pet.axes
    away2 = ((z - z0) ** 2)[:, None, None] + ((y - y0) ** 2)[:, None] + (x - x0) ** 2
    pet.values *= 1.0 + 0.6 * np.exp(-away2 / (2.0 * 15.0**2))


def cut_field(ct: Canvas, pet: Canvas) -> None:
    """Cut the CT round, with a bright rim where it cuts the body; without CT, the PET beyond is not corrected."""
    beyond = _beyond_field(ct, ct)
    ct.values += (ct.values > -300.0) * np.where(beyond < 0.0, 250.0 * np.exp(beyond / 5.0), 0.0).astype(np.float32)
    ct.values[:, beyond > 0.0] = AIR
    pet.values[:, _beyond_field(ct, pet) > 0.0] *= 0.5


def _beyond_field(ct: Canvas, canvas: Canvas) -> NDArray[np.float32]:
    """Give how far each voxel of a canvas's slices (y, x) lies beyond the circle in the CT's field of view, mm."""
    (y0, y1), (x0, x1) = ((float(axis[0]), float(axis[-1])) for axis in ct.axes[1:])
    y, x = canvas.axes[1][:, None] - (y0 + y1) / 2, canvas.axes[2] - (x0 + x1) / 2
    return np.hypot(y, x) - (x1 - x0) / 2
