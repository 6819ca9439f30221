import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cohorts import CT_GRID, PET_GRID, ROW, mask_on, write_images, write_table
from openpyxl import Workbook

from mmpl.case import Image, InvalidInputError, Outcome
from mmpl.io.cohort import Cohort, read_cohort
from mmpl.io.images import write_image
from mmpl.io.patients import read_patients
from mmpl.schema import ClinicalSchema, default_schema
from mmpl.training import prepare


@pytest.mark.parametrize("flat", [False, True])
def test_reads_both_layouts(tmp_path: Path, flat: bool) -> None:
    second = ROW | {"PatientID": "MDA-007", "CenterID": "MDA", "Relapse": "", "RFS": "", "HPV Status": ""}
    folder = write_table(tmp_path / "cohort", ROW, second)
    write_images(folder, "CHUM-001", flat, mask_on(CT_GRID))
    write_images(folder, "MDA-007", flat)
    for other in ("truth.csv", "predictions.csv", "notes.txt"):
        (folder / other).write_text("PatientID\n")

    cohort = read_cohort(folder)
    first, last = cohort.patients
    assert (first.patient_id, first.center_id) == ("CHUM-001", "2")
    assert first.outcome == Outcome(hpv_positive=False, relapse=True, rfs_days=412.0)
    assert tuple(first.clinical.values) == default_schema().names
    assert (first.clinical.values["Age"], first.clinical.values["M-stage"]) == (61.0, "M0")
    assert first.clinical.assumed == ("Alcohol Consumption is '': taken as missing",)
    assert (last.patient_id, last.center_id, last.outcome) == ("MDA-007", "MDA", Outcome())
    assert cohort.patient("MDA-007") is last

    case = cohort.read_case("CHUM-001")
    assert case.clinical == first.clinical
    assert case.ct.voxels.shape == CT_GRID.shape_zyx
    assert case.pet.voxels.shape == PET_GRID.shape_zyx
    assert case.reference is not None
    np.testing.assert_array_equal(case.reference.voxels, mask_on(CT_GRID).voxels)
    assert cohort.read_case("MDA-007").reference is None
    assert cohort.mask_path("CHUM-001") is not None
    assert cohort.mask_path("MDA-007") is None
    with pytest.raises(InvalidInputError, match="the table has no patient CHUM-002"):
        cohort.read_case("CHUM-002")


def test_reads_other_spellings_of_a_table(tmp_path: Path) -> None:
    """A byte-order mark, other case, another order, spaces, numbers as a spreadsheet writes them, extra columns."""
    folder = tmp_path / "cohort"
    folder.mkdir()
    (folder / "EHR.csv").write_bytes(
        b"\xef\xbb\xbfpatientid,T-stage,hpv status,RFS,relapse,centerid,Sex,age,Tobacco,Alcohol,ECOG,Treatment,"
        b"M-stage\r\n"
        b" CHUP-002 ,T2,1.0, 12.5,0.0,1,Male,70.0,1.0,NaN,0,1,Mx\r\n"
        b",,,,,,,,,,,,\r\n"
    )
    write_images(folder, "CHUP-002")
    (patient,) = read_cohort(folder).patients
    assert patient.patient_id == "CHUP-002"
    assert patient.outcome == Outcome(hpv_positive=True, relapse=False, rfs_days=12.5, t_stage=2)
    assert list(patient.clinical.values.values()) == [70.0, "1", "1", None, "0", "1", "Mx"]
    assert patient.clinical.assumed == ("Alcohol Consumption is 'NaN': taken as missing",)


