"""Tables as people keep them: the same patients come out, or one line says what to change."""

import csv
import re
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from cohorts import ROW, write_images
from openpyxl import Workbook, load_workbook
from openpyxl.styles import Font
from openpyxl.worksheet.worksheet import Worksheet

from mmpl.case import InvalidInputError, Outcome, Patient
from mmpl.io.cohort import inspect_cohort, read_cohort, read_table_alone
from mmpl.io.patients import read_patients

IDS = ("P000", "P001", "P002", "P003")
HEADER = list(ROW)
Rows = list[list[str]]
ROWS: Rows = [[name, *list(ROW.values())[1:]] for name in IDS]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of four patients."""
    folder = tmp_path_factory.mktemp("images")
    for name in IDS:
        write_images(folder, name)
    return folder


@pytest.fixture
def folder(images: Path, tmp_path: Path) -> Path:
    """A cohort's folder without a table."""
    for patient in images.iterdir():
        (tmp_path / patient.name).symlink_to(patient)
    return tmp_path


def write_csv(folder: Path, rows: Rows, delimiter: str = ",", end: str = "\n") -> Path:
    path = folder / "EHR.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator=end).writerows([HEADER, *rows])
    return path


def write_xlsx(folder: Path, change: Callable[[Worksheet], object] = lambda _: None) -> Path:
    """Numbers are numbers; a change is made last."""
    book = Workbook()
    sheet = book.active
    assert isinstance(sheet, Worksheet)
    sheet.append(HEADER)
    for row in ROWS:
        sheet.append([int(cell) if cell.isdigit() else cell for cell in row])
    change(sheet)
    path = folder / "EHR.xlsx"
    book.save(path)
    return path


def sound(folder: Path) -> tuple[Patient, ...]:
    """The patients as a plain CSV gives them."""
    path = write_csv(folder, ROWS)
    patients = read_cohort(folder).patients
    path.unlink()
    assert tuple(patient.patient_id for patient in patients) == IDS
    return patients


# what is read all the same


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: "\ufeff" + text,
        lambda text: "sep=,\n" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text + ",,,\n\n" + "," * 11 + "\n",
        lambda text: text.replace("\n", ",,\n"),
        lambda text: text.replace(",", " , "),
        lambda text: text.replace("PatientID", "patientid").replace("RFS", " rfs"),
        lambda text: re.sub("P00(.)", "\u00a0P00\\1 ", text),
        lambda text: "\n".join(f'"{line}"'.replace(",", '","') for line in text.splitlines()),
    ],
)
def test_a_csv_of_another_program_gives_the_same_patients(folder: Path, change: Callable[[str], str]) -> None:
    wanted = sound(folder)
    path = write_csv(folder, ROWS)
    path.write_text(change(path.read_text()), newline="")
    assert read_cohort(folder).patients == wanted


def test_the_suffix_may_be_in_capitals_and_a_mac_may_leave_its_own_file_beside(folder: Path) -> None:
    wanted = sound(folder)
    write_csv(folder, ROWS).rename(folder / "EHR.CSV")
    (folder / "._EHR.csv").write_bytes(b"\0\5\26\7")
    assert read_cohort(folder).patients == wanted


def claim_size(path: Path, reference: str) -> None:
    """Let the sheet say of itself that it is smaller than it is."""
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    name = "xl/worksheets/sheet1.xml"
    parts[name], count = re.subn(rb'<dimension ref="[^"]*"', f'<dimension ref="{reference}"'.encode(), parts[name])
    assert count == 1
    with zipfile.ZipFile(path, "w") as book:
        for name, content in parts.items():
            book.writestr(name, content)


@pytest.mark.parametrize("reference", ["A1", "A1:L2", "A1:C5", "A1:XFD1048576"])
def test_a_workbook_is_read_to_its_end_whatever_it_says_of_its_size(folder: Path, reference: str) -> None:
    wanted = sound(folder)
    claim_size(write_xlsx(folder), reference)
    assert read_cohort(folder).patients == wanted


