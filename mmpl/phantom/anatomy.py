"""A head and neck, and the torso below it, as parts in painting order; physiological uptake included.

Sizes are of an adult; every patient is scaled, leans a little and wobbles. HU and SUV are typical textbook values.
"""

from dataclasses import dataclass

import numpy as np

from mmpl.phantom.scene import Arch, Ellipsoid, Part, Shape, Tube

Vector = tuple[float, float, float]

FAT, MUSCLE, AIR = -95.0, 52.0, -1000.0
BODY_KNOTS = (
    (168, 0, 8, 4, 5), (163, 0, 7, 34, 44), (150, 0, 6, 58, 74), (125, 0, 5, 75, 95), (97, 0, 5, 80, 100),
    (70, 0, 4, 79, 98), (45, 0, 3, 74, 94), (25, 0, 1, 70, 87), (5, 0, 0, 66, 83), (-12, 0, 4, 62, 76),
    (-26, 0, 15, 60, 63), (-45, 0, 20, 60, 58), (-65, 0, 22, 68, 60), (-85, 0, 24, 105, 70), (-105, 0, 26, 165, 84),
    (-125, 0, 28, 200, 94), (-200, 0, 22, 195, 110), (-480, 0, 20, 165, 105), (-640, 0, 22, 178, 105),
    (-900, 0, 25, 180, 108),
)  # fmt: skip
"""Outline: z, center x, center y, radius x, radius y, mm."""


@dataclass(frozen=True)
class Build:
    """How one patient departs from the standard body.

    Attributes:
        scale: Size relative to the standard.
        lean_xy: Shift to the left and to the back per mm up.
    """

    scale: float
    lean_xy: tuple[float, float]

    def place(self, point_xyz: Vector) -> Vector:
        """Take a point of the standard body to this patient's."""
        x, y, z = (self.scale * value for value in point_xyz)
        return x + self.lean_xy[0] * z, y + self.lean_xy[1] * z, z

    def ellipsoid(self, center_xyz: Vector, radii_xyz: Vector) -> Ellipsoid:
        """Place an ellipsoid."""
        x, y, z = radii_xyz
        return Ellipsoid(self.place(center_xyz), (self.scale * x, self.scale * y, self.scale * z))

    def tube(self, *knots: tuple[float, ...], thinner_mm: float = 0.0) -> Tube:
        """Place a tube, its wall moved inwards where asked."""
        placed = []
        for z, cx, cy, *radii in knots:
            x, y, height = self.place((cx, cy, z))
            rx, ry = (max(self.scale * radius - thinner_mm, 1.0) for radius in radii)
            placed.append((height, x, y, rx, ry))
        return Tube(tuple(placed))

    def arch(
        self, center_xyz: Vector, radii_xy: tuple[float, float], reach: float, thickness: float, height: float,
        front: bool = True,
    ) -> Arch:  # fmt: skip
        """Place a horseshoe."""
        s = self.scale
        radii = (s * radii_xy[0], s * radii_xy[1])
        return Arch(self.place(center_xyz), radii, s * reach, s * thickness, s * height, front)

    def pair(self, center_xyz: Vector, radii_xyz: Vector) -> tuple[Ellipsoid, Ellipsoid]:
        """Place an ellipsoid on the left and its mirror image on the right."""
        x, y, z = center_xyz
        return self.ellipsoid((x, y, z), radii_xyz), self.ellipsoid((-x, y, z), radii_xyz)


def draw_build(rng: np.random.Generator) -> Build:
    """Draw how large a patient is and how the neck lies."""
    return Build(float(rng.normal(1.0, 0.035)), (float(rng.normal(0.0, 0.012)), float(rng.normal(0.03, 0.035))))


def body_outline(build: Build) -> Tube:
    """Give the skin."""
    return build.tube(*BODY_KNOTS)


def draw_anatomy(rng: np.random.Generator, build: Build, vessel_hu: float, long_scan: bool) -> list[Part]:
    """List one patient's parts in painting order, without lesions and without the dental metal."""
    skin_mm, muscle_suv = float(rng.uniform(4.0, 9.0)), float(rng.uniform(0.6, 0.9))
    parts = [
        Part(Tube(tuple((z, 0, 126, 210, 9) for z in (-900, 260))), -180.0, 0.0, posed=False),  # table
        Part(body_outline(build), FAT, 0.25),
        Part(build.tube(*BODY_KNOTS, thinner_mm=skin_mm), MUSCLE, muscle_suv, 2.0),
    ]
    parts += _fat_planes(build)
    parts += _spine(build, lowest_z=-860 if long_scan else -170)
    parts += _head(rng, build)
    parts += _jaws(rng, build)
    parts += _neck(rng, build, vessel_hu)
    parts += _shoulders(build)
    if long_scan:
        parts += _torso(rng, build)
    parts += _misleading_uptake(rng, build)
    return parts