def test_the_clinical_columns_are_those_of_the_schema_that_is_given(tmp_path: Path) -> None:
    """As weights and training runs carry theirs: what another schema has besides need not be there."""
    age = default_schema().fields[0]
    schema = ClinicalSchema(missing=("",), ignored=(), fields=(age.model_copy(update={"also": ("Years",)}),))
    row = {"Years": "61"} | {name: value for name, value in ROW.items() if name not in default_schema().names}
    folder = write_table(tmp_path / "cohort", row)
    write_images(folder, "CHUM-001")
    (patient,) = read_cohort(folder, schema).patients
    assert dict(patient.clinical.values) == {"Age": 61.0}
    assert patient.clinical.assumed == ()
    with pytest.raises(InvalidInputError, match="column 'Gender' is missing"):
        read_cohort(folder, training=True)


def write_workbook(folder: Path, *rows: dict[str, object], name: str = "EHR_with_Data_Dictionary.xlsx") -> Path:
    """The released workbook's way: the data on one sheet, the dictionary, which names the columns too, on another."""
    folder.mkdir(exist_ok=True)
    book = Workbook()
    dictionary = book.active
    dictionary.title = "Data Dictionary"
    dictionary.append(["Variable", "Meaning"])
    for column in rows[0]:
        dictionary.append([column, f"what {column} means"])
    sheet = book.create_sheet("Data")
    sheet.append([*rows[0], None])
    for row in rows:
        sheet.append(list(row.values()))
    book.save(folder / name)
    return folder


def test_a_workbook_and_a_csv_give_the_same_table(tmp_path: Path) -> None:
    numbers: dict[str, object] = ROW | {
        "CenterID": 2, "Age": 61.0, "Gender": 1, "Tobacco Consumption": False, "Alcohol Consumption": None,
        "Performance Status": 1, "Treatment": 1.0, "Relapse": True, "RFS": 412, "HPV Status": 0,
    }  # fmt: skip
    extra = {"T-stage": "T2", "Task 1": 1}
    book = write_workbook(tmp_path / "book", numbers | extra, dict.fromkeys(numbers | extra))
    table = write_table(tmp_path / "table", ROW | {"T-stage": "T2", "Task 1": "1"})
    for folder in (book, table):
        write_images(folder, "CHUM-001")
    (book / "~$EHR_with_Data_Dictionary.xlsx").write_bytes(b"a lock that Excel leaves")
    assert read_cohort(book).patients == read_cohort(table).patients


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no workbook", b"a,b\n1,2\n"])
def test_refuses_what_is_no_workbook(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "EHR.xlsx").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"EHR.xlsx: not a readable workbook"):
        read_cohort(tmp_path)


def test_refuses_a_workbook_without_patients(tmp_path: Path) -> None:
    write_workbook(tmp_path, {"Age": 3})
    with pytest.raises(InvalidInputError, match="0 sheets have a column PatientID"):
        read_cohort(tmp_path)


def test_lists_every_problem_at_once(tmp_path: Path) -> None:
    rows = [
        ROW | {"PatientID": "A", "HPV Status": "2", "Relapse": "maybe"},
        ROW | {"PatientID": "B", "RFS": "-3"},
        ROW | {"PatientID": "C", "RFS": "soon"},
        ROW | {"PatientID": "D"},
        ROW | {"PatientID": "E"},
        ROW | {"PatientID": "E"},
        ROW | {"PatientID": "../F"},
        ROW | {"PatientID": ""},
    ]
    folder = write_table(tmp_path / "cohort", *rows)
    for patient_id in "ABCDE":
        write_images(folder, patient_id)
    (folder / "D" / "D__PT.nii.gz").unlink()
    (folder / "B" / "B__CT.nii.gz").unlink()
    with pytest.raises(InvalidInputError) as raised:
        read_cohort(folder)
    title, *problems = str(raised.value).splitlines()
    assert title == f"{folder / 'EHR.csv'}: 9 problems"
    assert [problem.strip() for problem in problems] == [
        "line 2, patient A: HPV Status is '2', not 0, 1, negative, positive, - or +",
        "line 2, patient A: Relapse is 'maybe', not 0 or 1",
        "line 3, patient B: RFS is '-3', not a number of days, 0 or more",
        "line 4, patient C: RFS is 'soon', not a number of days, 0 or more",
        "line 8, patient ../F: PatientID cannot be a file's name",
        "line 9, patient (none): PatientID is blank",
        "patient E: 2 rows",
        f"patient B: no CT image, neither {folder / 'B' / 'B__CT.nii.gz'} nor {folder / 'B__CT.nii.gz'}",
        f"patient D: no PT image, neither {folder / 'D' / 'D__PT.nii.gz'} nor {folder / 'D__PT.nii.gz'}",
    ]


