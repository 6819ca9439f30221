"""Bytes that are zero outside a box."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mmpl.training.boxed import Boxed

SHAPE = (5, 6, 7)


@st.composite
def patches(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Few voxels that are not zero, or none."""
    patch = np.zeros((2, *SHAPE), np.uint8)
    for place in draw(st.lists(st.integers(0, patch.size - 1), max_size=4)):
        patch.flat[place] = draw(st.integers(1, 255))
    return patch


@st.composite
def boxes(draw: st.DrawFn) -> NDArray[np.int64]:
    """Low and high corner of a box that lies in the patch."""
    sides = [sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in SHAPE]
    return np.array(sides).T


@settings(max_examples=300, deadline=None)
@given(patches(), boxes())
def test_any_crop_is_that_of_the_whole(patch: NDArray[np.uint8], box: NDArray[np.int64]) -> None:
    boxed, (low, high) = Boxed.of(patch), box
    np.testing.assert_array_equal(boxed.whole(), patch)
    crop = boxed.crop(low, high)
    assert crop.dtype == np.uint8
    np.testing.assert_array_equal(crop, patch[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]])


def test_only_the_box_is_kept(tmp_path: Path) -> None:
    patch = np.zeros((2, 90, 80, 70), np.uint8)
    patch[0, 50:60, 5, 7], patch[1, 58, 2:9, 7:11] = 1, 255
    boxed = Boxed.of(patch)
    assert (boxed.inside.shape, boxed.first, boxed.shape) == ((2, 10, 7, 4), (50, 2, 7), (90, 80, 70))
    boxed.save(tmp_path / "A.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["A.npz"]
    assert (tmp_path / "A.npz").stat().st_size < 1500
    back = Boxed.load(tmp_path / "A.npz")
    assert (back.first, back.shape) == (boxed.first, boxed.shape)
    np.testing.assert_array_equal(back.whole(), patch)


def test_killed_while_it_writes_it_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch = np.ones((1, 2, 2, 2), np.uint8)
    Boxed.of(patch).save(tmp_path / "A.npz")

    def save_half(file: object, **arrays: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", save_half)
    for name in ("A.npz", "B.npz"):
        with pytest.raises(KeyboardInterrupt):
            Boxed.of(0 * patch).save(tmp_path / name)
    np.testing.assert_array_equal(Boxed.load(tmp_path / "A.npz").whole(), patch)
    assert not (tmp_path / "B.npz").exists()