def _each(shapes: tuple[Shape, ...], hu: float, suv: float, wobble_mm: float = 0.0) -> list[Part]:
    return [Part(shape, hu, suv, wobble_mm) for shape in shapes]


def _fat_planes(build: Build) -> list[Part]:
    pads = (
        ((40, 28, -38), (13, 17, 38)),  # posterior triangle
        ((31, 6, -28), (13, 14, 50)),  # carotid sheath
        ((27, 6, 22), (6, 12, 18)),  # parapharyngeal
        ((50, -38, 18), (9, 20, 22)),  # cheek
        ((22, 66, -10), (12, 5, 45)),  # between the nuchal muscles
        ((70, 30, -95), (32, 26, 16)),  # supraclavicular
    )
    parts = [part for center, radii in pads for part in _each(build.pair(center, radii), FAT + 8, 0.3, 2.5)]
    return [*parts, Part(build.ellipsoid((0, -42, -24), (22, 14, 6)), FAT, 0.3, 2.0)]


def _spine(build: Build, lowest_z: float) -> list[Part]:
    parts = []
    for number, z in enumerate(np.arange(42.0, lowest_z, -17.0)):
        grow = 1.0 + min(number, 20) * 0.035
        lordosis = 26.0 + 5.0 * np.cos((z + 10.0) / 28.0) if z > -80 else 30.0 + min(20.0, (-80.0 - z) / 6.0)
        body = build.ellipsoid((0, lordosis, z), (12.5 * grow, 9.5 * grow, 8.2))
        marrow = build.ellipsoid((0, lordosis, z), (10.5 * grow, 7.5 * grow, 6.4))
        parts += [
            Part(build.ellipsoid((0, lordosis + 32, z - 4), (3.5, 12, 5)), 450.0, 0.9),
            *_each(build.pair((14 * grow, lordosis + 12, z), (8, 6, 5.5)), 480.0, 1.0, 1.0),
            Part(build.arch((0, lordosis + 15, z), (13, 11), 30, 4.5, 9.0, front=False), 500.0, 1.0),
            Part(body, 480.0, 1.2, 0.7),
            Part(marrow, 210.0, 1.6, 0.7),
        ]
    knots = [(42.0, 43.0), (-80.0, 42.0), (-200.0, 62.0), (lowest_z - 20.0, 62.0)]
    canal = build.tube(*((z, 0, y, 8.5, 7.0) for z, y in knots if z >= lowest_z - 20.0))
    return [*parts, Part(canal, 25.0, 1.2)]


def _head(rng: np.random.Generator, build: Build) -> list[Part]:
    gray = float(rng.uniform(8.0, 13.0))
    ring = float(rng.uniform(0.9, 1.1))
    return [
        Part(build.ellipsoid((0, 5, 98), (75, 94, 65)), 950.0, 0.6),
        Part(build.ellipsoid((0, 5, 99), (68.5, 87, 58)), 18.0, 2.5, 0.8),
        Part(build.ellipsoid((0, 5, 100), (66, 84, 55)), 37.0, gray, 2.0),
        *_each(build.pair((27, 5, 103), (21, 58, 33)), 29.0, gray * 0.45, 5.0),
        *_each(build.pair((14, -8, 98), (7, 11, 9)), 38.0, gray * 1.05, 1.0),
        *_each(build.pair((10, 12, 106), (4.5, 22, 8)), 8.0, 1.0, 1.0),
        Part(build.ellipsoid((0, 52, 57), (44, 27, 19)), 38.0, gray * 0.75, 1.5),
        Part(build.ellipsoid((0, 24, 60), (11, 11, 22)), 32.0, gray * 0.5),
        Part(build.ellipsoid((0, -48, 52), (52, 38, 16)), 330.0, 0.8, 2.5),  # facial bones
        *_each(build.pair((52, 18, 42), (15, 18, 14)), 420.0, 0.7, 3.0),  # mastoids
        *_each(build.pair((22, -52, 46), (14, 17, 16)), AIR, 0.1, 2.0),  # maxillary sinuses
        Part(build.ellipsoid((0, -48, 48), (9, 34, 18)), AIR, 0.2, 2.0),
        Part(build.ellipsoid((0, -50, 47), (5, 26, 12)), 40.0, 1.6, 2.5),  # turbinates
        Part(build.ellipsoid((0, -98, 44), (9, 12, 16)), 30.0, 0.6),  # nose
        *_each(build.pair((31, -62, 68), (17, 24, 16)), FAT, 0.6),
        *_each(build.pair((31, -72, 68), (12, 12, 12)), 12.0, 0.8),
        *_each(build.pair((28, -52, 68), (6, 11, 6)), 45.0, 3.6 * ring, 1.0),  # eye muscles
    ]