def test_names_missing_and_repeated_columns(tmp_path: Path) -> None:
    row = {name: value for name, value in ROW.items() if name not in ("Age", "HPV Status")}
    folder = write_table(tmp_path / "cohort", row | {"Sex": "1"})
    write_images(folder, "CHUM-001")
    with pytest.raises(InvalidInputError) as raised:
        read_cohort(folder, training=True)
    assert [line.strip() for line in str(raised.value).splitlines()] == [
        f"{folder / 'EHR.csv'}: 3 problems",
        "column 'Gender' is there twice",
        "column 'HPV Status' is missing (its cells may be blank)",
        "column 'Age' is missing (its cells may be blank)",
    ]


@pytest.mark.parametrize(
    ("name", "column", "outcomes"),
    [
        ("Known_HPV_Status", "Known HPV Status", False),
        ("KnownHPVStatus", "Known HPV Status", False),
        ("Known HPV\nStatus", "Known HPV Status", False),
        ("WEIGHT ", "Weight", False),
        ("T_stage", "T-stage", True),
        ("N stage", "N-stage", True),
        ("hpv\u00a0status", "HPV Status", True),
        ("Patient ID", "PatientID", True),
        ("center_id", "CenterID", True),
    ],
)
def test_a_columns_name_may_be_spelled_otherwise(tmp_path: Path, name: str, column: str, outcomes: bool) -> None:
    more = {"Known HPV Status": "positive", "Weight": "80", "T-stage": "T2", "N-stage": "N1"}
    row = ROW | {column: more[column]} if column in more else ROW
    cohorts = list[Cohort]()
    for folder, renamed in ((tmp_path / "a", column), (tmp_path / "b", name)):
        folder.mkdir()
        write_workbook(folder, {renamed if key == column else key: value for key, value in row.items()})
        cohorts.append(read_cohort(folder, outcomes=outcomes, images=False))
    assert cohorts[0].patients == cohorts[1].patients
    assert not cohorts[1].remarks


@pytest.mark.parametrize("name", ["HPV (p16)", "cT stage", "Weight (kg)", "Known HPV"])
@pytest.mark.parametrize("outcomes", [False, True])
def test_an_unread_column_that_may_be_meant_is_remarked(tmp_path: Path, name: str, outcomes: bool) -> None:
    """Nobody misses its column, unlike those of the clinical record."""
    folder = write_table(tmp_path, ROW | {name: "1", "Pack years": "3"})
    cohort = read_cohort(folder, outcomes=outcomes, images=False)
    assert cohort.remarks == (f"columns that are not read: {name!r}",)


def test_a_known_columns_outcome_is_no_unread_column(tmp_path: Path) -> None:
    folder = write_table(tmp_path, ROW | {"T-stage": "T2", "N-stage": "N1", "Weight": "80"})
    assert not read_cohort(folder, outcomes=False, images=False).remarks