def test_formulas_that_have_their_values_are_those(folder: Path) -> None:
    """A formula is written with its value beside it, as a spreadsheet program saves it."""
    wanted = sound(folder)
    path = write_xlsx(folder)
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    name = "xl/worksheets/sheet1.xml"
    parts[name], count = re.subn(rb'(<c r="K\d"[^>]*>)<v>412</v>', rb"\1<f>400+12</f><v>412</v>", parts[name])
    assert count == len(IDS)
    with zipfile.ZipFile(path, "w") as book:
        for name, content in parts.items():
            book.writestr(name, content)
    assert load_workbook(path).active["K2"].value == "=400+12"
    assert read_cohort(folder).patients == wanted


# what is refused, with the reason


def refusal(folder: Path) -> str:
    with pytest.raises(InvalidInputError) as caught:
        read_cohort(folder)
    return str(caught.value)


@pytest.mark.parametrize(("delimiter", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_another_delimiter_is_named(folder: Path, delimiter: str, name: str) -> None:
    path = write_csv(folder, ROWS, delimiter)
    assert refusal(folder) == f"{path}: the cells are parted by {name}; save it with commas"
    path.write_text(f"sep={delimiter}\n" + path.read_text())
    assert refusal(folder) == f"{path}: the cells are parted by {name}; save it with commas"


@pytest.mark.parametrize("before", ["HECKTOR clinical data\n", "who,,what\n,,\n"])
def test_lines_before_the_header_are_named(folder: Path, before: str) -> None:
    path = write_csv(folder, ROWS)
    path.write_text(before + path.read_text())
    assert re.search(r"EHR\.csv: the header is line [23]; delete the lines before it", refusal(folder))


def test_lines_before_the_header_of_a_sheet_are_named(folder: Path) -> None:
    path = write_xlsx(folder, lambda sheet: sheet.insert_rows(1, 2))
    assert refusal(folder) == f"{path}, sheet Sheet: the header is line 3; delete the lines before it"


@pytest.mark.parametrize("changed", ["xl/worksheets/sheet1.xml", ""])
@pytest.mark.filterwarnings("ignore:File contains an invalid specification")
def test_a_workbook_in_strict_open_xml_is_told_to_be_saved_otherwise(folder: Path, changed: str) -> None:
    """Strict in its one sheet, or in every part."""
    path = write_xlsx(folder)
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    transitional = re.compile(rb"schemas\.openxmlformats\.org/(spreadsheetml|officeDocument)/2006")
    with zipfile.ZipFile(path, "w") as book:
        for name, content in parts.items():
            strict = transitional.sub(rb"purl.oclc.org/ooxml/\1", content)
            book.writestr(name, strict if changed in name else content)
    assert refusal(folder) == f"{path}: no sheet that can be read; save it as Excel workbook (.xlsx) or as CSV"


def write_sheets(folder: Path, change: Callable[[Worksheet], object], state: str = "visible") -> Path:
    """The table, changed, and an older one of one patient on another sheet."""
    path = write_xlsx(folder, change)
    book = load_workbook(path)
    older = book.create_sheet("older")
    older.append(HEADER)
    older.append(ROWS[0])
    older.sheet_state = state
    book.save(path)
    return path


@pytest.mark.parametrize("state", ["hidden", "veryHidden"])
def test_a_hidden_sheet_is_not_read(folder: Path, state: str) -> None:
    wanted = sound(folder)
    path = write_sheets(folder, lambda sheet: None, state)
    assert read_cohort(folder).patients == wanted
    write_sheets(folder, lambda sheet: sheet.insert_rows(1), state)
    assert refusal(folder) == f"{path}, sheet Sheet: the header is line 2; delete the lines before it"
    write_sheets(folder, lambda sheet: sheet.delete_rows(1, 9), state)
    assert refusal(folder) == f"{path}: 0 sheets have a column PatientID (older is hidden), and one is needed"


def test_two_sheets_that_may_both_be_the_table_are_named(folder: Path) -> None:
    path = write_sheets(folder, lambda sheet: None)
    assert refusal(folder) == f"{path}: 2 sheets have a column PatientID (Sheet, older), and one is needed"
    write_sheets(folder, lambda sheet: sheet.insert_rows(1))
    assert refusal(folder) == f"{path}: 2 sheets have a column PatientID (Sheet, older), and one is needed"


def test_a_data_dictionary_is_no_second_table(folder: Path) -> None:
    def change(sheet: Worksheet) -> None:
        dictionary = sheet.parent.create_sheet("Data dictionary", 0)
        for line in (["Variable", "Meaning"], ["PatientID", "who"], ["CenterID", "PatientID begins with it"]):
            dictionary.append(line)

    wanted = sound(folder)
    write_xlsx(folder, change)
    assert read_cohort(folder).patients == wanted


# a header that comes again


@pytest.mark.parametrize(
    "line", ["ID,center,years,,,", "PatientID,CenterID,Age,Gender,,", "-,,years,0/1,0/1,", "id,1,,,,"]
)
def test_a_second_header_line_is_no_patient(tmp_path: Path, line: str) -> None:
    table = tmp_path / "table.csv"
    rows = ["PatientID,CenterID,Age,Gender,Treatment,M-stage", line, "P000,2,61,1,1,M0"]
    for second in ("P001,2,odd,,,", "Mary,2,61,,,", ""):
        table.write_text("\n".join([*rows, second]))
        message = f"line 2, patient {line.split(',')[0]}: a line of units or a second header, and no patient? delete it"
        with pytest.raises(InvalidInputError) as caught:
            read_table_alone(table)
        assert str(caught.value) == f"{table}: {message}"
    table.write_text("\n".join([rows[0], "Mary,1,60,2,,", rows[2], "P001,2,years,,,", "Maria,1,years,,,"]))
    assert len(read_table_alone(table).patients) == 4


# rows and centers that are not what they seem


@pytest.mark.parametrize("outcomes", [False, True])
@pytest.mark.parametrize("row", [["Mean", "", "61.5"], ["* HPV by p16"], ["n = 4", "NA", "", "?"]])
def test_a_row_that_may_be_a_sum_or_a_footnote_is_remarked(folder: Path, row: list[str], outcomes: bool) -> None:
    path = write_csv(folder, [*ROWS, row + [""] * (len(HEADER) - len(row))])
    read = read_patients(path, outcomes=outcomes)
    assert len(read.patients) == len(ROWS) + 1
    assert read.remarks == (
        "rows with neither center nor outcome nor any category of the record, which may be no patients: "
        f"1 ({row[0]!r})",
    )


def test_a_row_of_a_patient_of_whom_little_is_known_is_not_remarked(folder: Path) -> None:
    for column, cell in (("CenterID", "1"), ("Gender", "1"), ("HPV Status", "0"), ("RFS", "400")):
        path = write_csv(folder, [*ROWS, ["P004", *(cell if name == column else "" for name in HEADER[1:])]])
        assert not read_patients(path).remarks
    path.write_text("PatientID,Age\nP000,61\nP001,62\n")
    assert not any("may be no patients" in remark for remark in read_patients(path).remarks)


@pytest.mark.parametrize(
    ("spellings", "centers", "remarks"),
    [
        (("1", "1.0", "01", "1."), ("1", "1", "1", "1"), ["'1' and '1.0' and '01' and '1.'"]),
        (("CHUM", "chum", "HMR", "hmr"), ("CHUM", "CHUM", "HMR", "HMR"), ["'CHUM' and 'chum'", "'HMR' and 'hmr'"]),
        (("New  York", "new york", "10", "1"), ("New  York", "New  York", "10", "1"), ["'New  York' and 'new york'"]),
        (("1_1", "11", "1e1", "1.5"), ("1_1", "11", "1e1", "1.5"), []),
        (("0", "", "00", "-1"), ("0", "", "0", "-1"), ["'0' and '00'"]),
    ],
)
def test_a_center_is_one_however_it_is_spelled(
    folder: Path, spellings: tuple[str, ...], centers: tuple[str, ...], remarks: list[str]
) -> None:
    write_csv(folder, [[row[0], center, *row[2:]] for row, center in zip(ROWS, spellings, strict=True)])
    for cohort in (read_cohort(folder), read_cohort(folder, outcomes=False)):
        assert tuple(patient.center_id for patient in cohort.patients) == centers
        assert list(cohort.remarks) == [f"CenterID: {names} are taken for one" for names in remarks]


def test_a_header_between_the_patients_is_named(folder: Path) -> None:
    path = write_csv(folder, [*ROWS, HEADER])
    text = refusal(folder)
    assert text.startswith(f"{path}: ")
    assert "line 6, patient PatientID: a line of units or a second header, and no patient? delete it" in text


def test_a_row_that_was_cut_is_named(folder: Path) -> None:
    path = write_csv(folder, ROWS)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3][:20], *lines[4:]]))
    assert refusal(folder).startswith(f"{path}: line 4: ")
    path.write_text("\n".join([*lines[:3], lines[3] + ",one more", *lines[4:]]))
    assert refusal(folder) == f"{path}: line 4: 13 cells, not 12"


