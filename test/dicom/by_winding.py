"""Structure sets as masks in the plainest way: the angle under which each voxel's center sees a contour.

It shares nothing with the product, and takes each slice's place from the slice's own header.
"""

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset


def turns(points: NDArray, centers: NDArray) -> NDArray[np.int64]:
    """Count how often a polygon (n, 2) turns round each of the centers (..., 2)."""
    seen = points.reshape(-1, *[1] * (centers.ndim - 1), 2) - centers
    ahead = np.roll(seen, -1, axis=0)
    cross = seen[..., 0] * ahead[..., 1] - seen[..., 1] * ahead[..., 0]
    return np.rint(np.arctan2(cross, (seen * ahead).sum(-1)).sum(axis=0) / (2 * np.pi)).astype(int)


def rasterize(content: Dataset, slices: list[Dataset], name: str) -> dict[str, NDArray[np.bool_]]:
    """Fill an ROI's contours, added up: a mask (rows, columns) for each slice that has one, by SOPInstanceUID."""
    (number,) = [each.ROINumber for each in content.StructureSetROISequence if each.ROIName == name]
    (region,) = [each for each in content.ROIContourSequence if each.ReferencedROINumber == number]
    headers = {str(each.SOPInstanceUID): each for each in slices}
    masks: dict[str, NDArray[np.bool_]] = {}
    for contour in region.get("ContourSequence", []):
        uid = str(contour.ContourImageSequence[0].ReferencedSOPInstanceUID)
        slice_ = headers[uid]
        across, down = np.reshape(np.array(slice_.ImageOrientationPatient, float), (2, 3))
        corner = np.array(slice_.ImagePositionPatient, float)
        points = np.reshape(np.array(contour.ContourData, float), (-1, 3)) - corner
        assert np.abs(points @ np.cross(across, down)).max() < 0.001, "the contour leaves its slice"
        rows, columns = np.indices((slice_.Rows, slice_.Columns))
        centers = np.stack([columns * slice_.PixelSpacing[1], rows * slice_.PixelSpacing[0]], -1)
        turned = turns(np.column_stack([points @ across, points @ down]), centers)
        masks[uid] = masks.get(uid, np.zeros((slice_.Rows, slice_.Columns), bool)) | (turned != 0)
    return masks