def test_to_be_answered_a_patient_needs_no_more_than_a_name(tmp_path: Path) -> None:
    """What the table lacks is not known, and its remarks say so."""
    folder = write_table(tmp_path / "cohort", {"PatientID": "CHUM-001", "Age": "61", "Pack years": "1"})
    write_images(folder, "CHUM-001")
    cohort = read_cohort(folder)
    (patient,) = cohort.patients
    assert patient.outcome == Outcome()
    assert patient.clinical.values["Age"] == 61
    assert patient.clinical.values["Gender"] is None
    assert "no column 'Gender': not known of any patient" in cohort.remarks
    assert "columns that are not read: 'Pack years'" in cohort.remarks
    assert len(cohort.remarks) == len(ROW) - 1


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "no table"),
        (lambda folder: write_table(write_table(folder, ROW), ROW, name="b.csv"), r"2 tables \(EHR.csv, b.csv\)"),
        (lambda folder: write_table(folder, dict.fromkeys(ROW, "")), "EHR.csv: no patient"),
        (lambda folder: (write_table(folder, ROW) / "EHR.csv").write_text(""), "(?m)column 'PatientID' is missing$"),
        (lambda folder: (write_table(folder, ROW) / "EHR.csv").write_text("a,b\n1\n"), "line 2: 1 cells, not 2"),
        (lambda folder: (write_table(folder, ROW) / "EHR.csv").write_bytes(b"\xff\xfe\x00"), "not a readable table"),
    ],
)
def test_refuses_folders_without_one_good_table(
    tmp_path: Path, prepare: Callable[[Path], object], message: str
) -> None:
    folder = tmp_path / "cohort"
    prepare(folder)
    with pytest.raises(InvalidInputError, match=message) as raised:
        read_cohort(folder)
    assert str(raised.value).startswith(str(folder))


def read_with_mask(folder: Path, mask: Image) -> Image | None:
    write_images(write_table(folder, ROW), "CHUM-001", mask=mask)
    return read_cohort(folder).read_case("CHUM-001").reference


def test_mask_takes_the_ct_grid_where_headers_differ_by_rounding(tmp_path: Path) -> None:
    x, y, z = CT_GRID.origin_xyz
    near = replace(CT_GRID, origin_xyz=(x + 5e-4, y - 5e-4, z), spacing_xyz=(2.97656, 2.97656, 3.27001))
    reference = read_with_mask(tmp_path / "cohort", mask_on(near, np.float64))
    assert reference is not None
    assert reference.voxels.dtype == np.uint8
    np.testing.assert_array_equal(reference.voxels, mask_on(near).voxels)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            mask_on(replace(CT_GRID, size_xyz=(6, 5, 5))),
            r"the mask has \(6, 5, 5\) voxels",
        ),
        (mask_on(replace(CT_GRID, origin_xyz=(-249.41, -100.3, 12.7))), r"does not lie where the image lies \(0.1 mm"),
        (mask_on(replace(CT_GRID, spacing_xyz=(1.0, 1.0, 3.27))), "does not lie where the image lies"),
        (mask_on(replace(CT_GRID, direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))), "does not lie where the image lies"),
        (Image(mask_on(CT_GRID).voxels * 3, CT_GRID), r"labels \[3, 6\]"),
        (Image(mask_on(CT_GRID).voxels * np.float32(0.5), CT_GRID), r"labels \[0.5\]"),
    ],
)
def test_refuses_masks_that_do_not_fit(tmp_path: Path, mask: Image, message: str) -> None:
    folder = tmp_path / "cohort"
    with pytest.raises(InvalidInputError, match=message) as raised:
        read_with_mask(folder, mask)
    assert re.match(re.escape(str(folder / "CHUM-001" / "CHUM-001.nii.gz")), str(raised.value))


def test_names_the_patient_whose_image_cannot_be_used(tmp_path: Path) -> None:
    folder = write_table(tmp_path / "cohort", ROW)
    write_images(folder, "CHUM-001")
    slice_ = Image(np.ones((3, 3, 1), np.float32), replace(PET_GRID, size_xyz=(1, 3, 3)))
    write_image(folder / "CHUM-001" / "CHUM-001__PT.nii.gz", slice_)
    with pytest.raises(InvalidInputError, match=r"cohort, patient CHUM-001: the PET is \(1, 3, 3\) voxels"):
        read_cohort(folder).read_case("CHUM-001")
    (folder / "CHUM-001" / "CHUM-001__CT.nii.gz").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"CHUM-001__CT.nii.gz: the file is empty"):
        read_cohort(folder).read_case("CHUM-001")