@pytest.mark.parametrize("stray", [{3: 'P001,2,61,1,0,,1,1,M0,1,412,"0'}, {3: '"2', 4: '3"'}, {3: '"x', 5: '"'}])
def test_a_quotation_mark_that_stands_alone_takes_nobody_away(folder: Path, stray: dict[int, str]) -> None:
    path = write_csv(folder, [[*row, "x"] for row in ROWS])
    lines = path.read_text().replace("HPV Status", "HPV Status,Remark").splitlines()
    for line, text in stray.items():
        lines[line - 1] = text if "," in text else f"{lines[line - 1][:-1]}{text}"
    path.write_text("\n".join(lines) + "\n")
    assert refusal(folder).startswith(f"{path}: ")


@pytest.mark.parametrize("content", ["utf-16", "nul"])
def test_a_file_that_is_no_text_is_named(folder: Path, content: str) -> None:
    path = write_csv(folder, ROWS)
    text = path.read_text()
    path.write_bytes(text.encode("utf-16") if content == "utf-16" else text.encode() + b"\0\0")
    assert refusal(folder).startswith(f"{path}: ")


def set_formula(column: str) -> Callable[[Worksheet], None]:
    def change(sheet: Worksheet) -> None:
        sheet[f"{column}3"] = "=1+1"

    return change


