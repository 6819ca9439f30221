"""The page of a patient: what stands in it, what never does, and how it behaves in a browser."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import PROGRAM, Browser, start_browser

from mmpl.case import Case, Grid, Image, SeriesIdentity
from mmpl.explanation import Contribution
from mmpl.findings import flag_in_words
from mmpl.lesions import find_lesions
from mmpl.names import Label, Stage
from mmpl.page import render_page, write_page
from mmpl.pipeline import PatientResult, Pipeline
from mmpl.provenance import trace
from mmpl.scene import make_scene
from mmpl.segmentation import GIVEN, NO_LESION, Segmentation
from mmpl.staging import NO_PRIMARY, StageResult
from mmpl.weights import Ensemble, load_ensemble

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
NASTY = """<script>alert("1")</script>'"&{{ 7 * 7 }}"""


@pytest.fixture(scope="module")
def ensemble(calibrated_ensemble: Path) -> Ensemble:
    return load_ensemble(calibrated_ensemble)


@pytest.fixture(scope="module")
def result(ensemble: Ensemble, head: Case) -> PatientResult:
    return Pipeline(ensemble, CPU, lesions=True)(head)


def render(case: Case, result: PatientResult, ensemble: Ensemble) -> str:
    return render_page(case, result, ensemble, trace(ensemble, CPU, result.seconds, {}))