def _jaws(rng: np.random.Generator, build: Build) -> list[Part]:
    rami = [build.tube((-4, s * 43, 2, 4, 9), (20, s * 47, 8, 4, 14), (46, s * 49, 12, 5, 9)) for s in (-1, 1)]
    parts = [
        Part(build.arch((0, -36, 28), (26, 36), 46, 11, 14), 520.0, 0.9),
        Part(build.arch((0, -28, 0), (41, 48), 62, 11, 26), 780.0, 0.9, 1.0),
        Part(build.arch((0, -28, -1), (41, 48), 62, 5, 15), 260.0, 1.1, 1.0),
        *(Part(ramus, 700.0, 0.8, 1.0) for ramus in rami),
        *_each(build.pair((46, -8, 16), (9, 15, 24)), 62.0, 1.0, 2.0),  # masseter and pterygoid
    ]
    for z, radii, center_y in ((15.0, (38.0, 45.0), -28.0), (23.0, (27.0, 37.0), -36.0)):
        for angle in np.linspace(-1.15, 1.15, 14):
            if rng.random() < 0.85:
                x, y = radii[0] * np.sin(angle), center_y - radii[1] * np.cos(angle)
                parts.append(Part(build.ellipsoid((x, y, z), (3.6, 3.8, 5.0)), 1700.0, 0.5))
    return parts


def _neck(rng: np.random.Generator, build: Build, vessel_hu: float) -> list[Part]:
    lymphoid, salivary = float(rng.lognormal(np.log(3.0), 0.25)), float(rng.lognormal(np.log(2.2), 0.2))
    tonsils = rng.lognormal(np.log(lymphoid), 0.15, 2)
    larynx, vessel_wobble = float(rng.lognormal(np.log(1.9), 0.3)), 1.5
    airway = (
        (46, 0, -14, 9, 6), (28, 0, -6, 13, 6), (6, 0, -3, 13, 6), (-14, 0, -2, 13, 7), (-28, 0, -7, 9, 6),
        (-40, 0, -16, 4, 8), (-52, 0, -17, 8, 9), (-80, 0, -12, 9, 9), (-160, 0, -2, 9, 8), (-210, 0, 0, 9, 8),
    )  # fmt: skip
    tongue = build.ellipsoid((0, -36, 8), (23, 33, 21))
    left, right = build.pair((17, -4, 8), (6.5, 7.5, 11))
    sternomastoid = [
        build.tube(*((z, side * x, y, rx, ry) for z, x, y, rx, ry in
                     ((36, 57, 28, 4, 10), (0, 52, 24, 6, 14), (-40, 43, 6, 8, 13), (-85, 24, -14, 8, 8))))
        for side in (-1, 1)
    ]  # fmt: skip
    carotid = [build.tube((48, s * 24, 10, 3, 3), (-5, s * 30, 8, 4, 4), (-130, s * 20, 4, 3.5, 3.5)) for s in (-1, 1)]
    jugular = [build.tube((42, s * 32, 14, 4, 5), (-10, s * 38, 14, 6, 7), (-120, s * 27, 0, 7, 6)) for s in (-1, 1)]
    return [
        *(Part(shape, 58.0, 0.8, 1.5) for shape in sternomastoid),
        *(Part(shape, vessel_hu, 1.6, vessel_wobble) for shape in (*jugular, *carotid)),
        Part(tongue, 58.0, 1.5, 2.0),
        Part(build.ellipsoid((0, -42, 8), (2.0, 24, 14)), -20.0, 1.2, 1.0),
        *_each(build.pair((10, -54, -4), (6, 13, 5)), 25.0, 1.3 * salivary, 1.0),  # sublingual glands
        Part(build.ellipsoid((0, -30, -17), (26, 22, 4)), 55.0, 1.0, 1.5),  # floor of the mouth
        Part(build.tube(*((z, x, y, rx + 4.5, ry + 4.5) for z, x, y, rx, ry in airway)), 60.0, 1.5, 1.0),
        Part(build.ellipsoid((0, -14, 0), (14, 6, 10)), 55.0, 0.95 * lymphoid, 1.5),  # lingual tonsil
        Part(build.ellipsoid((0, 5, 38), (12, 5, 8)), 50.0, 0.9 * lymphoid, 1.5),  # adenoid
        Part(left, 62.0, float(tonsils[0]), 1.5),
        Part(right, 62.0, float(tonsils[1]), 1.5),
        Part(build.ellipsoid((0, -20, 26), (15, 14, 4)), 45.0, 1.8, 1.0),  # soft palate
        Part(build.tube(*airway), AIR, 0.1, 1.0),
        Part(build.ellipsoid((0, -14, -13), (9, 2.5, 11)), 45.0, 1.5),  # epiglottis
        Part(build.arch((0, -14, -20), (20, 20), 32, 4, 6), 350.0, 0.8),  # hyoid
        Part(build.arch((0, -16, -40), (19, 22), 34, 3.5, 24), 170.0, 1.0, 1.0),  # thyroid cartilage
        *_each(build.pair((6.5, -19, -41), (3, 9, 4)), 55.0, larynx, 0.5),  # vocal cords
        Part(build.arch((0, -17, -57), (12, 12), 26, 3.5, 8), 240.0, 1.0),  # cricoid
        Part(build.ellipsoid((0, 6, -66), (8, 5, 45)), 42.0, 1.7, 1.0),  # esophagus
        *_each(build.pair((17, -14, -70), (8, 9, 19)), 105.0 + 0.3 * vessel_hu, 1.5, 1.5),  # thyroid
        *_each(build.pair((54, 10, 22), (10, 17, 22)), 2.0, salivary, 2.5),  # parotids
        *_each(build.pair((32, -22, -9), (9, 13, 11)), 42.0, 1.15 * salivary, 2.0),  # submandibular glands
    ]


