"""The picture: planes the right way round whatever the file's axes, and a file that shows what was found."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as Picture

from mmpl import picture as module
from mmpl.calibration import SurvivalCurve
from mmpl.case import IDENTITY_DIRECTION, Case, ClinicalRecord, GivenMask, Grid, Image, Vector
from mmpl.geometry import index_to_mm
from mmpl.hpv import HpvResult
from mmpl.names import Label
from mmpl.picture import COLORS, PLANES, center_mm, cut, draw, draw_stills
from mmpl.segmentation import Segmentation
from mmpl.survival import SurvivalResult

pytestmark = pytest.mark.slow

TURNED = (0.0, 0.0, -1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # index axes run along -y, z and -x
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
DIRECTIONS = {"identity": IDENTITY_DIRECTION, "turned": TURNED, "oblique": OBLIQUE}
CENTER = np.array([10.0, -20.0, 30.0])


def make_grid(direction: tuple[float, ...], size: tuple[int, int, int] = (70, 80, 60)) -> Grid:
    """A grid of 3, 2 and 3 mm voxels about CENTER."""
    spacing: Vector = (3.0, 2.0, 3.0)
    corner = index_to_mm(Grid(size, spacing, (0.0, 0.0, 0.0), direction), (np.array(size) - 1) / 2)
    return Grid(size, spacing, tuple(CENTER - corner), direction)


def positions(grid: Grid) -> np.ndarray:
    """Where each voxel lies, (z, y, x, 3) in mm."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape_zyx), indexing="ij"), axis=-1)[..., ::-1]
    return index_to_mm(grid, index)


def ball(grid: Grid, center: np.ndarray, radius_mm: float) -> np.ndarray:
    return ((positions(grid) - center) ** 2).sum(axis=-1) < radius_mm**2


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS.keys())
@pytest.mark.parametrize("plane", PLANES, ids=lambda plane: plane.name)
def test_every_plane_is_the_right_way_round(plane, direction):
    """A ball 24 mm to the patient's left, 14 mm to the back and 18 mm to the head shows up just there."""
    offset = np.array([24.0, 14.0, 18.0])
    grid = make_grid(direction)
    shown = offset.copy()
    shown[plane.normal] = 0.0
    picture = cut(Image(ball(grid, CENTER + shown, 9.0).astype(np.float32), grid), plane, CENTER, 0.0)
    rows, columns = np.nonzero(picture > 0.5)
    middle = (len(picture) - 1) / 2
    assert rows.mean() - middle == pytest.approx(offset[plane.up], abs=1.0)
    assert columns.mean() - middle == pytest.approx(offset[plane.across], abs=1.0)


def test_letters_agree_with_the_axes():
    towards = {0: ("R", "L"), 1: ("A", "P"), 2: ("I", "S")}
    for plane in PLANES:
        left, right, bottom, top = plane.edges
        assert (left, right) == towards[plane.across]
        assert ((top, bottom) if plane.flipped else (bottom, top)) == towards[plane.up]


def test_center_lies_in_a_hollow_lesion():
    grid = make_grid(IDENTITY_DIRECTION)
    hollow = ball(grid, CENTER, 30.0) & ~ball(grid, CENTER, 20.0)
    center = center_mm(Image(hollow, grid))
    assert 19.0 < np.linalg.norm(center - CENTER) < 31.0


def make_case(direction: tuple[float, ...]) -> Case:
    grid = make_grid(direction)
    body = ball(grid, CENTER, 80.0)
    ct, pet = np.where(body, 40.0, -1000.0), np.where(ball(grid, CENTER, 10.0), 8.0, 0.5)
    return Case("HN-007", Image(ct.astype(np.float32), grid), Image(pet.astype(np.float32), grid), ClinicalRecord())