def text_of(page: str) -> str:
    """What a reader reads."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_everything_stands_in_it(head: Case, result: PatientResult, ensemble: Ensemble, tmp_path: Path) -> None:
    provenance = trace(ensemble, CPU, result.seconds, {"ct": ensemble.folder / "manifest.json"})
    write_page(tmp_path / "page.html", head, result, ensemble, provenance)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    page = (tmp_path / "page.html").read_text()
    assert len(page.encode()) < 8_000_000
    text = text_of(page)
    assert text.count("Research only. Not for clinical use.") == 2
    assert result.hpv is not None
    assert result.survival is not None
    for words in (
        "Patient head",
        f"GTVp {result.gtvp_ml:.1f} ml",
        f"Score {result.hpv.probability:.2f}, positive from {ensemble.hpv_threshold:.2f}",
        f"Probability {100 * result.hpv.calibrated:.0f}% where 90% of such patients are positive",
        f"Risk percentile {result.survival.percentile:.0f}",
        "3 years",
        "SUVpeak",
        "found by",
        "Recurrence risk From",
        "years, above",
        ensemble.identity,
        "segmentation",
    ):
        assert words in text
    assert "5 years" not in text  # beyond the follow-up
    assert "not calibrated" not in text


def test_it_fetches_nothing(head: Case, result: PatientResult, ensemble: Ensemble) -> None:
    page = render(head, result, ensemble)
    assert "https:" not in page
    assert "http:" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "default-src &#39;none&#39;" in page


def test_what_is_given_is_escaped(head: Case, result: PatientResult, ensemble: Ensemble) -> None:
    named = replace(result, patient_id=NASTY, flags=(NASTY,), notes=(NASTY,))
    page = render(head, named, ensemble)
    assert "alert(&#34;1" in page
    assert 'alert("1' not in page
    assert page.count("<script") == 3
    assert "{{ 7 * 7 }}" in text_of(page)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("low ensemble agreement", "The models disagree about the contours: look at them closely."),
        ("the risk rests on a known HPV status (negative)", "HPV status that was given (negative)."),
        ("time budget: 3 of 10 models", "not all models answered: 3 of 10 models."),
        ("clinical fields assumed: Age", "a typical patient's stand in: Age."),
        (NO_PRIMARY, "the T stage is that of training patients of whom none was found either."),
        ("out of GPU memory: the rest on the CPU", None),
        ("CT was stored as unsigned 16 bits: negative HU restored", None),
        ("a flag that nobody knew", "a flag that nobody knew"),
    ],
)
def test_flags_are_put_in_words_where_they_matter(flag: str, expected: str | None) -> None:
    words = flag_in_words(flag)
    assert words == expected if expected is None or words is None else words.endswith(expected)


def test_no_lesion(head: Case, result: PatientResult, ensemble: Ensemble) -> None:
    empty = Image(np.zeros_like(result.segmentation.mask.voxels), head.ct.grid)
    nothing = replace(result.segmentation, mask=empty, member_masks=None)
    flags = ("no lesion found", "the networks of HPV and survival left out: the training mean stands in")
    text = text_of(render(head, replace(result, segmentation=nothing, lesions=(), flags=flags), ensemble))
    assert "GTVp none found" in text
    assert "GTVn none found" in text
    assert "None was found." in text
    assert "agree with these" not in text  # with nothing
    assert text.count("No tumor and no node were found. HPV status and recurrence risk rest on that") == 1
    assert "left out" not in text


def test_the_record_stands_as_it_was_given_and_read(head: Case, ensemble: Ensemble) -> None:
    """And notes on it only where the table does not say so."""
    schema = ensemble.profile.clinical
    raw = {
        "Age": "sixty\x00 " + "long" * 20,
        "Gender": "male",
        "Tobacco Consumption": "",
        "Treatment": 1,
        "Mood": "good",
    }
    record = schema.complete(schema.read(raw), {"M-stage": "M0"}, "the DICOM header")
    result = Pipeline(ensemble, CPU)(replace(head, clinical=record))
    more = tuple(f"note {number}" for number in range(9))
    text = text_of(render(replace(head, clinical=record), replace(result, notes=(*result.notes, *more)), ensemble))
    for words in (
        "Age missing given: &#39;sixty\\x00 longlonglonglong...",
        "Gender male (1) given: &#39;male&#39;",
        "Tobacco Consumption missing given: blank",
        "Alcohol Consumption missing given: not given",
        "Treatment chemoradiotherapy (1) given: 1",
        "M-stage M0 given: the DICOM header",
        "&#39;Mood&#39; is no field of the clinical record: not used",
        "note 3 and 5 more",
    ):
        assert words in text
    assert "longlonglonglonglong" not in text
    assert "taken as missing" not in text


def test_what_is_missing_is_minded_where_it_matters(head: Case, result: PatientResult, ensemble: Ensemble) -> None:
    assert result.survival is not None
    assert result.survival.explanation is not None
    parts = [Contribution("Age", None, None, 0.3), Contribution("Gender", None, None, -0.1)]
    why = replace(result.survival.explanation, contributions=(*parts, Contribution("Treatment", "1", None, 0.9)))
    text = text_of(render(head, replace(result, survival=replace(result.survival, explanation=why)), ensemble))
    assert "Age is missing, which alone moves the risk by +0.30." in text
    assert text.count("which alone moves the risk") == 1


def test_nodes_without_a_primary_are_minded(head: Case, result: PatientResult, ensemble: Ensemble) -> None:
    nodes = np.where(result.segmentation.mask.voxels > 0, Label.GTVN, Label.BACKGROUND).astype(np.uint8)
    segmentation = replace(result.segmentation, mask=Image(nodes, head.ct.grid))
    assert "No primary tumor was found" in text_of(render(head, replace(result, segmentation=segmentation), ensemble))
    assert "No primary tumor was found" not in text_of(render(head, result, ensemble))


def test_dicom_series_are_named_and_nothing_else_of_them(head: Case, result: PatientResult, ensemble: Ensemble) -> None:
    ct, pet = SeriesIdentity("1.2.3", "1.9.9"), SeriesIdentity("1.2.4", "1.9.9")
    text = text_of(render(replace(head, ct_series=ct, pet_series=pet), result, ensemble))
    assert "ct DICOM series 1.2.3 pet DICOM series 1.2.4" in text
    assert "1.9.9" not in text
    assert "DICOM series" not in text_of(render(head, result, ensemble))


def test_no_suv_and_one_model(head: Case, ensemble: Ensemble) -> None:
    case = replace(head, pet_is_suv=False)
    one = ensemble.only(["patient_0"])
    result = replace(
        Pipeline(one, CPU, lesions=True)(head),
        lesions=find_lesions(case, head.reference),
        flags=("PET is not in SUV: PET radiomics left out",),
    )
    text = text_of(render(case, result, one))
    assert "answered by 1 model on" in text
    assert "The PET is not in SUV: no uptake was measured" in text
    for absent in ("SUVmax", "TLG", "SUVpeak", "found by", "agree with these", "models, "):
        assert absent not in text


def test_weights_of_segmentation_alone(head: Case, partial_ensemble) -> None:
    ensemble = load_ensemble(partial_ensemble(Stage.SEGMENTATION))
    text = text_of(render(head, Pipeline(ensemble, CPU, lesions=True)(head), ensemble))
    assert "Lesions" in text
    for absent in ("HPV status", "Recurrence", "What the answers rest on", "No recurrence"):
        assert absent not in text


@pytest.mark.parametrize("flag", [NO_LESION, GIVEN])
def test_without_outcomes_nothing_is_said_of_what_they_rest_on(flag: str) -> None:
    assert "HPV status and recurrence risk rest on" in (flag_in_words(flag) or "")
    assert "HPV" not in (flag_in_words(flag, outcomes=False) or "HPV")


def test_a_lesion_of_one_slice_is_drawn_wherever_it_lies(head: Case) -> None:
    """The cube's voxels are larger than those of a CT of 1 mm."""
    grid = Grid((60, 60, 60), (1.0, 1.0, 1.0), (-30.0, -30.0, -30.0))
    images = {name: Image(np.zeros(grid.shape_zyx, np.float32), grid) for name in ("ct", "pet")}
    for at in range(12):
        mask = np.zeros(grid.shape_zyx, np.uint8)
        mask[20 + at, 20:32, 20:32] = Label.GTVN
        mask[8:12, 8:20, 8:20] = Label.GTVP
        scene = make_scene(replace(head, **images, reference=None), Segmentation(Image(mask, grid), 1.0, 1, ()))
        assert (scene.volumes[3] > 127).any()


