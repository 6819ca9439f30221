"""Settings: one frozen, validated object read from `resources/profiles/*.yaml`; the only home of a default."""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

RESOURCES = Path(__file__).resolve().parent.parent / "resources"
PROFILES = RESOURCES / "profiles"

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Size = tuple[Count, Count, Count]


class Settings(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PreprocessSettings(Settings):
    """How a case becomes a patch; see `mmpl.preprocess`.

    Attributes:
        localize: Center the patch on the head, or on the middle of what both images show.
    """

    spacing_mm: Positive
    roi_size_xyz: Size
    localize: Literal["head", "middle"]
    cranial_fraction: Annotated[float, Field(gt=0, le=1)]
    cranial_limit_mm: Positive
    pet_z_threshold: float
    ct_range_hu: tuple[float, float]
    pet_floor_suv: float
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
        return self


class InferenceSettings(Settings):
    """Sliding window and post-processing; see `mmpl.segmentation`."""

    window_xyz: Size
    overlap: Fraction
    window_batch: Count
    lesion_crop_xyz: Size
    minimum_component_voxels: Annotated[int, Field(ge=0)]


class AugmentationSettings(Settings):
    """How far a training crop may stray from what was scanned; each value is a bound, drawn evenly up to it.

    Attributes:
        flip: Probability of swapping left and right.
        rotation_degrees: About each axis.
        scale: Share of the size.
        misalignment_mm: Of the PET against the CT, along each axis.
        gain: Share of an image's contrast.
        offset: Added to an image, in the networks' units.
        noise: SD of the noise, in the networks' units.
        modality_dropout: Probability that CT or PET is blank.
    """

    flip: Annotated[float, Field(ge=0, le=1)]
    rotation_degrees: Annotated[float, Field(ge=0, le=45)]
    scale: Fraction
    misalignment_mm: Annotated[float, Field(ge=0)]
    gain: Fraction
    offset: Annotated[float, Field(ge=0)]
    noise: Annotated[float, Field(ge=0)]
    modality_dropout: Fraction


class SegmentationTraining(Settings):
    """Stage 1's optimization.

    Attributes:
        micro_batch: How many crops are in memory at once; the gradients of a batch's pieces add up to that of the
            whole. By default the whole batch.
    """

    steps: Count
    batch: Count
    micro_batch: Count | None = None
    learning_rate: Positive
    crop_xyz: Size
    lesion_fraction: Annotated[float, Field(ge=0, le=1)]


class OutcomeTraining(Settings):
    """Stage 2's or stage 3's optimization.

    Attributes:
        micro_batch: As of stage 1.
    """

    steps: Count
    batch: Count
    micro_batch: Count | None = None
    learning_rate: Positive
    crop_xyz: Size
    jitter_mm: Annotated[float, Field(ge=0)]


class TrainingSettings(Settings):
    """What the three stages share, and each stage's own.

    Attributes:
        average_decay: Of the exponential moving average of the weights, a step; the average is what is kept.
        validation_fraction: Share of a model's training patients that its networks do not train on but are scored on,
            for whoever reads the log; nothing is chosen by it.
    """

    seed: int
    weight_decay: Annotated[float, Field(ge=0)]
    gradient_clip: Positive
    warmup_fraction: Fraction
    average_decay: Fraction
    checkpoint_every: Count
    validation_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    augmentation: AugmentationSettings
    segmentation: SegmentationTraining
    hpv: OutcomeTraining
    survival: OutcomeTraining


class SurvivalSettings(Settings):
    """Discrete time and the Cox model; see `mmpl.survival`."""

    intervals: Count
    screening_p: Annotated[float, Field(gt=0, lt=1)]


class ForestSettings(Settings):
    """The random forest of stage 2: what its inner cross-validation chooses from; see `mmpl.hpv`.

    Attributes:
        radiomics_images: Whose radiomics may be kept: of the original images, of those a LoG or a wavelet made.
        radiomics_kept: Numbers of radiomics features to keep, as the others are candidates.
        inner_folds: Of the inner cross-validation, which is repeated `inner_repeats` times.
    """

    trees: tuple[Count, ...]
    depth: tuple[Count, ...]
    minimum_leaf: tuple[Count, ...]
    radiomics_images: tuple[Literal["original", "log", "wavelet"], ...]
    radiomics_kept: tuple[Count, ...]
    inner_folds: Annotated[int, Field(ge=2)]
    inner_repeats: Count


class Profile(Settings):
    """Every setting of one edition of the system; the shipped weights name theirs."""

    name: str
    preprocess: PreprocessSettings
    network: NetworkSettings
    inference: InferenceSettings
    training: TrainingSettings
    survival: SurvivalSettings
    forest: ForestSettings

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
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
        roi = self.preprocess.roi_size_xyz
        large = [f"{name} {size}" for name, size in sizes.items() if any(n > m for n, m in zip(size, roi, strict=True))]
        if large:
            raise ValueError(f"{', '.join(large)}: larger than the region of interest {roi}")
        return self


def load_profile(name: str) -> Profile:
    """Read a profile by its name.

    Raises:
        ValueError: There is no such profile, or a key is unknown, missing or out of range.
    """
    path = PROFILES / f"{name}.yaml"
    known = sorted(p.stem for p in PROFILES.glob("*.yaml"))
    if name not in known:
        raise ValueError(f"no profile {name!r}; there are {', '.join(known)}")
    profile = Profile.model_validate(yaml.safe_load(path.read_text()))
    if profile.name != name:
        raise ValueError(f"{path.name} calls itself {profile.name!r}")
    return profile
