"""What several tests share: one small case, and a small but whole ensemble in the format that is shipped."""

import json
import logging
import os
import runpy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin slow small networks on a busy machine

import numpy as np
import pytest
import torch
from challenge_program import PROGRAM, plain_logging
from expected import files
from safetensors.torch import save_file

from mmpl import datafiles
from mmpl.calibration import Calibration, HpvCalibration, HpvSets, SurvivalCalibration
from mmpl.case import Case, Grid, Image
from mmpl.clinical import ClinicalEncoder
from mmpl.evidence import HPV_PROBABILITY, FeatureTable, Scale, hpv_evidence
from mmpl.files import write_json
from mmpl.hpv import HpvModel
from mmpl.io.images import write_image
from mmpl.names import NETWORK_STAGES, Label, Stage, Task
from mmpl.network import StageNetwork, build_network
from mmpl.preprocess import PreparedCase, prepare
from mmpl.processor import Processor
from mmpl.profile import Profile, load_profile
from mmpl.radiomics import feature_names
from mmpl.reference import PERCENTS, PatchDistance, Reference, describe_patch
from mmpl.schema import default_schema
from mmpl.segmentation import Thresholds, predict_probability
from mmpl.staging import OrdinalModel, StageScale, StagingTables
from mmpl.survival import Covariate, CoxModel, ScaledColumn, TimeIntervals
from mmpl.training.forest import fit_forest
from mmpl.weights import (
    ENCODER_FILE,
    FOREST_FILE,
    MANIFEST,
    NETWORK_FILE,
    SHIPPED_FOLDER,
    TABLES_FILE,
    HpvTables,
    SurvivalTables,
    load_ensemble,
    member_files,
    write_manifest,
)

ROOT = Path(__file__).parents[1]
EHR = {
    "Age": 61,
    "Gender": 1,
    "Tobacco Consumption": 0,
    "Alcohol Consumption": 1,
    "Performance Status": 1,
    "Treatment": 1,
    "M-stage": "M0",
}
MEMBERS = ["patient_0", "center_0"]
CORE_VOXELS, WHOLE_VOXELS = 60, 200
"""How many voxels of the patch become GTVp, and how many a lesion of either class: thresholds are set to that."""


SLOW_FOLDERS = ("benchmarks", "phantom", "train", "whole")
SLOWEST_FILE = "test_training.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes its time as slow, folders of tests that draw scans, train or start programs; the slowest first.

    Spread over the cores, the file that begins last is waited for.
    """
    items.sort(key=lambda item: item.path.name != SLOWEST_FILE)
    for item in items:
        if item.path.parent.name in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Take back what a test leaves of the program's variables, as `mmpl answer --weights` does, and the log's level."""
    before = {name: value for name, value in os.environ.items() if name.startswith("MMPL_")}
    level = logging.root.level
    yield
    logging.root.setLevel(level)
    for name in [name for name in os.environ if name.startswith("MMPL_")]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def root() -> Path:
    """Where the project lies."""
    return ROOT


@pytest.fixture(scope="session")
def sample() -> Path:
    """The shipped sample case, in the challenge's layout."""
    return ROOT / "test" / "input"


@pytest.fixture(scope="session")
def shipped() -> Path:
    """The shipped ensemble, once it is there."""
    if not (SHIPPED_FOLDER / MANIFEST).is_file():
        pytest.skip(f"no trained ensemble in {SHIPPED_FOLDER}")
    return SHIPPED_FOLDER


@pytest.fixture(scope="session")
def head() -> Case:
    """A body of water with one hot lesion of 20 mm radius; labels on the CT's grid."""
    ct_grid = Grid((48, 44, 40), (5.0, 5.0, 5.1), (-120.25, -109.0, -98.0))
    pet_grid = Grid((40, 38, 36), (6.0, 6.0, 6.0), (-119.0, -113.0, -107.0))
    body, lesion = _ball(ct_grid, (0, 0, -20), 100), _ball(ct_grid, (25, -20, 30), 20)
    ct = np.where(body, 40, -1000) + np.where(lesion, 25, 0)
    warm = _ball(pet_grid, (0, 0, -20), 100) + 14.0 * _ball(pet_grid, (25, -20, 30), 20)
    pet = warm + np.random.default_rng(0).uniform(0, 0.3, warm.shape)
    return Case(
        "head",
        Image(ct.astype(np.int16), ct_grid),
        Image(pet.astype(np.float32), pet_grid),
        default_schema().read(EHR),
        Image(np.where(lesion, Label.GTVP, Label.BACKGROUND).astype(np.uint8), ct_grid),
    )