@pytest.mark.parametrize("column", ["A", "C", "K", "L"])
def test_a_formula_without_its_value_is_named_by_its_cell(folder: Path, column: str) -> None:
    path = write_xlsx(folder, set_formula(column))
    wanted = f"cell {column}3 holds a formula without its value: save it as values"
    assert wanted in refusal(folder)
    assert refusal(folder).startswith(f"{path}: ")


def test_a_formula_in_a_column_that_nobody_reads_is_none_of_our_business(folder: Path) -> None:
    wanted = sound(folder)

    def change(sheet: Worksheet) -> None:
        sheet["M1"], sheet["M2"] = "remark", "=1+1"

    write_xlsx(folder, change)
    assert read_cohort(folder).patients == wanted


def test_a_sheet_all_of_formulas_is_not_empty(folder: Path) -> None:
    def change(sheet: Worksheet) -> None:
        for row in sheet.iter_rows(min_row=2):
            for cell in row:
                cell.value = "=1+1"

    write_xlsx(folder, change)
    assert "cell A2 holds a formula without its value" in refusal(folder)


def test_merged_cells_are_named(folder: Path) -> None:
    write_xlsx(folder, lambda sheet: sheet.merge_cells("B2:B3"))
    assert "cells B2:B3 are merged: unmerge them, and fill each" in refusal(folder)


