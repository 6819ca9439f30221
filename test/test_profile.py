"""Profiles: the only home of a setting."""

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from mmpl import profile
from mmpl.profile import PROFILES, Profile, Settings, load_profile

NAMES = sorted(path.stem for path in PROFILES.glob("*.yaml"))
assert {"paper", "demo", "micro"} <= set(NAMES)


@pytest.fixture
def demo() -> dict[str, Any]:
    return yaml.safe_load((PROFILES / "demo.yaml").read_text())


def key_paths(settings: dict[str, Any], prefix: str = "") -> set[str]:
    paths: set[str] = set()
    for key, value in settings.items():
        paths |= key_paths(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return paths


def groups() -> Iterator[tuple[type[Settings], str]]:
    """Every settings class of the module, with each of its fields."""
    classes = [c for _, c in inspect.getmembers(profile, inspect.isclass) if issubclass(c, Settings)]
    assert len(classes) > 5
    for settings in classes:
        yield from ((settings, name) for name in settings.model_fields)


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_loads(name: str) -> None:
    assert load_profile(name).name == name


def test_the_paper_profile_is_the_published_system() -> None:
    paper = load_profile("paper")
    assert paper.preprocess.spacing_mm == 1.0
    assert paper.preprocess.roi_size_xyz == (200, 200, 310)
    assert paper.preprocess.cranial_fraction == 0.25
    assert paper.preprocess.pet_z_threshold == 1.0
    assert paper.preprocess.ct_range_hu == (-1024, 1024)
    assert paper.preprocess.label_interpolation == "nearest"
    assert paper.network.stream_channels == (8, 16, 32, 64, 128)
    assert paper.network.fusion_channels == (16, 32, 64, 128, 256)
    assert paper.network.convolutions == (2, 3, 3, 4, 4)
    assert paper.inference.window_xyz == paper.training.segmentation.crop_xyz == (128, 128, 128)
    assert paper.inference.minimum_component_voxels == 50
    assert paper.survival.intervals == 10
    assert paper.network.stride == 16


@pytest.mark.parametrize("name", NAMES)
def test_all_profiles_have_the_same_keys(name: str) -> None:
    ours, paper = (yaml.safe_load((PROFILES / f"{each}.yaml").read_text()) for each in (name, "paper"))
    assert key_paths(ours) == key_paths(paper)


def test_no_setting_has_a_default_in_code() -> None:
    with_default = [f"{settings.__name__}.{name}" for settings, name in groups() if not is_required(settings, name)]
    assert with_default == []


def is_required(settings: type[BaseModel], name: str) -> bool:
    return settings.model_fields[name].is_required()


@pytest.mark.parametrize(
    "path", ["surprise", "preprocess.surprise", "network.surprise", "training.segmentation.surprise", "forest.surprise"]
)
def test_an_unknown_key_is_refused_by_name(demo: dict[str, Any], path: str) -> None:
    *folders, key = path.split(".")
    group = demo
    for folder in folders:
        group = group[folder]
    group[key] = 1
    with pytest.raises(ValidationError, match=rf"(?s){path}.*Extra inputs are not permitted"):
        Profile.model_validate(demo)


def test_every_key_is_required_by_name(demo: dict[str, Any]) -> None:
    paths = key_paths(demo)
    assert len(paths) > 40
    for path in paths:
        lacking = copy.deepcopy(demo)
        *folders, key = path.split(".")
        group = lacking
        for folder in folders:
            group = group[folder]
        del group[key]
        with pytest.raises(ValidationError, match=rf"(?s){path}.*Field required"):
            Profile.model_validate(lacking)


@pytest.mark.parametrize(
    ("group", "key"),
    [
        ("inference", "window_xyz"),
        ("inference", "lesion_crop_xyz"),
        ("training.segmentation", "crop_xyz"),
        ("training.hpv", "crop_xyz"),
        ("training.survival", "crop_xyz"),
    ],
)
def test_sizes_have_to_divide_and_to_fit(demo: dict[str, Any], group: str, key: str) -> None:
    def with_size(size: list[int]) -> dict[str, Any]:
        changed = copy.deepcopy(demo)
        inner = changed
        for folder in group.split("."):
            inner = inner[folder]
        inner[key] = size
        return changed

    assert Profile.model_validate(with_size([40, 48, 56]))
    with pytest.raises(ValidationError, match=rf"{group}.{key} \(40, 44, 48\): every size must be a multiple of 8"):
        Profile.model_validate(with_size([40, 44, 48]))
    with pytest.raises(ValidationError, match=rf"{group}.{key} \(40, 40, 104\): larger than .* \(56, 56, 96\)"):
        Profile.model_validate(with_size([40, 40, 104]))


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("preprocess", "spacing_mm", 0.0),
        ("preprocess", "cranial_fraction", 1.5),
        ("preprocess", "label_interpolation", "bspline"),
        ("network", "norm", "batch"),
        ("network", "head_dropout", 1.0),
        ("inference", "overlap", 1.0),
        ("survival", "intervals", 0),
    ],
)
def test_values_out_of_range_are_refused_by_name(demo: dict[str, Any], group: str, key: str, value: object) -> None:
    demo[group][key] = value
    with pytest.raises(ValidationError, match=f"{group}.{key}"):
        Profile.model_validate(demo)


def test_levels_have_to_agree(demo: dict[str, Any]) -> None:
    demo["network"]["convolutions"] = [1, 2, 2]
    with pytest.raises(ValidationError, match="stream_channels, fusion_channels and convolutions"):
        Profile.model_validate(demo)


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=f"no profile 'papper'; there are {', '.join(NAMES)}"):
        load_profile("papper")
    with pytest.raises(ValueError, match="no profile"):
        load_profile("../profiles/demo")


def test_a_profile_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_profile("demo").preprocess.spacing_mm = 1.0