def _ball(grid: Grid, center_xyz: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    axes = [
        origin + step * np.arange(count)
        for origin, step, count in zip(grid.origin_xyz, grid.spacing_xyz, grid.size_xyz, strict=True)
    ]
    z, y, x = np.meshgrid(*axes[::-1], indexing="ij")
    return (x - center_xyz[0]) ** 2 + (y - center_xyz[1]) ** 2 + (z - center_xyz[2]) ** 2 < radius_mm**2


@pytest.fixture(scope="session")
def written(head: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The standard head as a DICOM study; not to be written to."""
    from dicom_files import write_ct, write_pet

    folder = tmp_path_factory.mktemp("dicom") / "visit"
    write_ct(folder / "ct", head.ct)
    write_pet(folder / "pet", head.pet)
    return folder


@pytest.fixture
def study(written: Path, tmp_path: Path) -> Path:
    """The same, to be written to."""
    return Path(shutil.copytree(written, tmp_path / "visit"))


@pytest.fixture
def write_input(tmp_path: Path, head: Case) -> Callable[..., Path]:
    """Write a case, by default `head`, as the challenge's input."""

    def write(
        ct: Image | None = head.ct, pet: Image | None = head.pet, ehr: object = EHR, suffix: str = ".mha"
    ) -> Path:
        folder = tmp_path / "input"
        for name, image in (("ct", ct), ("pet", pet)):
            (folder / "images" / name).mkdir(parents=True, exist_ok=True)
            if image is not None:
                write_image(folder / "images" / name / f"{name}-uuid{suffix}", image)
        if ehr is not None:
            (folder / "ehr.json").write_text(ehr if isinstance(ehr, str) else json.dumps(ehr))
        return folder

    return write


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where the challenge's program writes."""
    return tmp_path / "output"


@pytest.fixture
def answer(
    output: Path, tiny_ensemble: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the challenge's program in this process: exit code, stdout, stderr."""

    def run(folder: Path, weights: Path = tiny_ensemble) -> tuple[int, str, str]:
        for name, value in (("INPUT", folder), ("OUTPUT", output), ("WEIGHTS", weights)):
            monkeypatch.setenv(f"MMPL_{name}", str(value))
        with plain_logging():
            code = runpy.run_path(str(PROGRAM))["main"]([])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def refuse(answer: Callable[..., tuple[int, str, str]], output: Path) -> Callable[..., str]:
    """Run it on a case that it cannot answer, beside an earlier answer; the line it prints."""

    def run(folder: Path, **options: Path) -> str:
        output.mkdir(exist_ok=True)
        for name in ("rfs.json", "hpv-status.json"):
            (output / name).write_text("1\n")
        code, _, error = answer(folder, **options)
        assert code == 1
        assert not files(output)
        assert error.startswith("error: ")
        assert error.endswith("\n")
        assert error.count("\n") == 1
        return error.removeprefix("error: ").rstrip("\n")

    return run


@pytest.fixture(scope="session")
def tiny_ensemble(tmp_path_factory: pytest.TempPathFactory, head: Case) -> Path:
    """Two untrained members of the micro profile, whose thresholds find a lesion of both classes in `head`."""
    folder = tmp_path_factory.mktemp("tiny") / "weights"
    profile = load_profile("micro")
    prepared = prepare(head, profile.preprocess)
    probabilities = []
    for seed, name in enumerate(MEMBERS):
        (folder / name).mkdir(parents=True)
        torch.manual_seed(seed)
        for stage in NETWORK_STAGES:
            network = build_network(profile, stage).eval().requires_grad_(False)
            if stage is Stage.SEGMENTATION:
                _fit_head(network, prepared)
                probabilities.append(predict_probability(prepared.images, network, profile.inference, Processor(_CPU)))
            save_file(
                {key: value.half().contiguous() for key, value in network.state_dict().items()},
                folder / name / NETWORK_FILE[stage],
            )
        encoder = _encoder()
        write_json(folder / name / ENCODER_FILE, encoder)
        write_json(folder / name / TABLES_FILE[Stage.HPV], HpvTables(Scale(0.1, 0.5)))
        write_json(folder / name / TABLES_FILE[Stage.SURVIVAL], _survival_tables(seed, profile))
        _forest(seed, profile, encoder).save(folder / name / FOREST_FILE)
    hottest = np.sort(np.mean(probabilities, axis=0).reshape(2, -1), axis=1)
    thresholds = Thresholds(gtvp=float(hottest[0, -CORE_VOXELS]), gtvn=float(hottest[1, -WHOLE_VOXELS]))
    training = {"cohort": "noise", "patients": 24}
    write_manifest(folder, profile, MEMBERS, NETWORK_STAGES, thresholds, 0.5, training)
    return folder


_CPU = torch.device("cpu")


def _fit_head(network: StageNetwork, prepared: PreparedCase) -> None:
    """Solve both channels of the last convolution for the lesion, by least squares over the patch."""
    assert prepared.labels is not None
    z = prepared.images.shape[1] // 8 * 8
    features = network.backbone(torch.from_numpy(prepared.images[None, :, :z]))[-1][0].flatten(1).T.double()
    target = torch.from_numpy(prepared.labels[0, :z]).flatten().double()
    columns = torch.cat([features, torch.ones(len(features), 1).double()], dim=1)
    solution = torch.linalg.lstsq(columns, 8 * target[:, None]).solution[:, 0].float()
    network.head.project.weight.copy_(solution[:-1].view(1, -1, 1, 1, 1).expand(2, -1, -1, -1, -1))
    network.head.project.bias.copy_((solution[-1] - 4).expand(2))


def _encoder() -> ClinicalEncoder:
    ages, schema = (45, 52, 61, 70, 78), default_schema()
    return ClinicalEncoder.fit([schema.read({**EHR, "Age": age, "Gender": age % 2}) for age in ages], schema)


def _survival_tables(seed: int, profile: Profile) -> SurvivalTables:
    covariates = tuple(
        Covariate(
            name=name,
            fill=0.0,
            mean=0.0,
            scale=1.0,
            limit=None,
            coefficient=coefficient,
            hazard_ratio=float(np.exp(coefficient)),
            hazard_ratio_low=float(np.exp(coefficient - 0.2)),
            hazard_ratio_high=float(np.exp(coefficient + 0.2)),
            p=0.01,
            proportional_hazards_p=0.5,
        )
        for name, coefficient in (("expected_days_score", -0.4), ("hpv_probability", -1.0 - seed), ("Age", 0.3))
    )
    edges = np.linspace(0, 1500 + 300 * seed, profile.survival.intervals + 1)
    return SurvivalTables(
        intervals=TimeIntervals(tuple(edges.tolist())),
        scale=Scale(600.0, 200.0),
        cox=CoxModel(covariates, patients=24, events=9),
        risk_scale=Scale(-0.5, 0.3),
    )


def _forest(seed: int, profile: Profile, encoder: ClinicalEncoder) -> HpvModel:
    noise = np.random.default_rng(seed)
    positive = np.arange(24) % 3 > 0
    names = feature_names(profile.radiomics)
    radiomics = noise.normal(size=(24, len(names)))
    radiomics[:, :9] += positive[:, None]
    ages = noise.integers(40, 80, 24)
    clinical = encoder.encode([default_schema().read({**EHR, "Age": int(age)}) for age in ages])
    evidence = hpv_evidence(noise.normal(size=24) + positive, FeatureTable(names, radiomics), clinical)
    return fit_forest(evidence, positive, profile.forest, seed)


@pytest.fixture(scope="session")
def blind_ensemble(tmp_path_factory: pytest.TempPathFactory, tiny_ensemble: Path) -> Path:
    """The same ensemble with thresholds that nothing reaches: it finds no lesion, and is quick for it."""
    folder = tmp_path_factory.mktemp("blind")
    for name in MEMBERS:
        (folder / name).symlink_to(tiny_ensemble / name)
    manifest = json.loads((tiny_ensemble / MANIFEST).read_text())
    manifest["mask_thresholds"] = {"gtvp": 1.1, "gtvn": 1.1}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def moved_away(head: Case) -> Image:
    """The PET of `head`, half a meter away from the CT."""
    x, y, z = head.pet.grid.origin_xyz
    return replace(head.pet, grid=replace(head.pet.grid, origin_xyz=(x + 500, y, z)))


@pytest.fixture(scope="session")
def partial_ensemble(tmp_path_factory: pytest.TempPathFactory, tiny_ensemble: Path) -> Callable[..., Path]:
    """Make the tiny ensemble as it had been without some stages: their files are not there, nor is what reads them."""
    whole = load_ensemble(tiny_ensemble)

    @cache
    def make(*stages: Stage) -> Path:
        folder = tmp_path_factory.mktemp("-".join(stages))
        for member in whole.members:
            (folder / member.name).mkdir()
            for file in member_files(stages):
                (folder / member.name / file).write_bytes((member.folder / file).read_bytes())
            if Stage.SURVIVAL in stages and Stage.HPV not in stages:
                cox = member.survival.cox
                kept = tuple(covariate for covariate in cox.covariates if covariate.name != HPV_PROBABILITY)
                tables = replace(member.survival, cox=replace(cox, covariates=kept))
                write_json(folder / member.name / TABLES_FILE[Stage.SURVIVAL], tables)
        threshold = whole.hpv_threshold if Stage.HPV in stages else None
        write_manifest(folder, whole.profile, MEMBERS, stages, whole.thresholds, threshold, whole.training)
        return folder

    return make


@pytest.fixture(scope="session")
def calibrated_ensemble(tmp_path_factory: pytest.TempPathFactory, tiny_ensemble: Path, head: Case) -> Path:
    """Make the tiny ensemble as it were after its scores had been calibrated, on follow-up of 1,200 days.

    Its training patients have images like those of the standard head, and are 40 to 80 years old.
    """
    folder = Path(shutil.copytree(tiny_ensemble, tmp_path_factory.mktemp("calibrated") / "weights"))
    days, hazard = (0.0, 400.0, 800.0, 1200.0), (0.0, 0.1, 0.2, 0.3)
    resampled = tuple(tuple(value * factor for value in hazard) for factor in (0.8, 1.0, 1.3))
    quantiles = tuple(np.linspace(-2, 2, 101).tolist())
    survival = SurvivalCalibration(days, 0.5, hazard, (0.4, 0.5, 0.6), resampled, quantiles)
    whole = load_ensemble(tiny_ensemble)
    calibration = Calibration(HpvCalibration(0.3, 1.5, 0.9, HpvSets(0.45, 0.55)), survival)
    mean = describe_patch(prepare(head, whole.profile.preprocess).images)
    apart = tuple(map(tuple, np.eye(len(mean)).tolist()))
    ages = tuple(np.linspace(40, 80, len(PERCENTS)).tolist())
    reference = Reference({"Age": ages}, PatchDistance(tuple(mean.tolist()), apart, 0.5))
    settings = whole.stages, whole.thresholds, whole.hpv_threshold, whole.training
    write_manifest(folder, whole.profile, MEMBERS, *settings, calibration, reference)
    return folder


@pytest.fixture(scope="session")
def staging_ensemble(tmp_path_factory: pytest.TempPathFactory, tiny_ensemble: Path) -> Path:
    """Make the tiny ensemble as it were with stage 4: T by the primary's volume, N by the nodes' number and shape."""
    folder = Path(shutil.copytree(tiny_ensemble, tmp_path_factory.mktemp("staging") / "weights"))
    whole, stages = load_ensemble(tiny_ensemble), tuple(Stage)
    scaled = {
        name: ScaledColumn(name, 0.0, mean, 1.0, None)
        for name, mean in (("primary_sphere_mm", 30.0), ("node_count", 1.5), ("ct_gtvn_original_shape_Sphericity", 0.5))
    }
    volume, *nodes = scaled.values()
    for seed, name in enumerate(MEMBERS):
        t_model = OrdinalModel((1, 2, 4), (volume,), (0.5, -0.5 - seed), ((0.1,), (0.2,)))
        n_model = OrdinalModel((0, 1, 2), tuple(nodes), (1.0, -1.0 - seed), ((0.5, 0.0), (1.0, 0.5)))
        write_json(folder / name / TABLES_FILE[Stage.STAGING], StagingTables(t_model, n_model))
    scales = {
        Task.T_STAGE: StageScale((1, 2, 4), (1.5, 2.5), without_lesion=1),
        Task.N_STAGE: StageScale((0, 1, 2), (0.5, 1.5), without_lesion=0),
    }
    made = whole.profile, MEMBERS, stages, whole.thresholds, whole.hpv_threshold, whole.training
    write_manifest(folder, *made, stage_scales=scales)
    return folder


@pytest.fixture
def other_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let YAML with other profiles, radiomics settings and clinical fields lie beside the code for one test."""
    folder = Path(shutil.copytree(datafiles.RESOURCES, tmp_path / "resources"))
    for name, old, new in (
        ("radiomics.yaml", "log_sigmas_mm: [1.0, 3.0]", "log_sigmas_mm: [2.0, 4.0]"),
        ("radiomics.yaml", "bin_width: 25", "bin_width: 10"),
        ("clinical.yaml", "name: Gender", "name: Species"),
        ("clinical.yaml", "range: [1, 120]", "range: [1, 20]"),
        ("profiles/micro.yaml", "spacing_mm: 6.0", "spacing_mm: 9.0"),
    ):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
    monkeypatch.setattr("mmpl.datafiles.RESOURCES", folder)
    monkeypatch.setattr("mmpl.profile.PROFILES", folder / "profiles")
    default_schema.cache_clear()
    yield folder
    default_schema.cache_clear()