def test_hidden_rows_are_named(folder: Path) -> None:
    def change(sheet: Worksheet) -> None:
        sheet.row_dimensions[3].hidden = True

    write_xlsx(folder, change)
    assert "line 3: hidden; show what belongs to the cohort, and delete the rest" in refusal(folder)


def test_an_age_that_became_a_date_is_odd_and_said_so(folder: Path) -> None:
    def change(sheet: Worksheet) -> None:
        sheet["C2"] = datetime(1900, 3, 1)

    write_xlsx(folder, change)
    first = read_cohort(folder).patients[0].clinical
    assert first.values["Age"] is None
    assert any(note.startswith("Age is '1900-03-01") for note in first.assumed)


# outcomes


def outcomes(folder: Path, column: str, cells: list[str]) -> tuple[list[object], list[str]]:
    at = HEADER.index(column)
    write_csv(folder, [[*row[:at], cell, *row[at + 1 :]] for row, cell in zip(ROWS, cells, strict=True)])
    cohort, problems = inspect_cohort(folder)
    field = {"HPV Status": "hpv_positive", "Relapse": "relapse", "RFS": "rfs_days"}[column]
    return [getattr(patient.outcome, field) for patient in cohort.patients], problems


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        (["+", "-", "-", "+"], [True, False, False, True]),
        (["+", "\u2013", "\u2212", ""], [True, False, False, None]),
        (["Positive", "negative", "NEG", "pos"], [True, False, False, True]),
        (["p16+", "p16-", "P16 +", "p16 negative"], [True, False, True, False]),
        (["1", "0", "1.0", "0.0"], [True, False, True, False]),
        (["", " ", "NaN", "NA"], [None, None, None, None]),
    ],
)
def test_hpv_status_in_words(folder: Path, cells: list[str], wanted: list[bool | None]) -> None:
    assert outcomes(folder, "HPV Status", cells) == (wanted, [])


@pytest.mark.parametrize("odd", ["-", "?", "unknown", "none", "n/a", "p16", "2", "equivocal", "#N/A", "+-"])
def test_an_hpv_status_that_may_mean_anything_is_a_problem(folder: Path, odd: str) -> None:
    found, (problem,) = outcomes(folder, "HPV Status", ["1", odd, "0", ""])
    assert found[1] is None
    assert problem.startswith(f"line 3, patient P001: HPV Status is {odd!r}, ")


def test_outcomes_keep_nobody_from_being_answered(folder: Path) -> None:
    odd = [[*row[:9], "?", "soon", "-"] for row in ROWS]
    write_csv(folder, odd)
    assert len(refusal(folder).splitlines()) == 1 + 3 * len(IDS)
    cohort = read_cohort(folder, outcomes=False)
    assert [patient.patient_id for patient in cohort.patients] == list(IDS)
    assert {patient.outcome for patient in cohort.patients} == {Outcome()}
    assert cohort.remarks == ()


@pytest.mark.parametrize("column", ["Relapse", "RFS"])
@pytest.mark.parametrize("odd", ["-", "?", "unknown", "none", "n/a", "#REF!", "412,5"])
def test_other_outcomes_are_numbers_or_blank(folder: Path, column: str, odd: str) -> None:
    found, (problem,) = outcomes(folder, column, ["1", odd, "NA", "nan"])
    assert found[1:] == [None, None, None]
    assert problem.startswith(f"line 3, patient P001: {column} is {odd!r}, ")


@pytest.mark.parametrize(("days", "doubted"), [("14", True), ("119", True), ("120", False), ("412", False)])
def test_times_that_cannot_well_be_days_are_remarked(folder: Path, days: str, doubted: bool) -> None:
    outcomes(folder, "RFS", [days, days, days, "400"])
    remarks = read_cohort(folder).remarks
    assert [remark.startswith(f"RFS: the median is {days} days; if these are months") for remark in remarks] == (
        [True] if doubted else []
    )


# the challenge's tasks in a folder each