def test_training_is_refused_with_every_problem_in_one_go(tmp_path: Path) -> None:
    """Table, images and masks, each with patient and file, before anything is prepared."""
    without_age = {name: value for name, value in ROW.items() if name != "Age"}
    rows = [without_age | {"PatientID": name} for name in ("A", "A", "B", "C", "D", "E", "F")]
    rows[2]["RFS"] = "-1"
    rows[3]["CenterID"] = "unknown"
    folder, run = write_table(tmp_path / "cohort", *rows), tmp_path / "run"
    for name in "ABCF":
        write_images(folder, name)
    write_images(folder, "D", mask=mask_on(replace(CT_GRID, origin_xyz=(0.0, 0.0, 0.0))))
    write_images(folder, "E", mask=Image(mask_on(CT_GRID).voxels * 3, CT_GRID))
    (folder / "F" / "F__PT.nii.gz").unlink()
    with pytest.raises(InvalidInputError) as raised:
        prepare.main(str(folder), run, "micro", workers=1)
    title, *problems = [line.strip() for line in str(raised.value).splitlines()]
    assert title == f"{folder / 'EHR.csv'}: 7 problems"
    assert problems == [
        "column 'Age' is missing (its cells may be blank)",
        "line 4, patient B: RFS is '-1', not a number of days, 0 or more",
        "patient A: 2 rows",
        f"patient F: no PT image, neither {folder / 'F' / 'F__PT.nii.gz'} nor {folder / 'F__PT.nii.gz'}",
        "patient C: the center is not known (CenterID is 'unknown')",
        f"patient D: {folder / 'D' / 'D.nii.gz'}: the mask does not lie where the image lies (269 mm apart)",
        f"patient E: {folder / 'E' / 'E.nii.gz'}: the mask has labels [3, 6]; only 0, 1 and 2 are known",
    ]
    assert not run.exists()


def test_images_that_hardly_meet_are_refused(tmp_path: Path) -> None:
    folder = write_table(tmp_path / "cohort", ROW)
    write_images(folder, "CHUM-001")
    x, y, z = PET_GRID.origin_xyz
    beside = Image(np.ones(PET_GRID.shape_zyx, np.float32), replace(PET_GRID, origin_xyz=(x, y, z + 8)))
    write_image(folder / "CHUM-001" / "CHUM-001__PT.nii.gz", beside)
    with pytest.raises(InvalidInputError, match="cohort, patient CHUM-001: CT and PET do not overlap"):
        read_cohort(folder).read_case("CHUM-001")


def test_an_id_that_begins_with_a_dot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="PatientID cannot be a file's name"):
        read_cohort(write_table(tmp_path / "cohort", ROW | {"PatientID": ".P1"}))


RELEASE_2026 = (
    "PatientID,CenterID,Age,Gender,Tobacco Consumption,Alcohol Consumption,Performance Status,Treatment,HPV Status,"
    "Relapse,RFS,T-stage,N-stage\n"
    "CHUP-001,2,61,1,0,,1,1,1,1,412,T4a,N2c\n"
    "MDA-007,5,55.0,0,,,,2,,,,T0,N1\n"
    "USZ-001,8,70,1,1,1,0,0,0,0,900,T3,N0\n"
)
TAGS_2026 = (
    "pid,units,patient_weight_kg,radiopharmaceutical,radionuclide_total_dose_bq,radionuclide_half_life_sec,"
    "elapsed_seconds_injection_to_scan,decay_corrected_dose_at_scan_bq,dose_for_suv_bq,bqml_to_suvbw_factor\n"
    "USZ-001,BQML,80,FDG,4e8,6586.2,3600,2.74e8,2.74e8,2.92e-4\n"
    "CHUP-001,GML,75,FDG,3e8,6586.2,3600,2.05e8,2.05e8,\n"
)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A folder as HECKTOR 2026 is released: stages, but no M-stage; the table's name differs by source."""
    (tmp_path / "HECKTOR_2026_Training_Task.csv").write_text(RELEASE_2026)
    (tmp_path / "suv_conversion_tags.csv").write_text(TAGS_2026)
    for name in ("CHUP-001", "MDA-007", "USZ-001"):
        write_images(tmp_path, name, mask=mask_on(CT_GRID))
    return tmp_path


