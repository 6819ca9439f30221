"""A small cohort folder that tests write: tables, images, masks."""

import csv
from pathlib import Path

import numpy as np

from mmpl.case import Grid, Image
from mmpl.io.images import write_image
from mmpl.names import Label

CT_GRID = Grid((6, 5, 4), (2.9765625, 2.9765625, 3.27), (-249.51, -100.3, 12.7))
PET_GRID = Grid((3, 3, 3), (4.0, 4.0, 5.0), (-250.0, -101.0, 10.0))
ROW = {
    "PatientID": "CHUM-001",
    "CenterID": "2",
    "Age": "61",
    "Gender": "1",
    "Tobacco Consumption": "0",
    "Alcohol Consumption": "",
    "Performance Status": "1",
    "Treatment": "1",
    "M-stage": "M0",
    "Relapse": "1",
    "RFS": "412",
    "HPV Status": "0",
}
Row = dict[str, str]


def write_table(folder: Path, *rows: Row, name: str = "EHR.csv") -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def write_images(folder: Path, patient_id: str, flat: bool = False, mask: Image | None = None) -> None:
    images = folder if flat else folder / patient_id
    images.mkdir(exist_ok=True)
    rng = np.random.default_rng(3)
    ct = rng.integers(-1000, 1000, CT_GRID.shape_zyx).astype(np.int16)
    write_image(images / f"{patient_id}__CT.nii.gz", Image(ct, CT_GRID))
    write_image(images / f"{patient_id}__PT.nii.gz", Image(10 * rng.random(PET_GRID.shape_zyx, np.float32), PET_GRID))
    if mask is not None:
        write_image(images / f"{patient_id}.nii.gz", mask)


def mask_on(grid: Grid, dtype: type = np.uint8) -> Image:
    voxels = np.zeros(grid.shape_zyx, dtype)
    voxels[1, 2, 3], voxels[2, 2, 3] = Label.GTVP, Label.GTVN
    return Image(voxels, grid)
