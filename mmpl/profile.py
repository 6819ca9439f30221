"""Settings: one frozen, validated object; the files of `resources/` are the only home of a default.

A profile is read from one of `resources/profiles`, or from a file of the user's own, once, with the radiomics settings
and the clinical schema beside it: a training run and its weights carry every setting with them (`Profile.to_dict`), and
whatever is done with them later reads that.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mmpl.datafiles import RESOURCES, load_yaml, read_data
from mmpl.names import Modality
from mmpl.schema import ClinicalSchema

PROFILES = RESOURCES / "profiles"
YAML_SUFFIXES = (".yaml", ".yml")

Count = Annotated[int, Field(gt=0, strict=True)]


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("Input should be a number")
    return value


Number = Annotated[float, BeforeValidator(_no_truth)]
"""A number; `yes`, which YAML reads as true, is none."""
Positive = Annotated[Number, Field(gt=0)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
Size = tuple[Count, Count, Count]
CHANNELS_A_GROUP = 8
"""Channels that a group norm takes together, or a few more."""
Choices = Annotated[tuple[Count, ...], Field(min_length=1)]
MOST_SEED = 1 << 32
"""Seeds of scikit-learn lie below."""


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise ValueError("the lower bound comes first")
    return bounds


Range = Annotated[tuple[Number, Number], AfterValidator(_rising)]


class Settings(BaseModel):
    """A frozen group of settings that refuses unknown keys, and numbers that are none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PreprocessSettings(Settings):
    """Settings of how a case becomes a patch; see `mmpl.preprocess`.

    Attributes:
        localize: Center of the patch: the head, or the middle of what both images show.
    """

    spacing_mm: Positive
    roi_size_xyz: Size
    localize: Literal["head", "middle"]
    cranial_fraction: Annotated[Number, Field(gt=0, le=1)]
    cranial_limit_mm: Positive
    pet_z_threshold: Number
    ct_range_hu: Range
    pet_floor_suv: Annotated[Number, Field(ge=0)]
    label_interpolation: Literal["nearest", "linear"]