def test_the_release_of_2026_is_read_to_be_trained_on(release: Path) -> None:
    cohort = read_cohort(release, training=True)
    first, second, third = cohort.patients
    assert first.outcome == Outcome(True, True, 412.0, 4, 2)
    assert second.outcome == Outcome(None, None, None, 0, 1)
    assert third.outcome == Outcome(False, False, 900.0, 3, 0)
    assert {patient.clinical.values["M-stage"] for patient in cohort.patients} == {None}
    assert [patient.clinical.values["Treatment"] for patient in cohort.patients] == ["1", "2", "0"]
    assert cohort.remarks == ("no column 'M-stage': not known of any patient",)
    assert dict(cohort.suv_factors) == {"USZ-001": 2.92e-4}
    assert cohort.read_case("CHUP-001").reference is not None


def test_a_cohort_whose_women_are_2_says_so(release: Path) -> None:
    table = release / "HECKTOR_2026_Training_Task.csv"
    table.write_text(RELEASE_2026.replace("55.0,0,", "55.0,2,").replace("70,1,", "70,2.0,"))
    cohort = read_cohort(release, training=True)
    assert [patient.clinical.values["Gender"] for patient in cohort.patients] == ["1", "0", "0"]
    assert "Gender: 2 values are not sure ('2' is assumed to be 0)" in cohort.remarks


def test_only_what_the_schema_calls_optional_may_lack_in_training(release: Path) -> None:
    """A name that is mistyped must not cost a field in silence."""
    table = release / "HECKTOR_2026_Training_Task.csv"
    table.write_text(RELEASE_2026.replace("Alcohol Consumption", "Alcohol Consum"))
    with pytest.raises(InvalidInputError, match="column 'Alcohol Consumption' is missing"):
        read_cohort(release, training=True)


def test_a_released_status_is_known_where_the_edition_has_it_as_an_input(release: Path) -> None:
    """No outcome is looked at for it, not even one that could not be read."""
    table = release / "HECKTOR_2026_Training_Task.csv"
    table.write_text(RELEASE_2026.replace(",412,T4a,N2c", ",soon,worse,worst"))
    plain, known = read_cohort(release, outcomes=False), read_cohort(release, outcomes=False, known_hpv="HPV Status")
    assert [patient.known_hpv for patient in plain.patients] == [None, None, None]
    assert [patient.known_hpv for patient in known.patients] == [True, None, False]
    assert {patient.outcome for patient in known.patients} == {Outcome()}
    assert known.fingerprint("USZ-001") != plain.fingerprint("USZ-001")
    table.write_text(RELEASE_2026)
    trained = read_cohort(release, known_hpv="HPV Status")
    assert (trained.patients[0].known_hpv, trained.patients[0].outcome.hpv_positive) == (None, True)
    both = RELEASE_2026.replace("N-stage\n", "N-stage,Known HPV Status\n").replace("N2c\n", "N2c,1\n")
    table.write_text(both.replace("N1\n", "N1,\n").replace("N0\n", "N0,\n"))
    assert read_cohort(release, outcomes=False).patients[0].known_hpv is True
    with pytest.raises(InvalidInputError, match="column 'Known HPV Status' is there twice"):
        read_cohort(release, outcomes=False, known_hpv="HPV Status")


def test_a_corrected_factor_is_another_patient(tmp_path: Path) -> None:
    folder, found = write_table(tmp_path / "cohort", ROW), set()
    write_images(folder, ROW["PatientID"])
    for factor in ("0.0004", "0.0005"):
        (folder / "suv_factors.csv").write_text(f"PatientID,Factor\n{ROW['PatientID']},{factor}\n")
        found.add(read_cohort(folder).fingerprint(ROW["PatientID"]))
    assert len(found) == 2