def _shoulders(build: Build) -> list[Part]:
    return [
        *_each(build.pair((62, 0, -104), (56, 8, 7)), 520.0, 0.9, 1.0),
        *_each(build.pair((110, 78, -140), (45, 6, 45)), 460.0, 0.9, 2.0),
        *_each(build.pair((152, 26, -128), (24, 24, 25)), 380.0, 0.8),
        *_each(build.pair((55, 34, -170), (36, 46, 55)), -820.0, 0.4, 2.0),  # lung apices
    ]


def _torso(rng: np.random.Generator, build: Build) -> list[Part]:
    ribs = [build.arch((0, 18, z), (135, 88), 165, 7, 9) for z in np.arange(-165.0, -420.0, -27.0)]
    return [
        *(Part(rib, 420.0, 1.0, 2.0) for rib in ribs),
        *_each(build.pair((76, 24, -270), (58, 72, 125)), -840.0, 0.45, 2.5),
        Part(build.ellipsoid((0, -18, -250), (30, 40, 100)), 40.0, 1.7, 3.0),
        Part(build.ellipsoid((28, -32, -312), (48, 44, 46)), 50.0, 2.0, 2.0),
        Part(build.ellipsoid((32, -30, -312), (34, 31, 34)), 48.0, float(rng.uniform(2.0, 9.0)), 1.5),  # heart
        Part(build.ellipsoid((28, -32, -312), (20, 19, 22)), 45.0, 1.9, 1.0),
        Part(build.ellipsoid((-62, -6, -412), (82, 78, 62)), 60.0, 2.3, 4.0),  # liver
        Part(build.ellipsoid((88, 42, -410), (30, 36, 46)), 52.0, 1.9, 2.0),  # spleen
        *_each(build.pair((62, 56, -490), (26, 24, 52)), 35.0, float(rng.uniform(3.0, 7.0)), 1.5),  # kidneys
        *_each(build.pair((70, -20, -560), (35, 40, 80)), -70.0, 0.6, 5.0),  # fat and bowel
        Part(build.ellipsoid((0, -35, -590), (50, 30, 70)), 25.0, float(rng.uniform(1.0, 3.0)), 6.0),
        *_each(build.pair((95, 40, -690), (45, 35, 75)), 380.0, 1.0, 3.0),  # pelvis
        Part(build.ellipsoid((0, -30, -750), (36, 32, 32)), 8.0, float(rng.uniform(12.0, 35.0)), 1.5),  # bladder
    ]


def _misleading_uptake(rng: np.random.Generator, build: Build) -> list[Part]:
    """Draw uptake that is no tumor: small reactive nodes in nearly all patients, brown fat in a tenth."""
    parts = []
    for _ in range(rng.poisson(4.0)):
        side = rng.choice((-1, 1))
        center = (side * rng.uniform(30, 50), rng.uniform(0, 34), rng.uniform(-65, 5))
        radius = rng.uniform(2.5, 5.0)
        parts.append(Part(build.ellipsoid(center, (radius, radius, radius * 1.5)), 60.0, float(rng.uniform(1.2, 3.2))))
    if rng.random() < 0.10:
        suv = rng.uniform(3.0, 8.0)
        for center, radii in (((68, 32, -88), (24, 12, 9)), ((46, 38, -62), (7, 10, 18)), ((34, 40, -130), (5, 6, 8))):
            parts += _each(build.pair(center, radii), FAT, float(suv * rng.uniform(0.7, 1.1)), 3.0)
    return parts