def test_stages_stand_beside_the_lesions(head: Case, result: PatientResult, ensemble: Ensemble) -> None:
    staged = replace(result, t_stage=StageResult(3, 2.8, (2.8,)), n_stage=StageResult(0, 0.0, (0.0,)))
    assert "Stage (AJCC, seventh edition): T3 N0" in text_of(render(head, staged, ensemble))
    assert "Stage (" not in text_of(render(head, result, ensemble))


def test_weights_that_were_not_calibrated(head: Case, tiny_ensemble: Path) -> None:
    ensemble = load_ensemble(tiny_ensemble)
    text = text_of(render(head, Pipeline(ensemble, CPU, lesions=True)(head), ensemble))
    assert text.count("These weights were not calibrated") == 2
    assert "No recurrence" not in text
    assert "Probability" not in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not PROGRAM:
        pytest.skip("no Chromium is installed")
    with start_browser() as started:
        yield started


@pytest.fixture(scope="module")
def shown(head: Case, result: PatientResult, ensemble: Ensemble, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a primary on the left and in front, and a smaller, higher node on the right and behind."""
    grid = head.ct.grid
    z, y, x = (
        np.arange(n)[tuple(slice(None) if i == k else None for k in range(3))] for i, n in enumerate(grid.shape_zyx)
    )
    mask = np.zeros(grid.shape_zyx, np.uint8)
    mask[(x - 29) ** 2 + (y - 18) ** 2 + (z - 25) ** 2 < 30] = Label.GTVP
    mask[(x - 14) ** 2 + (y - 30) ** 2 + (z - 33) ** 2 < 20] = Label.GTVN
    both = Segmentation(Image(mask, grid), 0.9, 2, (), roi=result.segmentation.roi)
    page = tmp_path_factory.mktemp("page") / "patient.html"
    lesions = find_lesions(head, both.mask, both.member_masks)
    named = replace(result, segmentation=both, lesions=lesions, patient_id=NASTY, notes=("Age is 7: odd",))
    write_page(page, head, named, ensemble, trace(ensemble, CPU, result.seconds, {}))
    return page


@pytest.fixture(scope="module")
def crowded(head: Case, result: PatientResult, ensemble: Ensemble, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a primary and nineteen nodes, with many flags and notes."""
    mask = np.zeros(head.ct.grid.shape_zyx, np.uint8)
    mask[24:28, 17:21, 27:31] = Label.GTVP
    for at in range(19):
        mask[8 + 3 * (at % 7) :, 14 + 3 * (at // 7), 12][:2] = Label.GTVN
    segmentation = replace(result.segmentation, mask=Image(mask, head.ct.grid), member_masks=None)
    lesions = find_lesions(head, segmentation.mask, segmentation.member_masks)
    assert len(lesions) == 20
    flags = (
        "low ensemble agreement",
        "images unlike those of the training patients",
        "clinical fields assumed: " + ", ".join(head.clinical.values),
        "time budget: 2 of 10 models",
        *(f"another finding, number {at}" for at in range(6)),
    )
    notes = tuple(f"'column {at}' is no field of the clinical record: not used" for at in range(30))
    page = tmp_path_factory.mktemp("page") / "crowded.html"
    crowd = replace(result, segmentation=segmentation, lesions=lesions, flags=flags, notes=notes)
    write_page(page, head, crowd, ensemble, trace(ensemble, CPU, result.seconds, {}))
    return page


def open_page(browser: Browser, page: Path, **how: object) -> None:
    browser.open(page, **how)  # type: ignore[arg-type]
    browser.wait_for(
        "document.documentElement.classList.contains('live') && document.querySelector('#axial output').textContent"
    )


COLORED = """(plane => {
  const canvas = document.querySelector(`#${plane} canvas`), n = canvas.width;
  const pixels = canvas.getContext("2d").getImageData(0, 0, n, n).data;
  const found = {gtvp: [0, 0, 0], gtvn: [0, 0, 0], hot: 0};
  for (let i = 0; i < n * n; i++) {
    const [r, g, b] = pixels.slice(4 * i, 4 * i + 3);
    const kind = r < 90 && g > 150 && b > 190 ? "gtvp" : r < 190 && g > 190 && b < 130 && g - r > 60 ? "gtvn" : null;
    if (kind) { found[kind][0]++; found[kind][1] += i % n / n; found[kind][2] += Math.floor(i / n) / n; }
    if (r > 150 && r - b > 60) found.hot++;
  }
  return found;
})"""


def test_a_browser_has_no_complaint_and_fetches_nothing(browser: Browser, shown: Path) -> None:
    open_page(browser, shown)
    assert browser.complaints == []
    assert browser.requested[0] == shown.as_uri()
    assert all(address.startswith("data:image/jpeg;base64,") for address in browser.requested[1:])
    assert browser.evaluate("document.querySelector('h1').textContent") == f"Patient {NASTY}"
    assert browser.evaluate("getComputedStyle(document.querySelector('.still')).display") == "none"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_screen(browser: Browser, shown: Path, width: int, dark: bool) -> None:
    open_page(browser, shown, width=width, dark=dark)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    red = int(browser.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
    assert (red < 60) is dark


def test_contours_and_letters_stand_on_the_right_side(browser: Browser, shown: Path) -> None:
    """Each lesion in its own slice, as its button shows it: the cross goes there."""
    open_page(browser, shown)
    middle = {}
    for at, kind in enumerate(("gtvp", "gtvn")):
        browser.evaluate(f"document.querySelector('button[data-lesion=\"{at}\"]').click()")
        for plane in ("axial", "coronal", "sagittal"):
            count, x, y = browser.evaluate(f"{COLORED}('{plane}')")[kind]
            assert count > 30
            middle[plane, kind] = x / count, y / count
    for plane, letters in (("axial", "RLAP"), ("coronal", "RLSI"), ("sagittal", "APSI")):
        (primary_x, primary_y), (node_x, node_y) = middle[plane, "gtvp"], middle[plane, "gtvn"]
        assert primary_x < node_x - 0.1 if plane == "sagittal" else primary_x > node_x + 0.1  # in front; on the left
        assert primary_y < node_y - 0.1 if plane == "axial" else primary_y > node_y + 0.1  # in front; below
        found = browser.evaluate(f"[...document.querySelectorAll('#{plane} .edge')].map(e => e.textContent).join('')")
        assert found == letters
        west, east, north, south = browser.evaluate(
            f"[...document.querySelectorAll('#{plane} .edge')].map(e => e.getBoundingClientRect()).map(r => [r.x, r.y])"
        )
        assert west[0] < north[0] < east[0]
        assert north[1] < west[1] < south[1]


def test_slices_scroll_by_wheel_keys_and_slider(browser: Browser, shown: Path) -> None:
    open_page(browser, shown)
    state = "[+document.querySelector('#axial input').value, document.querySelector('#axial output').textContent]"
    first, where = browser.evaluate(state)
    x, y = browser.evaluate(
        "(r => [r.x + r.width / 2, r.y + r.height / 2])((document.querySelector('#axial canvas').scrollIntoView(),"
        " document.querySelector('#axial canvas').getBoundingClientRect()))"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-100)
    browser.wait_for(f"+document.querySelector('#axial input').value === {first + 1}")
    browser.evaluate("document.querySelector('#axial canvas').focus()")
    for key in ("ArrowUp", "PageUp", "ArrowDown"):
        browser.call("Input.dispatchKeyEvent", type="keyDown", key=key)
    browser.wait_for(f"+document.querySelector('#axial input').value === {first + 6}")
    assert browser.evaluate(state)[1] != where
    browser.evaluate(
        "(e => { e.value = 3; e.dispatchEvent(new Event('input')); })(document.querySelector('#axial input'))"
    )
    assert browser.evaluate(state)[0] == 3
    assert browser.evaluate(f"{COLORED}('axial')")["gtvp"][0] == 0  # far below the lesion
    before = browser.evaluate("document.querySelector('#sagittal output').textContent")
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x + 60, y=y, button="left", clickCount=1)
    browser.wait_for(f"document.querySelector('#sagittal output').textContent !== '{before}'")


def test_the_pet_fades(browser: Browser, shown: Path) -> None:
    open_page(browser, shown)
    hot = []
    for fade in (0, 100):
        browser.evaluate(
            f"(e => {{ e.value = {fade}; e.dispatchEvent(new Event('input')); }})(document.getElementById('fade'))"
        )
        hot.append(browser.evaluate(f"{COLORED}('axial')")["hot"])
    assert hot[0] == 0
    assert hot[1] > 200


def test_it_prints_on_two_pages_with_stills(browser: Browser, shown: Path, crowded: Path, tmp_path: Path) -> None:
    for page in (crowded, shown):
        open_page(browser, page, dark=True)
        browser.print(tmp_path / "page.pdf")
        printed = (tmp_path / "page.pdf").read_bytes()
        assert len(re.findall(rb"/Type\s*/Page\b(?!s)", printed)) == 2
    assert browser.evaluate("getComputedStyle(document.querySelector('.overleaf')).breakBefore") == "auto"
    browser.call("Emulation.setEmulatedMedia", media="print")
    display = "getComputedStyle(document.querySelector('{}')).display"
    assert browser.evaluate(display.format(".still")) == "block"
    assert browser.evaluate(display.format(".viewer")) == "none"
    assert browser.evaluate("getComputedStyle(document.querySelector('.overleaf')).breakBefore") == "page"
    browser.call("Emulation.setEmulatedMedia", media="")


def test_stills_where_the_viewer_cannot_be(browser: Browser, shown: Path) -> None:
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source="delete window.DecompressionStream")
    browser.open(shown)
    browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    assert browser.evaluate("getComputedStyle(document.querySelector('.still')).display") == "block"
    assert browser.evaluate("document.querySelector('.still').naturalWidth") > 800
    assert browser.evaluate("getComputedStyle(document.querySelector('.viewer')).display") == "none"
    (complaint,) = browser.complaints
    assert "no viewer: ReferenceError" in complaint