def test_how_others_spell_a_center_changes_no_patient(tmp_path: Path) -> None:
    rows = [ROW | {"PatientID": name, "CenterID": center} for name, center in (("A-1", "1.0"), ("A-2", "1"))]
    found = set()
    for number, table in enumerate((rows, rows[::-1], rows[1:])):
        folder = write_table(tmp_path / str(number), *table)
        found.add(read_cohort(folder, images=False).fingerprint("A-2"))
    assert len(found) == 1


@pytest.mark.parametrize("cell", ["", "unknown", "N/A", "?", "NaN", None])
def test_a_status_that_is_not_known_is_said_to_be_predicted(tmp_path: Path, cell: str | None) -> None:
    """Where the edition has it as an input; where it has not, nothing is said, and a blank is no finding either."""
    rows = [ROW | {"HPV Status": cell} if cell is not None else {k: v for k, v in ROW.items() if k != "HPV Status"}]
    folder = write_table(tmp_path, *rows)
    write_images(folder, ROW["PatientID"])
    (table,) = folder.glob("*.csv")
    said = "is not given" if cell is None else f"is {cell!r}"
    for read in (
        read_cohort(folder, outcomes=False, known_hpv="HPV Status"),
        read_patients(table, None, False, None, "HPV Status"),
    ):
        assert read.patients[0].known_hpv is None
        assert read.patients[0].clinical.assumed[0] == f"HPV status {said}: predicted"
        remark = "no column 'HPV Status': predicted of every patient"
        assert (remark in read.remarks) == (cell is None)
    plain = read_cohort(folder, outcomes=False)
    assert not [note for note in (*plain.patients[0].clinical.assumed, *plain.remarks) if "HPV" in note]
    write_table(tmp_path, ROW | {"Known HPV Status": cell or ""})
    assert read_cohort(folder, outcomes=False).patients[0].known_hpv is None


def test_a_known_status_is_read_for_answers_alone(tmp_path: Path) -> None:
    """A finding or a blank; anything else is a problem by name, and training never looks."""
    folder = write_table(tmp_path / "cohort", ROW | {"Known HPV Status": "neg"})
    write_images(folder, ROW["PatientID"])
    answered, trained = read_cohort(folder, outcomes=False), read_cohort(folder, training=True)
    assert (answered.patients[0].known_hpv, trained.patients[0].known_hpv) == (False, None)
    write_table(tmp_path / "cohort", ROW | {"Known HPV Status": "positive"})
    changed = read_cohort(folder, outcomes=False)
    assert changed.patients[0].known_hpv is True
    assert changed.fingerprint(ROW["PatientID"]) != answered.fingerprint(ROW["PatientID"])
    write_table(tmp_path / "cohort", ROW | {"Known HPV Status": "-"})
    with pytest.raises(InvalidInputError, match="Known HPV Status is '-', which may mean negative or unknown"):
        read_cohort(folder, outcomes=False)
    write_table(tmp_path / "cohort", ROW | {"HPV Status": "maybe"})
    with pytest.raises(InvalidInputError, match="Known HPV Status is 'maybe', not 0, 1, negative, positive"):
        read_cohort(folder, outcomes=False, known_hpv="HPV Status")


def test_a_fingerprint_knows_of_stages_where_there_are_some(tmp_path: Path) -> None:
    """What was answered, or trained on, before tables were read for stages is not refused for their lack."""
    write_images(tmp_path, "CHUM-001")
    found = []
    for stages in ({}, {"T-stage": ""}, {"T-stage": "T2"}, {"T-stage": "T3"}):
        write_table(tmp_path, ROW | stages)
        found.append(read_cohort(tmp_path).fingerprint("CHUM-001"))
    assert found[0] == found[1]
    assert len(set(found)) == 3