def write_tasks(folder: Path, second: Callable[[dict[str, str]], dict[str, str]] = lambda row: row) -> Path:
    """The table cut in three by its columns, as three folders; the images lie with the first."""
    columns = {1: HEADER[:9], 2: ["PatientID", "Relapse", "RFS"], 3: ["PatientID", "HPV Status", "Age"]}
    for task, names in columns.items():
        place = folder / "tasks" / f"Task {task}"
        place.mkdir(parents=True)
        rows = [{name: row[HEADER.index(name)] for name in names} for row in ROWS]
        rows = rows[::-1] if task == 3 else rows
        with (place / f"EHR_{task}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(second(row) if task == 2 else row for row in rows)
    for patient in IDS:
        (folder / "tasks" / "Task 1" / patient).symlink_to(folder / patient)
        (folder / "tasks" / "Task 3" / patient).symlink_to(folder / patient)
    return folder / "tasks"


def test_the_tables_of_three_tasks_are_one(folder: Path) -> None:
    wanted = sound(folder)
    cohort = read_cohort(write_tasks(folder), training=True)
    assert cohort.patients == wanted
    assert cohort.read_case("P001").patient_id == "P001"


def test_a_mask_that_two_tasks_have_is_the_same_in_both(folder: Path) -> None:
    tasks = write_tasks(folder)
    for task in (1, 3):
        (tasks / f"Task {task}" / "P001.nii.gz").write_bytes(b"a mask of one size")
    assert read_cohort(tasks).mask_path("P001") == tasks / "Task 1" / "P001.nii.gz"
    (tasks / "Task 3" / "P001.nii.gz").write_bytes(b"a mask of the size")
    assert refusal(tasks).endswith("P001.nii.gz: not the same file")


def test_what_they_say_differently_is_listed(folder: Path) -> None:
    def contradict(row: dict[str, str]) -> dict[str, str]:
        return row | {"Relapse": row["Relapse"] + ".0"} if row["PatientID"] != "P002" else row | {"RFS": "99"}

    tasks = write_tasks(folder, contradict)
    other = tasks / "Task 3" / "EHR_3.csv"
    other.write_text(other.read_text().replace("P001,0,61", "P001,0,62"))
    message = refusal(tasks)
    assert "patient P001: Age is '61' in Task 1/EHR_1.csv and '62' in Task 3/EHR_3.csv" in message
    assert "P002" not in message  # said by one table alone
    assert "Relapse" not in message  # 1 and 1.0 are the same


def test_two_that_both_say_unknown_do_not_contradict(folder: Path) -> None:
    tasks = write_tasks(folder, lambda row: row | {"RFS": "NA"})
    for task, text in ((1, ",Treatment"), (3, "")):
        table = tasks / f"Task {task}" / f"EHR_{task}.csv"
        table.write_text(table.read_text().replace(",61", ",NaN"))
        assert text in table.read_text()
    (tasks / "Task 3" / "EHR_3.csv").write_text(
        (tasks / "Task 3" / "EHR_3.csv").read_text().replace("Age", "RFS").replace("NaN", "412")
    )
    patients = read_cohort(tasks).patients
    assert {patient.outcome.rfs_days for patient in patients} == {412.0}


def test_a_table_beside_those_of_tasks_is_refused(folder: Path) -> None:
    tasks = write_tasks(folder)
    beside = write_csv(tasks, ROWS)
    assert refusal(tasks).startswith(f"{tasks}: EHR.csv and Task 1/EHR_1.csv, ")
    beside.unlink()
    (tasks / "Task 2/EHR_2.csv").unlink()
    assert refusal(tasks) == f"{tasks}: a table is needed in each task's folder; Task 2 has 0"


def test_factors_of_a_tasks_folder_are_read(folder: Path) -> None:
    tasks = write_tasks(folder)
    (tasks / "Task 2/suv_factors.csv").write_text("PatientID,Factor\nP000,0.5\n")
    assert dict(read_cohort(tasks).suv_factors) == {"P000": 0.5}


# factors of SUV


@pytest.mark.parametrize(
    "text",
    [
        "PatientID,Factor\nP000,0.5\n",
        "PatientID,Factor\nP000,0.5\n\n,\n",
        "PatientID, Factor\n P000 , 0.5\n",
        "\ufeffpatientid,FACTOR,remark\nP000,0.5,x\n",
    ],
)
def test_factors_are_read_as_carefully(folder: Path, text: str) -> None:
    write_csv(folder, ROWS)
    (folder / "suv_factors.csv").write_text(text)
    cohort = read_cohort(folder)
    assert (dict(cohort.suv_factors), cohort.remarks) == ({"P000": 0.5}, ())


def test_the_organisers_own_tags_are_factors(folder: Path) -> None:
    write_csv(folder, ROWS)
    (folder / "suv_conversion_tags.csv").write_text(
        "pid,units,patient_weight_kg,bqml_to_suvbw_factor\nP000,BQML,70,0.25\nP001,GML,70,\nX1,BQML,70,0.5\n"
    )
    cohort = read_cohort(folder)
    assert dict(cohort.suv_factors) == {"P000": 0.25}
    assert cohort.remarks == ("suv_conversion_tags.csv: not in the cohort's table: X1",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("PatientID,Factor\nP000,0.5\nP000,0.7\n", "suv_factors.csv, line 3: patient P000 is there twice"),
        ("PatientID,Factor\nP000,0.5\np001,0.5\n", "suv_factors.csv: no patient p001; there is P001"),
        ("PatientID,Factor\nX,0.5\nY,0.5\n", "suv_factors.csv: none of its patients is in the cohort's table"),
        ("PatientID;Factor\nP000;0.5\n", "the cells are parted by semicolons"),
        ("PatientID,Factor\nP000\n", "suv_factors.csv, line 2: 1 cells, not 2"),
        ("PatientID,Factor\nP000,0\n", "suv_factors.csv, line 2: P000, 0 is not a patient and a factor above 0"),
        ("PatientID,Factor\nP000,inf\n", "is not a patient and a factor above 0"),
        ("PatientID\nP000\n", "suv_factors.csv: one column factor is needed"),
        ("", "suv_factors.csv: one column PatientID and one factor is needed"),
    ],
)
def test_faulty_factors_are_problems(folder: Path, text: str, problem: str) -> None:
    write_csv(folder, ROWS)
    (folder / "suv_factors.csv").write_text(text)
    assert problem in refusal(folder)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("P000,CNTS,0.1", "suv_conversion_tags.csv, line 2: the PET of P000 is in CNTS, not BQML or GML"),
        ("P000,,0.1", "the PET of P000 is in no unit"),
        ("P001,GML,", "suv_conversion_tags.csv: P001 is in "),
        ("P001,BQML,0.1", "suv_conversion_tags.csv: P001 is in "),
    ],
)
def test_tags_that_say_something_else_are_problems(folder: Path, row: str, problem: str) -> None:
    write_csv(folder, ROWS)
    (folder / "suv_factors.csv").write_text("PatientID,Factor\nP001,0.5\n")
    (folder / "suv_conversion_tags.csv").write_text(f"pid,units,bqml_to_suvbw_factor\n{row}\nP002,BQML,0.1\n")
    assert problem in refusal(folder)


def test_a_factor_for_a_pet_that_is_in_suv_is_refused(folder: Path) -> None:
    write_csv(folder, ROWS)
    (folder / "suv_factors.csv").write_text("PatientID,Factor\nP000,0.0002\n")
    with pytest.raises(InvalidInputError, match="patient P000: the PET is in SUV already"):
        read_cohort(folder).read_case("P000")


def test_a_format_far_below_the_table_costs_nothing(folder: Path) -> None:
    """A stray format in the last row of a sheet: its empty cells are not made."""
    wanted = sound(folder)

    def change(sheet: Worksheet) -> None:
        sheet.cell(1_000_000, 16).font = Font(bold=True)

    write_xlsx(folder, change)
    assert read_cohort(folder).patients == wanted