class NetworkSettings(Settings):
    """Widths and depth of the backbone, finest level first; see `mmpl.network`."""

    stream_channels: tuple[Count, ...]
    fusion_channels: tuple[Count, ...]
    convolutions: tuple[Count, ...]
    norm: Literal["instance", "group"]
    head_features: Count
    head_dropout: Fraction

    @property
    def levels(self) -> int:
        """Number of scales."""
        return len(self.fusion_channels)

    @property
    def stride(self) -> int:
        """Voxels at full resolution for one at the coarsest level."""
        return int(2 ** (self.levels - 1))

    @model_validator(mode="after")
    def _same_depth(self) -> Self:
        if not len(self.stream_channels) == len(self.fusion_channels) == len(self.convolutions) > 1:
            raise ValueError(
                "stream_channels, fusion_channels and convolutions need the same number of levels, above 1"
            )
        channels = (*self.stream_channels, *self.fusion_channels)
        odd = [n for n in channels if n > CHANNELS_A_GROUP and n % (n // CHANNELS_A_GROUP)]
        if odd and self.norm == "group":
            raise ValueError(f"{odd[0]} channels are no multiple of the norm's {odd[0] // CHANNELS_A_GROUP} groups")
        return self


class InferenceSettings(Settings):
    """Sliding window and post-processing; see `mmpl.segmentation`."""

    window_xyz: Size
    overlap: Fraction
    window_batch: Count
    lesion_crop_xyz: Size
    minimum_component_voxels: Annotated[int, Field(ge=0)]

    def smallest_lesion_ml(self, voxel_ml: float) -> float:
        """Volume below which a lesion of a mask is a speck, ml."""
        return self.minimum_component_voxels * voxel_ml


class AugmentationSettings(Settings):
    """Bounds of how far a training crop may stray from what was scanned; the change is drawn evenly up to each.

    Attributes:
        flip: Probability of swapping left and right.
        rotation_degrees: Angle about each axis, degrees.
        scale: Change of the size, as a share of it.
        misalignment_mm: Shift of the PET against the CT along each axis, mm.
        gain: Change of an image's contrast, as a share of it.
        offset: Value added to an image, in the networks' units.
        noise: SD of the noise, in the networks' units.
        modality_dropout: Probability that CT or PET is blank.
    """

    flip: Annotated[Number, Field(ge=0, le=1)]
    rotation_degrees: Annotated[Number, Field(ge=0, le=45)]
    scale: Fraction
    misalignment_mm: Annotated[Number, Field(ge=0)]
    gain: Fraction
    offset: Annotated[Number, Field(ge=0)]
    noise: Annotated[Number, Field(ge=0)]
    modality_dropout: Fraction


class SegmentationTraining(Settings):
    """Stage 1's optimization.

    Attributes:
        micro_batch: Number of crops in memory at once; the gradients of a batch's pieces add up to that of the whole,
            so that a run may go on with another number.
    """

    steps: Count
    batch: Count
    micro_batch: Count
    learning_rate: Positive
    crop_xyz: Size
    lesion_fraction: Annotated[Number, Field(ge=0, le=1)]


class OutcomeTraining(Settings):
    """Stage 2's or stage 3's optimization.

    Attributes:
        micro_batch: Number of crops in memory at once, as in stage 1.
    """

    steps: Count
    batch: Count
    micro_batch: Count
    learning_rate: Positive
    crop_xyz: Size
    jitter_mm: Annotated[Number, Field(ge=0)]


class TrainingSettings(Settings):
    """Settings of the training: those that the three stages share, and each stage's own.

    Attributes:
        average_decay: Decay of the exponential moving average of the weights, a step; the average is what is kept.
        validation_fraction: Share of a model's training patients that its networks do not train on but are scored on,
            for whoever reads the log; nothing is chosen by it.
    """

    seed: Annotated[int, Field(ge=0, lt=MOST_SEED, strict=True)]
    weight_decay: Annotated[Number, Field(ge=0)]
    gradient_clip: Positive
    warmup_fraction: Fraction
    average_decay: Fraction
    checkpoint_every: Count
    validation_fraction: Annotated[Number, Field(ge=0, le=0.5)]
    augmentation: AugmentationSettings
    segmentation: SegmentationTraining
    hpv: OutcomeTraining
    survival: OutcomeTraining


class SurvivalSettings(Settings):
    """Discrete time and the Cox model; see `mmpl.survival`."""

    intervals: Count
    screening_p: Annotated[Number, Field(gt=0, lt=1)]


class ForestSettings(Settings):
    """The random forest of stage 2: what its inner cross-validation chooses from; see `mmpl.hpv`.

    Attributes:
        radiomics_images: Images whose radiomics may be kept: the original ones, those a LoG made, those a wavelet made.
        radiomics_kept: Numbers of radiomics features to keep, as the others are candidates.
        inner_folds: Number of folds of the inner cross-validation, which is repeated `inner_repeats` times.
    """

    trees: Choices
    depth: Choices
    minimum_leaf: Choices
    radiomics_images: tuple[Literal["original", "log", "wavelet"], ...]
    radiomics_kept: Choices
    inner_folds: Annotated[int, Field(ge=2)]
    inner_repeats: Count


class GrayLevels(Settings):
    """Settings of how one modality becomes gray levels; all in its unit (HU or SUV).

    Attributes:
        fill: Value outside the scanned field.
        range: Lowest and highest value; all others are clipped to them.
        resegment: Range outside which a lesion's voxels are not measured, but for its shape; None measures all.
    """

    bin_width: Positive
    fill: Number
    range: Range
    resegment: Range | None


class FilterSettings(Settings):
    """The filtered images that are measured beside the original."""

    log_sigmas_mm: tuple[Positive, ...]
    wavelet: str | None

    @model_validator(mode="after")
    def _wavelet_is_known(self) -> Self:
        import pywt

        if self.wavelet is not None and self.wavelet not in pywt.wavelist(kind="discrete"):
            raise ValueError(f"wavelet {self.wavelet!r} is none that PyWavelets knows")
        return self


class RadiomicsSettings(Settings):
    """Settings of how lesions are measured, as in `resources/radiomics.yaml`, where each value has its reason.

    Attributes:
        margin_sigmas: Number of the largest LoG's sigmas that the filters see around a lesion.
    """

    spacing_mm: Positive
    margin_sigmas: Positive
    images: Mapping[Modality, GrayLevels]
    filters: FilterSettings
    feature_classes: tuple[Literal["shape", "firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm"], ...]

    @model_validator(mode="after")
    def _both_images(self) -> Self:
        if missing := [modality for modality in Modality if modality not in self.images]:
            raise ValueError(f"images lacks {', '.join(missing)}")
        return self

    def log_margin(self, sigma_mm: float) -> int:
        """Room that a LoG needs around a lesion, voxels."""
        return math.ceil(self.margin_sigmas * sigma_mm / self.spacing_mm)

    @property
    def wavelet_margin(self) -> int:
        """Room that the wavelet needs around a lesion, voxels."""
        import pywt

        return pywt.Wavelet(self.filters.wavelet).dec_len if self.filters.wavelet else 0

    @property
    def margin(self) -> int:
        """Room that any of the filters needs around a lesion, voxels."""
        return max([self.wavelet_margin, *map(self.log_margin, self.filters.log_sigmas_mm)])


class DoseSettings(Settings):
    """Settings of how the planned dose is measured in a lesion, as in `resources/dose.yaml`; see `mmpl.dose`.

    Attributes:
        levels_gy: Doses of which the share of a lesion that gets them, or more, is measured, whole Gy.
        features: Radiomics of the dose, by pyradiomics' names.
        least_covered: Share of a lesion that the dose must cover; below, the lesion's dose is not known.
    """

    levels_gy: tuple[Count, ...]
    features: tuple[Annotated[str, Field(pattern=r"^original_(firstorder|glcm|glrlm|glszm|gldm|ngtdm)_\w+$")], ...]
    gray_levels: GrayLevels
    least_covered: Annotated[Number, Field(gt=0, le=1)]


class Profile(Settings):
    """Every setting of one edition of the system; a training run and its weights carry theirs whole."""

    name: str
    preprocess: PreprocessSettings
    network: NetworkSettings
    inference: InferenceSettings
    training: TrainingSettings
    survival: SurvivalSettings
    forest: ForestSettings
    radiomics: RadiomicsSettings
    clinical: ClinicalSchema
    dose: DoseSettings

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        stride = self.network.stride
        sizes = {
            "inference.window_xyz": self.inference.window_xyz,
            "inference.lesion_crop_xyz": self.inference.lesion_crop_xyz,
            "training.segmentation.crop_xyz": self.training.segmentation.crop_xyz,
            "training.hpv.crop_xyz": self.training.hpv.crop_xyz,
            "training.survival.crop_xyz": self.training.survival.crop_xyz,
        }
        odd = [f"{name} {size}" for name, size in sizes.items() if any(n % stride for n in size)]
        if odd:
            raise ValueError(
                f"{', '.join(odd)}: every size must be a multiple of {stride}, one voxel at the coarsest level"
            )
        alone = [f"{name} {size}" for name, size in sizes.items() if set(size) == {stride}]
        if alone and self.network.norm == "instance":
            raise ValueError(f"{', '.join(alone)}: instance norm needs more than one voxel at the coarsest level")
        roi = self.preprocess.roi_size_xyz
        large = [f"{name} {size}" for name, size in sizes.items() if any(n > m for n, m in zip(size, roi, strict=True))]
        if large:
            raise ValueError(f"{', '.join(large)}: larger than the region of interest {roi}")
        return self

    @classmethod
    def from_dict(cls, content: object) -> Self:
        """Read what `to_dict` made, or a file held.

        Raises:
            ValueError: A setting is unknown, missing or out of range; one line says which.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ValueError(describe_invalid(error)) from error

    def to_dict(self) -> dict[str, Any]:
        """Make what JSON can hold."""
        return self.model_dump(mode="json")


def load_profile(profile: str, changes: Sequence[str] = ()) -> Profile:
    """Read a profile, and change some of its settings.

    Args:
        profile: A name in `resources/profiles`, or the path of a file of one's own: it ends in `.yaml` or `.yml`, or
            has a folder in it. Its `radiomics`, `clinical` and `dose` are those of `resources/` where it has none.
        changes: Changes such as `training.segmentation.steps=4`: a setting, and its value as YAML.

    Raises:
        ValueError: There is no such profile, or a setting is unknown, missing or out of range; one line says which.
    """
    path = Path(profile)
    if path.suffix not in YAML_SUFFIXES and path.name == profile:
        path = PROFILES / f"{profile}.yaml"
        known = sorted(p.stem for p in PROFILES.glob("*.yaml"))
        if profile not in known:
            raise ValueError(f"no profile {profile!r}; there are {', '.join(known)}")
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            beside = {name: read_data(f"{name}.yaml") for name in ("radiomics", "clinical", "dose")}
            content = beside | content
        read = Profile.from_dict(content)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {_one_line(error)}") from error
    return change_profile(read, changes)


def change_profile(profile: Profile, changes: Sequence[str]) -> Profile:
    """Change settings of a profile, each as `load_profile` takes it; of one that comes twice the last counts.

    Raises:
        ValueError: A setting is unknown or out of range; one line says which.
    """
    content = profile.to_dict()
    for change in changes:
        setting, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"{change!r} is not SETTING=VALUE")
        setting = setting.strip()
        *groups, name = setting.split(".")
        group: Any = content
        for part in groups:
            group = group.get(part) if isinstance(group, dict) else None
        if not isinstance(group, dict) or name not in group:
            there = f"; there are {', '.join(group)}" if isinstance(group, dict) else ""
            raise ValueError(f"no setting {setting!r}{there}")
        try:
            group[name] = load_yaml(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{change!r}: not a readable value ({_one_line(error)})") from error
        if type(group[name]) is int and str(group[name]) != text.strip():
            raise ValueError(f"{change!r}: YAML reads {group[name]}; write it as a plain number")
    return Profile.from_dict(content)


def differences(here: Mapping[str, Any], there: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List in which settings two records differ, as `to_dict` makes them: `training.seed is 7, not 8`."""
    found = []
    for key in [*here, *(key for key in there if key not in here)]:
        one, other = map(_by_key, (here.get(key), there.get(key)))
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append(f"{prefix}{key} is {json.dumps(one)}, not {json.dumps(other)}")
    return found


def _by_key(value: Any) -> Any:
    """Key a list of named groups by their names, so that one that changed is found."""
    named = isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) and "name" in one for one in value)
    return {one["name"]: one for one in value} if named else value


def describe_invalid(error: ValidationError) -> str:
    """Say in one line which settings of a record cannot be used, and why."""
    return "; ".join(map(_describe, error.errors()))


def _describe(error: Mapping[str, Any]) -> str:
    """Say in one line what one error of pydantic's is about."""
    setting, value = ".".join(map(str, error["loc"])), error["input"]
    message = _one_line(error["msg"]).removeprefix("Value error, ")
    if not setting:
        return message
    return f"{setting}: {message}" if isinstance(value, dict) else f"{setting} is {value!r}: {message}"


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
