"""A small CT series in any orientation, and lesions that no mirror leaves as they are."""

from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from mmpl.case import Grid, Image
from mmpl.dicom.ct_series import CtSeries
from mmpl.dicom.headers import Header
from mmpl.dicom.series import find_series
from mmpl.geometry import index_to_mm
from mmpl.names import Label

Rows = tuple[float, ...]


def _turned(degrees: float) -> Rows:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (c, s, 0.0, -s * c, c * c, s)


ORIENTATIONS: dict[str, Rows] = {
    "axial": (1, 0, 0, 0, 1, 0),
    "axial, feet first": (-1, 0, 0, 0, 1, 0),
    "axial, prone": (-1, 0, 0, 0, -1, 0),
    "axial, feet first, prone": (1, 0, 0, 0, -1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "coronal, feet first": (-1, 0, 0, 0, 0, 1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "sagittal, feet first": (0, -1, 0, 0, 0, 1),
    "oblique": _turned(20.0),
    "oblique, feet first": tuple(-value for value in _turned(-35.0)),
}
"""ImageOrientationPatient: directions of a row and of a column, LPS."""
CENTER_MM = (12.25, -31.5, 107.75)
SIDE_MM = 60.0
SPACING_MM = (1.0, 1.0, 3.0)
"""Between columns, between rows, between slices."""
NAME, PATIENT_ID, BIRTH_DATE = "Döe^Jane", "ID-4711", "19510203"


def make_series(orientation: str = "axial", spacing: tuple[float, float, float] = SPACING_MM) -> list[Dataset]:
    """Make a series of a cube around CENTER_MM, its slices in no order."""
    cosines = np.reshape(ORIENTATIONS[orientation], (2, 3)).astype(float)
    axes = np.vstack([cosines, np.cross(*cosines)])
    counts = [round(SIDE_MM / step) for step in spacing]
    counts[0] += 6  # rows and columns are not as many
    first = np.array(CENTER_MM) - (np.array(counts) - 1) / 2 * spacing @ axes
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    places = [first + index * spacing[2] * axes[2] for index in range(counts[2])]
    slices = [
        _slice(place, index + 1, cosines, spacing, counts, (study, series, frame)) for index, place in enumerate(places)
    ]
    return [slices[index] for index in np.random.default_rng(1).permutation(len(slices))]


def order_slices(slices: list[Dataset]) -> CtSeries:
    """Take the headers of a series' slices, in any order, as what is written refers to."""
    (series,), _ = find_series([Header(Path(f"{number}.dcm"), each) for number, each in enumerate(slices)])
    return CtSeries.of(series)


def _slice(place: np.ndarray, number: int, cosines: np.ndarray, spacing: tuple, counts: list, uids: tuple) -> Dataset:
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = uids
    made.PatientName, made.PatientID, made.PatientBirthDate, made.PatientSex = NAME, PATIENT_ID, BIRTH_DATE, "F"
    made.StudyDate, made.StudyTime, made.StudyID, made.AccessionNumber = "20260102", "101112", "1", "A1"
    made.ReferringPhysicianName, made.Manufacturer, made.PatientPosition = "Who^Doctor", "scanner", "HFS"
    made.PositionReferenceIndicator, made.Modality, made.ImageType = "", "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.SeriesNumber, made.InstanceNumber, made.AcquisitionNumber, made.KVP = 2, number, 1, 120
    made.ImagePositionPatient = [f"{value:.6f}" for value in place]
    made.ImageOrientationPatient = [f"{value:.10f}" for value in cosines.ravel()]
    made.PixelSpacing, made.SliceThickness = [spacing[1], spacing[0]], spacing[2]
    made.Columns, made.Rows = counts[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.RescaleIntercept, made.RescaleSlope = -1024, 1
    made.PixelData = np.full((made.Rows, made.Columns), 1064, np.uint16).tobytes()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


def write_series(folder: Path, slices: list[Dataset]) -> Path:
    """Write a series, a file a slice."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in slices:
        each.save_as(folder / f"{each.SOPInstanceUID}.dcm", enforce_file_format=True)
    return folder


def lesions_on(grid: Grid) -> Image:
    """Draw lesions in the patient's space, wherever the grid's axes run.

    GTVp is a shell with a hollow and an island in it, and a foot to one side; GTVn is two nodes.
    """
    z, y, x = np.indices(grid.shape_zyx)
    at = index_to_mm(grid, np.stack([x, y, z], -1)) - CENTER_MM
    away = np.linalg.norm(at - (6, 4, -5), axis=-1)
    foot = (np.abs(at - (12, -9, -12)) < (9, 3.2, 4)).all(axis=-1)
    primary = ((away < 14) & (away > 8)) | (away < 4) | foot
    node = np.linalg.norm((at - (-16, -12, 10)) / (9, 6, 11), axis=-1) < 1
    other = np.linalg.norm(at - (17, 14, 18), axis=-1) < 7
    labels = np.zeros(grid.shape_zyx, np.uint8)
    labels[node | other] = Label.GTVN
    labels[primary] = Label.GTVP
    return Image(labels, grid)
