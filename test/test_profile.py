"""Profiles: the only home of a setting."""

import copy
import inspect
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from mmpl import datafiles, profile
from mmpl.datafiles import read_data
from mmpl.profile import PROFILES, Profile, Settings, differences, load_profile

NAMES = sorted(path.stem for path in PROFILES.glob("*.yaml"))
assert {"paper", "demo", "micro"} <= set(NAMES)


@pytest.fixture
def demo() -> dict[str, Any]:
    """All that the files say of the demo profile."""
    profile = yaml.safe_load((PROFILES / "demo.yaml").read_text())
    return {**profile, **{name: read_data(f"{name}.yaml") for name in ("radiomics", "clinical", "dose")}}


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
    fields = {f"{settings.__name__}.{name}": settings.model_fields[name] for settings, name in groups()}
    assert not [name for name, field in fields.items() if not field.is_required()]


@pytest.mark.parametrize(
    "path",
    [
        "surprise",
        "preprocess.surprise",
        "network.surprise",
        "training.segmentation.surprise",
        "forest.surprise",
        "radiomics.surprise",
        "dose.surprise",
        "radiomics.images.pet.surprise",
        "radiomics.filters.surprise",
        "clinical.surprise",
    ],
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
    assert len(paths) > 50
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
        ("preprocess", "spacing_mm", True),
        ("preprocess", "ct_range_hu", [1024, -1024]),
        ("preprocess", "ct_range_hu", [0, 0]),
        ("forest", "trees", []),
        ("forest", "radiomics_kept", []),
        ("training", "seed", -1),
        ("training", "seed", 1 << 32),
        ("preprocess", "cranial_fraction", 1.5),
        ("preprocess", "label_interpolation", "bspline"),
        ("network", "norm", "batch"),
        ("network", "head_dropout", 1.0),
        ("inference", "overlap", 1.0),
        ("survival", "intervals", 0),
        ("radiomics", "spacing_mm", 0.0),
        ("radiomics", "filters", {"log_sigmas_mm": [-1.0]}),
        ("radiomics", "images", {"mri": {"bin_width": 1, "fill": 0, "range": [0, 1]}}),
        ("clinical", "fields", [{"name": "Age", "unit": "years", "range": [1]}]),
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
    with pytest.raises(ValueError, match=r"^\.\./profiles/demo: .*No such file"):
        load_profile("../profiles/demo")


def changed(*changes: str) -> list[str]:
    """What becomes of the demo profile's settings."""
    return differences(load_profile("demo", changes).to_dict(), load_profile("demo").to_dict())


def test_any_setting_can_be_changed_by_name() -> None:
    assert changed("training.segmentation.steps=4", "training.hpv.learning_rate=1e-4") == [
        "training.segmentation.steps is 4, not 900",
        "training.hpv.learning_rate is 0.0001, not 0.001",
    ]
    assert changed("inference.window_xyz=[48, 48, 48]") == ["inference.window_xyz is [48, 48, 48], not [56, 56, 48]"]
    assert changed("preprocess.localize = middle") == ['preprocess.localize is "middle", not "head"']
    assert changed("training.segmentation.steps=4", "training.segmentation.steps=900") == []  # the last one counts
    assert changed("radiomics.filters.wavelet=", "radiomics.images.pet.bin_width=0.5") == [
        "radiomics.images.pet.bin_width is 0.5, not 0.25",
        'radiomics.filters.wavelet is null, not "coif1"',
    ]


def test_a_change_among_clinical_fields_is_told_by_the_fields_name(demo: dict[str, Any]) -> None:
    age, gender, *others = copy.deepcopy(demo["clinical"]["fields"])
    age["range"], gender["also"] = [1, 99], []
    other = Profile.from_dict(demo | {"clinical": demo["clinical"] | {"fields": [age, gender, *others[1:]]}})
    found = differences(other.to_dict(), load_profile("demo").to_dict())
    assert found[:2] == [
        "clinical.fields.Age.range is [1.0, 99.0], not [1.0, 120.0]",
        'clinical.fields.Gender.also is [], not ["Sex"]',
    ]
    assert found[2].startswith(f"clinical.fields.{others[0]['name']} is null, not ")
    assert len(found) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.segmentation.stps=4", r"no setting 'training\.segmentation\.stps'; there are steps, batch, "),
        ("steps=4", r"no setting 'steps'; there are name, preprocess, network"),
        ("preprocess.spacing_mm.x=4", r"no setting 'preprocess\.spacing_mm\.x'"),
        ("training.segmentation.steps", r"'training\.segmentation\.steps' is not SETTING=VALUE"),
        ("training.segmentation.steps=", r"training\.segmentation\.steps is None: "),
        ("training.segmentation.steps=0", r"training\.segmentation\.steps is 0: Input should be greater than 0"),
        ("training.segmentation.steps=yes", r"training\.segmentation\.steps is True: .*valid integer"),
        ("training.hpv.learning_rate=.inf", r"training\.hpv\.learning_rate is inf: .*finite"),
        (
            "training.hpv.crop_xyz=[32, 32, 36]",
            r"training\.hpv\.crop_xyz \(32, 32, 36\): every size must be a multiple",
        ),
        ("network.convolutions=[1, 2]", r"network: .*same number of levels"),
        ("network.norm=[", r"'network\.norm=\[': not a readable value"),
        ("network.fusion_channels=[8, 16, 28, 64]", r"network: 28 channels are no multiple of the norm's 3 groups"),
        ("training.segmentation.steps=010", r"'training\.segmentation\.steps=010': YAML reads 8"),
        ("training.segmentation.steps=1:30", r"'training\.segmentation\.steps=1:30': YAML reads 90"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused_in_one_line(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}") as refused:
        load_profile("demo", [change])
    assert "\n" not in str(refused.value)


def test_a_profile_may_be_a_file_of_ones_own(
    demo: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo["name"], demo["training"]["hpv"]["steps"] = "mine", 5
    (tmp_path / "mine.yml").write_text(yaml.safe_dump(demo))
    (tmp_path / "mine").write_text(yaml.safe_dump(demo))
    monkeypatch.chdir(tmp_path)
    for path in ("mine.yml", "./mine", str(tmp_path / "mine")):
        mine = load_profile(path, ["training.hpv.batch=2"])
        assert (mine.name, mine.training.hpv.steps, mine.training.hpv.batch) == ("mine", 5, 2)
    with pytest.raises(ValueError, match="no profile 'mine'"):  # a name, not a path
        load_profile("mine")


@pytest.mark.parametrize(
    ("own", "change", "other"),
    [("radiomics", {"spacing_mm": 2.0}, "clinical"), ("clinical", {"missing": ["lost"]}, "radiomics")],
)
def test_a_file_of_ones_own_may_hold_radiomics_settings_or_clinical_fields(
    demo: dict[str, Any], tmp_path: Path, own: str, change: dict[str, Any], other: str
) -> None:
    """The files beside the profiles stand in for what it does not hold."""
    del demo[other]
    demo[own] |= change
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(demo))
    mine, beside = load_profile(str(tmp_path / "mine.yaml")).to_dict(), load_profile("demo").to_dict()
    assert mine[other] == beside[other]
    assert mine[own] == beside[own] | change


@pytest.mark.parametrize("name", ["radiomics.yaml", "clinical.yaml", "dose.yaml"])
def test_a_file_beside_the_profiles_that_cannot_be_read_is_named_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = Path(shutil.copytree(datafiles.RESOURCES, tmp_path / "resources"))
    monkeypatch.setattr(datafiles, "RESOURCES", resources)
    for spoil in (lambda path: path.write_text("a: [\n"), Path.unlink):
        spoil(resources / name)
        with pytest.raises(ValueError, match=re.escape(str(resources / name))) as refused:
            load_profile("demo")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: demo\n\tx", "while scanning"),
        ("- 1", "Input should be a valid dictionary"),
        (b"\xff\xfe\xff", "utf-8"),
        ("name: demo", "preprocess: Field required; network: Field required"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_in_one_line(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"^{path}: .*{message}") as refused:
        load_profile(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_survives_json(name: str) -> None:
    profile = load_profile(name)
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


def test_a_profile_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_profile("demo").preprocess.spacing_mm = 1.0