def make_result(case: Case, labels: tuple[Label, ...]) -> SimpleNamespace:
    """What the pipeline would answer; a stand-in with its attributes, so that no network is needed."""
    grid = case.ct.grid
    mask = np.zeros(grid.shape_zyx, np.uint8)
    for label in labels:
        mask[ball(grid, CENTER + (30.0 if label is Label.GTVN else 0.0), 10.0)] = label
    days = np.linspace(0.0, 2000.0, 21)
    volumes = {label: float((mask == label).sum() * grid.voxel_ml) for label in (Label.GTVP, Label.GTVN)}
    hpv = HpvResult(0.4, False, (0.3, 0.35, 0.55))
    survival = SurvivalResult(-0.2, (-0.5, 0.1), days, np.exp(-days / np.array([[4000.0], [9000.0]])))
    return SimpleNamespace(
        patient_id=case.patient_id,
        segmentation=Segmentation(Image(mask, grid), 0.8, 3, ()),
        hpv=hpv,
        survival=survival,
        flags=() if labels else ("no lesion found",),
        gtvp_ml=volumes[Label.GTVP],
        gtvn_ml=volumes[Label.GTVN],
    )


def count_pixels(picture: Path, color: str) -> int:
    """Count the pixels that come near a color, given as #rrggbb."""
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    with Picture.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return int((np.abs(pixels - wanted).max(axis=-1) < 40).sum())


@pytest.mark.parametrize("direction", [IDENTITY_DIRECTION, OBLIQUE], ids=["identity", "oblique"])
@pytest.mark.parametrize("labels", [(), (Label.GTVP,), (Label.GTVN,), (Label.GTVP, Label.GTVN)])
def test_picture_shows_the_lesions_there_are(tmp_path, labels, direction):
    case, path = make_case(direction), tmp_path / "HN-007.png"
    draw(case, make_result(case, labels), path, hpv_threshold=0.5)
    for label, color in COLORS.items():
        assert (count_pixels(path, color) > 200) is (label in labels)
    with Picture.open(path) as image:
        assert image.format == "PNG"
        assert (image.height > image.width * 0.9) is (len(labels) == 2)
    assert [file.name for file in tmp_path.iterdir()] == ["HN-007.png"]


