import logging
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from radiomics.glcm import RadiomicsGLCM
from scipy import ndimage

from mmpl.case import Grid, Image
from mmpl.evidence import FeatureTable
from mmpl.geometry import to_sitk
from mmpl.names import Label, Modality
from mmpl.profile import FilterSettings, load_profile
from mmpl.radiomics import (
    _feature_classes,
    _laplacian_of_gaussian,
    extract,
    feature_names,
    image_kind,
    is_radiomics,
    measure,
)
from oracles import measure_plainly

SETTINGS = load_profile("paper").radiomics
ALL_NAMES = feature_names(SETTINGS)
REGION_NAMES = [name.removeprefix("ct_gtvp_") for name in ALL_NAMES if name.startswith("ct_gtvp_")]
"""All that `measure` can be asked for."""
ZEROS = (0.0, 0.0, 0.0)


def ball(grid: Grid, center_xyz: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    axes = [
        o + s * np.arange(n) - c
        for o, s, n, c in zip(grid.origin_xyz, grid.spacing_xyz, grid.size_xyz, center_xyz, strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return (x**2 + y**2 + z**2 < radius_mm**2).transpose(2, 1, 0)


@pytest.fixture(scope="module")
def case() -> tuple[Image, Image, Image]:
    """A CT, a PET on a coarser and smaller grid, and a mask of one primary and two nodes, one at the CT's edge."""
    rng = np.random.default_rng(5)
    ct_grid = Grid((60, 56, 20), (0.977, 0.977, 3.0), (-30.0, -20.0, 5.0))
    pet_grid = Grid((13, 14, 11), (4.1, 4.1, 5.0), (-27.0, -18.0, 6.0))
    mask = np.zeros(ct_grid.shape_zyx, np.uint8)
    mask[ball(ct_grid, (-5.0, 5.0, 30.0), 9.0)] = Label.GTVP
    mask[ball(ct_grid, (18.0, 10.0, 50.0), 6.0)] = Label.GTVN
    mask[ball(ct_grid, (-22.0, 25.0, 62.0), 5.0)] = Label.GTVN
    ct = ndimage.gaussian_filter(rng.normal(40, 300, ct_grid.shape_zyx), 1.0).astype(np.float32)
    pet = ndimage.gaussian_filter(rng.gamma(2.0, 3.0, pet_grid.shape_zyx), 0.5).astype(np.float32)
    return Image(ct, ct_grid), Image(pet, pet_grid), Image(mask, ct_grid)


@pytest.fixture(scope="module")
def features(case: tuple[Image, Image, Image]) -> dict[str, float]:
    return named(extract(*case, SETTINGS))


def named(row: FeatureTable) -> dict[str, float]:
    """Give one patient's features by name."""
    (values,) = row.values
    return dict(zip(row.names, values.tolist(), strict=True))


def relabeled(mask: Image, **voxels: np.ndarray) -> Image:
    """Replace classes of a mask: `gtvp=` or `gtvn=` a boolean array."""
    labels = mask.voxels.copy()
    for name, inside in voxels.items():
        labels[labels == Label[name.upper()]] = Label.BACKGROUND
        labels[inside] = Label[name.upper()]
    return Image(labels, mask.grid)


def test_names_are_those_that_pyradiomics_returns(case: tuple[Image, Image, Image]) -> None:
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    names = ALL_NAMES
    assert len(names) == len(set(names)) == 2 * (1 + 14 + 2 * 11 * 74)
    assert {"gtvp_absent", "gtvn_absent", "ct_gtvp_original_shape_MeshVolume"} <= set(names)
    assert {"pet_gtvn_log-sigma-3-0-mm-3D_glcm_Idm", "ct_gtvn_wavelet-HLH_glszm_ZoneEntropy"} <= set(names)
    assert not any(name.startswith("pet_") and "_shape_" in name for name in names)
    assert all(map(is_radiomics, names))
    assert Counter(map(image_kind, names)) == {None: 2, "original": 2 * (14 + 2 * 74), "log": 592, "wavelet": 2368}

    image = case[0]
    inside = np.zeros(image.voxels.shape, bool)
    inside[5:15, 20:40, 20:40] = True
    extractor = RadiomicsFeatureExtractor(additionalInfo=False)
    extractor.enableImageTypes(
        LoG={"sigma": list(SETTINGS.filters.log_sigmas_mm)}, Wavelet={"wavelet": SETTINGS.filters.wavelet}
    )
    extractor.disableAllFeatures()
    extractor.enableFeaturesByName(**{name: [] for name in SETTINGS.feature_classes})
    logging.getLogger("radiomics").setLevel(logging.CRITICAL)
    returned = extractor.execute(to_sitk(image), to_sitk(Image(inside.astype(np.uint8), image.grid)))
    assert {f"ct_gtvp_{name}" for name in returned} == {name for name in names if name.startswith("ct_gtvp_")}


@pytest.mark.parametrize("resegment", [None, (-50.0, 200.0)])
def test_cropping_for_each_filter_changes_nothing(resegment: tuple[float, float] | None) -> None:
    """Against pyradiomics' own road: everything on the whole grid at once."""
    rng = np.random.default_rng(0)
    image = Image(
        ndimage.gaussian_filter(rng.normal(0, 400, (71, 70, 69)), 1.0).astype(np.float32),
        Grid((69, 70, 71), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    )
    inside = ball(image.grid, (34.0, 35.0, 36.0), 7.0)
    how = SETTINGS.images[Modality.CT].model_copy(update={"resegment": resegment})
    ours = measure(image, inside, REGION_NAMES, SETTINGS, how)

    theirs = measure_plainly(image, Image(inside.astype(np.uint8), image.grid), Label.GTVP, SETTINGS, how)
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        tolerance = 2e-4 if name.startswith("log") else 1e-6
        np.testing.assert_allclose(value, theirs[name], rtol=tolerance, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("spacing_xyz", [(1.0, 1.0, 1.0), (0.8, 1.1, 1.7)])
def test_log_is_that_of_itk(spacing_xyz: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(3)
    image = to_sitk(Image(rng.normal(40, 300, (24, 27, 30)).astype(np.float32), Grid((30, 27, 24), spacing_xyz, ZEROS)))
    itk = sitk.LaplacianRecursiveGaussian(image, 1.5, normalizeAcrossScale=True)
    theirs = sitk.GetArrayFromImage(itk)[5:-5, 5:-5, 5:-5]
    ours = sitk.GetArrayFromImage(_laplacian_of_gaussian(image, 1.5, 5))
    np.testing.assert_allclose(ours, theirs, atol=2e-6 * np.ptp(theirs))


@pytest.mark.parametrize("levels", [1, 2, 12])
def test_mcc_is_that_of_pyradiomics(levels: int) -> None:
    rng = np.random.default_rng(levels)
    image = to_sitk(Image(rng.integers(1, levels + 1, (5, 6, 7)).astype(np.float32), Grid((7, 6, 5), (1, 1, 1), ZEROS)))
    region = sitk.Cast(image > 0, sitk.sitkUInt8)
    ours, theirs = (make(image, region, binWidth=1) for make in (_feature_classes()["glcm"], RadiomicsGLCM))
    for features in (ours, theirs):
        features.enableFeatureByName("MCC")
    np.testing.assert_allclose(ours.execute()["MCC"], theirs.execute()["MCC"], rtol=1e-6)


def test_measures_what_is_there(case: tuple[Image, Image, Image], features: dict[str, float]) -> None:
    ct, _, mask = case
    assert all(np.isfinite(value) for value in features.values())
    assert features["gtvp_absent"] == features["gtvn_absent"] == 0.0
    for label in (Label.GTVP, Label.GTVN):
        expected = (mask.voxels == label).sum() * ct.grid.voxel_ml * 1000.0
        measured = features[f"ct_{label.name.lower()}_original_shape_VoxelVolume"]
        assert measured == pytest.approx(expected, rel=0.05)
    tissue = ct.voxels[(mask.voxels == Label.GTVP) & (ct.voxels >= -50) & (ct.voxels <= 200)]
    assert features["ct_gtvp_original_firstorder_Mean"] == pytest.approx(tissue.mean(), abs=3.0)
    assert features["ct_gtvp_original_firstorder_Minimum"] >= -50.0
    assert 2.0 < features["pet_gtvp_original_firstorder_Mean"] < 10.0
    assert features["pet_gtvn_original_firstorder_Minimum"] > 1  # the second node reaches beyond the top of the PET


def test_other_columns_are_no_radiomics() -> None:
    for name in ("deep_score", "hpv_probability", "Age", "Age_missing", "Gender=0", "ct_other_original_glcm_Idm"):
        assert not is_radiomics(name)
        assert image_kind(name) is None


@pytest.mark.parametrize(
    "names",
    [
        (
            "gtvn_absent",
            "ct_gtvp_original_shape_Sphericity",
            "pet_gtvn_wavelet-HLH_glszm_ZoneEntropy",
            "ct_gtvp_original_glcm_MCC",
            "pet_gtvp_log-sigma-3-0-mm-3D_glrlm_RunEntropy",
            "ct_gtvp_log-sigma-1-0-mm-3D_firstorder_Energy",
            "ct_gtvp_log-sigma-1-0-mm-3D_glcm_Idm",
            "gtvp_absent",
        ),
        ("ct_gtvn_wavelet-LLL_firstorder_Kurtosis",),
        ("gtvp_absent",),
        (),
    ],
)
def test_a_feature_is_the_same_whatever_else_is_asked_for(
    case: tuple[Image, Image, Image], features: dict[str, float], names: tuple[str, ...]
) -> None:
    """To the last bit, in the order of `feature_names`."""
    row = extract(*case, SETTINGS, names)
    assert row.names == tuple(name for name in ALL_NAMES if name in names)
    assert row.values.shape == (1, len(names))
    assert named(row) == {name: features[name] for name in names}


def test_a_feature_that_the_settings_do_not_make_is_named(case: tuple[Image, Image, Image]) -> None:
    name = "ct_gtvp_wavelet-LLH_glcm_Idm"
    original = SETTINGS.model_copy(update={"filters": FilterSettings(log_sigmas_mm=(), wavelet=None)})
    with pytest.raises(ValueError, match=f"make no {name}$"):
        extract(*case, original, ["gtvp_absent", name])


def test_moving_a_case_changes_nothing(case: tuple[Image, Image, Image], features: dict[str, float]) -> None:
    moved = []
    for image in case:
        x, y, z = image.grid.origin_xyz
        moved.append(Image(image.voxels, replace(image.grid, origin_xyz=(x + 17.3, y - 128.61, z + 402.2))))
    for name, value in named(extract(*moved, SETTINGS)).items():
        # float32 voxels: a gray level in thousands may fall into the next bin
        np.testing.assert_allclose(value, features[name], rtol=1e-2, atol=1e-3, err_msg=name)


def test_pet_grid_does_not_matter(case: tuple[Image, Image, Image], features: dict[str, float]) -> None:
    ct, pet, mask = case
    flipped = Image(
        pet.voxels[:, ::-1],
        replace(
            pet.grid,
            origin_xyz=(
                pet.grid.origin_xyz[0],
                pet.grid.origin_xyz[1] + (pet.grid.size_xyz[1] - 1) * pet.grid.spacing_xyz[1],
                pet.grid.origin_xyz[2],
            ),
            direction=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
        ),
    )
    for name, value in named(extract(ct, flipped, mask, SETTINGS)).items():
        np.testing.assert_allclose(value, features[name], rtol=1e-2, atol=1e-3, err_msg=name)


def test_absent_class_is_missing_and_says_so(case: tuple[Image, Image, Image], features: dict[str, float]) -> None:
    ct, pet, mask = case
    values = named(extract(ct, pet, relabeled(mask, gtvn=np.zeros(mask.voxels.shape, bool)), SETTINGS))
    assert values["gtvn_absent"] == 1.0
    assert all(np.isnan(values[name]) for name in values if "_gtvn_" in name)
    assert {name: value for name, value in values.items() if "gtvp" in name} == {
        name: value for name, value in features.items() if "gtvp" in name
    }


@pytest.mark.parametrize("voxels", [1, 2])
def test_tiny_lesion_is_measured_or_missing_but_not_absent(case: tuple[Image, Image, Image], voxels: int) -> None:
    ct, pet, mask = case
    inside = np.zeros(mask.voxels.shape, bool)
    inside[10, 20 : 20 + voxels, 20] = True
    values = named(extract(ct, pet, relabeled(mask, gtvp=inside), SETTINGS))
    assert values["gtvp_absent"] == 0.0
    measured = [np.isfinite(value) for name, value in values.items() if "_gtvp_" in name]
    # One voxel of 1 x 1 x 3 mm is a line on the 1 mm grid: no texture. Two are a plane.
    assert sum(measured) == 0 if voxels == 1 else sum(measured) > 1000


def test_air_has_a_shape_but_no_texture(case: tuple[Image, Image, Image], features: dict[str, float]) -> None:
    ct, pet, mask = case
    air = np.where(mask.voxels == Label.GTVP, np.float32(-1000), ct.voxels)
    air = np.where(ndimage.binary_dilation(mask.voxels == Label.GTVP, iterations=4), np.float32(-1000), air)
    values = named(extract(Image(air, ct.grid), pet, mask, SETTINGS))
    for name, value in values.items():
        if name.startswith("ct_gtvp_") and "_shape_" not in name:
            assert np.isnan(value), name
        elif "_gtvp_" in name:
            assert value == features[name], name


def test_flat_and_absurd_images_do_not_stop_it(case: tuple[Image, Image, Image]) -> None:
    ct, pet, mask = case
    flat = Image(np.full(ct.voxels.shape, 40, np.int16), ct.grid)
    values = named(extract(flat, Image(pet.voxels * 1e4, pet.grid), mask, SETTINGS))
    assert values["ct_gtvp_original_firstorder_Range"] == pytest.approx(0.0, abs=1e-3)
    assert values["pet_gtvp_original_firstorder_Maximum"] == 100.0
    assert not any(np.isinf(value) for value in values.values())


def test_region_without_room_for_the_filters_is_refused(case: tuple[Image, Image, Image]) -> None:
    inside = np.zeros(case[0].voxels.shape, bool)
    inside[3:9, 20:30, 20:30] = True
    with pytest.raises(ValueError, match="less than 7 voxels of image around it"):
        measure(case[0], inside, REGION_NAMES, SETTINGS, SETTINGS.images[Modality.CT])


def test_says_nothing(
    case: tuple[Image, Image, Image], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    ct, pet, mask = case
    extract(Image(np.full(ct.voxels.shape, 40, np.int16), ct.grid), pet, mask, SETTINGS)
    captured = capfd.readouterr()
    assert (captured.out, captured.err, caplog.text) == ("", "", "")