def test_a_pet_in_other_units_has_a_scale_of_its_own(tmp_path: Path) -> None:
    """Drawn on the scale of SUV, kBq/ml would light up the whole patient."""
    case = make_case(IDENTITY_DIRECTION)
    result = make_result(case, (Label.GTVP,))
    other = replace(case, pet=Image(case.pet.voxels * 5000, case.pet.grid), pet_is_suv=False)
    bright = []
    for name, shown in (("suv", case), ("other", other)):
        draw(shown, result, tmp_path / f"{name}.png", hpv_threshold=0.5)
        with Picture.open(tmp_path / f"{name}.png") as image:
            planes = np.asarray(image.convert("L"))[100 : image.height // 2 - 50, 50:-150]
        bright.append((planes > 230).mean())
    assert 0 < bright[1] < 1.5 * bright[0]


def test_every_lesion_is_somewhere(tmp_path: Path) -> None:
    """Beside the rows of the largest of each class, a small plane of each other lesion, in its own slice."""
    case = make_case(IDENTITY_DIRECTION)
    result = make_result(case, (Label.GTVP, Label.GTVN))
    draw(case, result, tmp_path / "two.png")
    mask = result.segmentation.mask
    for offset in ((-40.0, 20.0, -40.0), (40.0, 0.0, -50.0), (-40.0, -30.0, 50.0)):
        mask.voxels[ball(mask.grid, CENTER + offset, 7.0)] = Label.GTVN
    draw(case, result, tmp_path / "five.png")
    with Picture.open(tmp_path / "two.png") as two, Picture.open(tmp_path / "five.png") as five:
        row = five.height - two.height
        assert 150 < row < 250
        strip = five.crop((0, five.height - 390 - row, five.width, five.height - 390))
        strip.save(tmp_path / "strip.png")
        sixth = five.width * 0.915 / 6
        for at in range(4):
            left = int(five.width * 0.02 + at * sixth)
            strip.crop((left, 0, int(left + sixth), row * 2 // 3)).save(tmp_path / "cell.png")  # above its name
            assert (count_pixels(tmp_path / "cell.png", COLORS[Label.GTVN]) > 50) is (at < 3)


def test_stills_are_the_planes_alone(tmp_path: Path) -> None:
    case = make_case(OBLIQUE)
    (tmp_path / "stills.jpg").write_bytes(draw_stills(case, make_result(case, (Label.GTVP,)).segmentation))
    with Picture.open(tmp_path / "stills.jpg") as image:
        assert (image.format, image.width > 2 * image.height) == ("JPEG", True)
    assert count_pixels(tmp_path / "stills.jpg", COLORS[Label.GTVP]) > 20


def test_without_a_lesion_the_planes_go_through_what_was_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not through the middle of a scan of the whole body."""
    case, centers = make_case(IDENTITY_DIRECTION), []
    nothing = make_result(case, ()).segmentation
    searched = Grid((20, 20, 20), (3.0, 3.0, 3.0), (0.0, -40.0, 70.0))
    monkeypatch.setattr(module, "_draw_plane", lambda *drawn: centers.append(drawn[5]))
    draw_stills(case, replace(nothing, roi=searched))
    np.testing.assert_allclose(centers, [(28.5, -11.5, 98.5)] * 3)


def test_agreement_is_shown_where_there_is_something_to_agree_on() -> None:
    from matplotlib.figure import Figure

    case = make_case(IDENTITY_DIRECTION)
    shown = []
    for labels, models, by_person in (
        ((Label.GTVP,), 3, False),
        ((Label.GTVP,), 1, False),
        ((), 3, False),
        ((Label.GTVP,), 3, True),
    ):
        result = make_result(case, labels)
        result.segmentation = replace(result.segmentation, models=models)
        if by_person:
            result.segmentation = result.segmentation.with_mask(GivenMask(result.segmentation.mask, "mine.mha"))
        axes = Figure().add_subplot()
        module._write_summary(axes, result, None)
        shown.append("Agreement" in [text.get_text() for text in axes.texts])
    assert shown == [True, False, False, False]


def test_a_plane_has_a_scale_and_a_position() -> None:
    from matplotlib.figure import Figure

    case = make_case(IDENTITY_DIRECTION)
    axes = Figure().add_subplot()
    module._draw_plane(axes, PLANES[0], case, module.PetScale.of(case), {}, np.array([10.0, -20.0, -31.0]))
    assert {"50 mm", "z \N{MINUS SIGN}31 mm"} <= {text.get_text() for text in axes.texts}
    bar = axes.lines[-1]
    assert np.ptp(bar.get_xdata()) * module.FIELD_MM == pytest.approx(50.0)  # in shares of the plane


def test_what_is_calibrated_is_drawn_with_its_interval(tmp_path: Path) -> None:
    """In the place of the models' risks, as those are no probabilities."""
    case = make_case(IDENTITY_DIRECTION)
    result = make_result(case, (Label.GTVP,))
    draw(case, result, tmp_path / "before.png", hpv_threshold=0.5)
    days = np.linspace(0.0, 1500.0, 61)
    curve = SurvivalCurve(days, np.exp(-days / 1500), np.exp(-days / 1100), np.exp(-days / 2500))
    result.survival = replace(result.survival, curve=curve, percentile=63.0)
    result.hpv = replace(result.hpv, calibrated=0.2, prevalence=0.9)
    draw(case, result, tmp_path / "after.png", hpv_threshold=0.5)
    result.survival = replace(result.survival, training_curve=np.exp(-days / 400))
    draw(case, result, tmp_path / "compared.png", hpv_threshold=0.5)
    tinted = []
    for name in ("before", "after"):
        with Picture.open(tmp_path / f"{name}.png") as image:
            panel = np.asarray(image.convert("RGB")).astype(int)[-340:-100, 900:1220]
        tinted.append(int(((panel[..., 0] - panel[..., 2] > 20) & (panel[..., 2] > 150)).sum()))
    assert tinted[0] < 2000 < 5000 < tinted[1]
    with Picture.open(tmp_path / "after.png") as alone, Picture.open(tmp_path / "compared.png") as compared:
        differ = np.asarray(alone.convert("L")).astype(int) != np.asarray(compared.convert("L"))
    rows, columns = np.nonzero(differ)
    assert len(rows) > 300
    assert columns.min() > 850  # in the panel of recurrence alone


def test_the_networks_own_curves_are_not_shown(tmp_path: Path) -> None:
    """Their level is arbitrary: without calibration the risk and its models stand there."""
    case = make_case(IDENTITY_DIRECTION)
    result = make_result(case, (Label.GTVP,))
    draw(case, result, tmp_path / "before.png")
    result.survival = replace(result.survival, member_curves=result.survival.member_curves / 2)
    draw(case, result, tmp_path / "other_curves.png")
    result.survival = replace(result.survival, risk_score=result.survival.risk_score - 1)
    draw(case, result, tmp_path / "other_risk.png")
    pictures = []
    for name in ("before", "other_curves", "other_risk"):
        with Picture.open(tmp_path / f"{name}.png") as image:
            pictures.append(np.asarray(image.convert("L")).astype(int))
    before, other_curves, other_risk = pictures
    np.testing.assert_array_equal(other_curves, before)
    assert (other_risk != before)[-300:-100, 850:].sum() > 50


@pytest.mark.parametrize("lacking", [("hpv",), ("survival",), ("hpv", "survival")])
def test_what_was_not_answered_is_not_shown(tmp_path, lacking):
    """As of weights without those stages: its panel stays white, and the others stay where they are."""
    case = make_case(IDENTITY_DIRECTION)
    result = make_result(case, (Label.GTVP,))
    draw(case, result, tmp_path / "whole.png", hpv_threshold=0.5)
    for name in lacking:
        setattr(result, name, None)
    draw(case, result, tmp_path / "partial.png", hpv_threshold=0.5)
    panels = {"hpv": np.s_[-250:-130, 530:830], "survival": np.s_[-250:-130, 900:1200]}
    with Picture.open(tmp_path / "whole.png") as whole, Picture.open(tmp_path / "partial.png") as partial:
        assert whole.size == partial.size
        before, after = np.asarray(whole.convert("L")), np.asarray(partial.convert("L"))
    for name, panel in panels.items():
        assert before[panel].min() < 200
        if name in lacking:
            assert after[panel].min() == 255
        else:
            np.testing.assert_array_equal(after[panel], before[panel])
    np.testing.assert_array_equal(after[:-450], before[:-450])


def test_threshold_is_optional_and_a_failure_leaves_nothing(tmp_path):
    case = make_case(IDENTITY_DIRECTION)
    result = make_result(case, (Label.GTVP,))
    draw(case, result, tmp_path / "whole.png")
    assert (tmp_path / "whole.png").stat().st_size > 10_000
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        draw(case, result, tmp_path / "taken")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["taken", "whole.png"]


DRAW = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from test_picture import IDENTITY_DIRECTION, Label, draw, make_case, make_result
case = make_case(IDENTITY_DIRECTION)
result = make_result(case, (Label.GTVP,))
result.patient_id, result.flags = "A$1_$", ("a flag of $_ and $^",)
draw(case, result, Path(sys.argv[3]), 0.5)
"""


def test_a_notebook_keeps_its_backend(root: Path) -> None:
    """Whoever imports matplotlib first, plots that follow are shown by what the notebook names."""
    program = """
import sys
from mmpl.surroundings import without_plot_backend
with without_plot_backend():
    import matplotlib
assert matplotlib.rcParams["backend"] == "svg", matplotlib.rcParams["backend"]
"""
    environment = {**os.environ, "MPLBACKEND": "svg"}
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=root, check=True)


@pytest.mark.parametrize(
    "surroundings",
    [{"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, {"MPLBACKEND": "Qt5Agg"}, {"MPLBACKEND": "no such"}],
)
def test_surroundings_of_other_programs_cost_no_picture(root, tmp_path, surroundings):
    """A notebook's backend, TeX in the user's own settings, and an ID that looks like a formula."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfigure.dpi: 10\n")
    environment = {**os.environ, "MATPLOTLIBRC": str(tmp_path), **surroundings}
    command = [sys.executable, "-c", DRAW, root, root / "test", tmp_path / "other.png"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    case = make_case(IDENTITY_DIRECTION)
    draw(case, make_result(case, (Label.GTVP,)), tmp_path / "here.png", 0.5)
    with Picture.open(tmp_path / "other.png") as other, Picture.open(tmp_path / "here.png") as here:
        assert other.size == here.size
