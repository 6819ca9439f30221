"""One patient's CT and PET among what lies in a folder: found, or refused in one line without the patient in it."""

import re
import warnings
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from dicom_files import INJECTION, SECRETS, STUDY, change, enhanced, noise_ct, noise_pet, write_ct, write_pet
from pydicom import dcmread

from mmpl.case import ClinicalRecord, Grid, InvalidInputError
from mmpl.dicom.headers import Header
from mmpl.dicom.study import find_one, find_study, patient_facts, pet_header, read_pair, read_pet, read_study
from mmpl.dicom.suv import Clock
from mmpl.dicom.writing import save_series
from mmpl.io.images import write_image
from mmpl.names import Modality

CT_GRID = Grid((8, 7, 12), (2.5, 2.5, 3.27), (-10.0, -9.0, 5.0))
PET_GRID = Grid((5, 5, 10), (4.0, 4.0, 4.0), (-10.0, -9.0, 5.0))
CT, PET = noise_ct(CT_GRID), noise_pet(PET_GRID)


@pytest.fixture
def place(tmp_path) -> Path:
    """A study of one CT and one PET."""
    folder = tmp_path / "study"
    write_ct(folder / "a", CT)
    write_pet(folder / "b", PET)
    return folder


def message(place: Path, **numbers: int) -> str:
    with pytest.raises(InvalidInputError, match=re.escape(str(place))) as caught:
        read_study(find_study(place, **numbers))
    text = str(caught.value)
    assert "\n" not in text
    assert not any(secret in text for secret in SECRETS)
    return text


def test_a_study_is_read_in_hu_and_suv(place):
    images = read_study(find_study(place))
    np.testing.assert_array_equal(images.ct.voxels, CT.voxels)
    np.testing.assert_allclose(images.pet.voxels, PET.voxels, atol=PET.voxels.max() / 60_000)
    assert images.pet_is_suv
    assert images.suv is not None
    assert images.suv.factor == pytest.approx(70_000 / INJECTION.decayed_bq)
    assert (images.suv.uptake_s, images.suv.counted_to) == (3600.0, Clock.SERIES)
    assert images.found == {"age": 61.0, "sex": "F", "weight": 70.0}
    study = find_study(place)
    case = images.to_case("A", ClinicalRecord())
    assert (case.ct_series, case.pet_series) == (study.ct.identity, study.pet.identity)


def test_one_of_several_pets_must_be_named(place):
    write_pet(place / "c", PET, number=5)
    said = message(place)
    assert said.endswith(
        "2 PET series, 2 (10 slices), 5 (10 slices); leave one there, or name it to `mmpl case` by --pet-series"
    )
    assert find_study(place, pet_number=5).pet.number == "5"
    assert "no PET series 7; there are 2 (10 slices), 5 (10 slices)" in message(place, pet_number=7)


def test_one_of_several_cts_must_be_named(place):
    write_ct(place / "c", CT, number=4)
    assert message(place).endswith(
        "2 CT series, 1 (12 slices), 4 (12 slices); leave one there, or name it to `mmpl case` by --ct-series"
    )
    assert find_study(place, ct_number=4).ct.number == "4"


def test_series_of_one_number_cannot_be_named(place):
    write_pet(place / "c", PET, number=5)
    change(place / "c", SeriesNumber=2)
    assert "move them into folders of their own" in message(place)


@pytest.mark.parametrize(
    "changes", [{"CorrectedImage": ["NORM", "DECY"]}, {"ImageType": ["DERIVED", "SECONDARY", "MIP"]}]
)
def test_a_pet_without_attenuation_correction_is_not_the_one_nor_is_a_projection(place, changes):
    write_pet(place / "c", PET, number=5)
    change(place / "c", **changes)
    assert find_study(place).pet.number == "2"


def test_short_series_and_cts_of_another_frame_study_or_day_are_not_the_one(place):
    write_ct(place / "c", noise_ct(replace(CT_GRID, size_xyz=(8, 7, 3))), number=4)
    write_ct(place / "d", CT, replace(STUDY, start=STUDY.start - timedelta(days=90)), number=5)
    write_ct(place / "e", CT, number=6)
    change(place / "e", AcquisitionDate="20250101")
    assert find_study(place).ct.number == "1"


def test_a_short_series_of_the_day_of_the_pet_is_not_the_one(place):
    """As where the PET was made after midnight, and a few slices with it."""
    write_ct(place / "c", noise_ct(replace(CT_GRID, size_xyz=(8, 7, 5))), number=4)
    for folder in ("b", "c"):
        change(place / folder, AcquisitionDate="20250103")
    assert find_study(place).ct.number == "1"


def test_a_ct_of_another_frame_of_reference(place):
    change(place / "a", FrameOfReferenceUID="1.2.3")
    assert message(place).endswith(
        "no CT of the PET's frame of reference, and 1 of another (CT series 1, PET series 2)"
    )


def test_without_a_frame_of_reference_the_study_decides(place):
    change(place / "a", FrameOfReferenceUID="")
    assert find_study(place).ct.number == "1"


def test_two_patients_in_one_folder(place):
    write_ct(place / "c", CT, replace(STUDY, patient_id="Another-4711"), number=4)
    assert message(place).endswith("images of 2 patients; a folder for each is needed")


def test_a_series_cut_in_half(place):
    for number in range(6, 11):
        (place / "b" / f"{number:04d}.dcm").unlink()
    assert "5 slices, where the header counts 10: the series is not whole" in message(place)


@pytest.mark.parametrize(("gone", "said"), [("a", "no CT series"), ("b", "no PET series")])
def test_a_study_without_one_of_the_two(place, gone, said):
    for path in (place / gone).iterdir():
        path.unlink()
    assert message(place).endswith(said)


def test_a_pet_that_was_not_corrected_is_refused(place):
    change(place / "b", DecayCorrection="NONE")
    assert message(place).endswith("PET series 2: the PET was not corrected for decay")
    change(place / "b", DecayCorrection="START", CorrectedImage=["DECY"])
    assert message(place).endswith("PET series 2: the PET was not corrected for attenuation")


def test_a_pet_whose_suv_cannot_be_known_is_read_as_it_is(place):
    change(place / "b", PatientWeight="154")
    images = read_study(find_study(place))
    assert not images.pet_is_suv
    assert images.suv is not None
    assert images.suv.why_none == "the patient's weight is absurd for the height, 154 kg, as in pounds"
    assert images.pet.voxels.max() == pytest.approx(PET.voxels.max() * INJECTION.decayed_bq / 70_000, rel=1e-4)


def test_a_weight_that_is_known_better_goes_before_the_header(place):
    change(place / "b", PatientWeight="154")
    images = read_study(find_study(place), weight_kg=35.0)
    np.testing.assert_allclose(images.pet.voxels, PET.voxels / 2, atol=PET.voxels.max() / 60_000)


def test_odd_values_are_not_said_to_anybody(place, caplog):
    for path in (place / "b").iterdir():
        content = path.read_bytes()
        for there in (b"061Y", b"20250102", b"ISO_IR 192"):  # age, date, characters
            content = content.replace(there, b"Somebody  "[: len(there)], 1)
        path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_study(find_study(place))
        assert patient_facts(find_one(place, Modality.PET).first) == {"sex": "F", "weight": 70.0}
    assert caught == []
    assert caplog.text == ""


def test_philips_private_factor(place):
    for path in (place / "b").iterdir():
        dataset = dcmread(path)
        dataset.Units = "CNTS"
        dataset.private_block(0x7053, "Philips PET Private Group", create=True).add_new(0x00, "DS", "0.0005")
        dataset.save_as(path)
    _, factor = read_pet(find_one(place, Modality.PET))
    assert factor.factor == 0.0005


def test_ge_private_scan_time(place):
    change(place / "b", SeriesTime="180000", AcquisitionTime="121000")
    for path in (place / "b").iterdir():
        dataset = dcmread(path)
        dataset.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20250102120000.00")
        dataset.save_as(path)
    header = pet_header(find_one(place, Modality.PET))
    assert header.private_scan == STUDY.start
    _, factor = read_pet(find_one(place, Modality.PET))
    assert (factor.counted_to, factor.uptake_s) == (Clock.PRIVATE, 3600.0)


def test_the_earliest_of_all_acquisitions_counts_where_the_series_was_rewritten(place):
    change(place / "b", SeriesTime="180000", AcquisitionTime="121500")
    dataset = dcmread(place / "b" / "0007.dcm")
    dataset.AcquisitionTime = "120000"
    dataset.save_as(place / "b" / "0007.dcm")
    _, factor = read_pet(find_one(place, Modality.PET))
    assert (factor.counted_to, factor.uptake_s) == (Clock.ACQUISITION, 3600.0)


def test_an_enhanced_pet_says_its_unit_and_moment_in_other_words(place):
    datasets = [dcmread(path) for path in sorted((place / "b").iterdir())]
    save_series([enhanced(datasets)], place.parent / "enhanced")
    image, factor = read_pet(find_one(place.parent / "enhanced", Modality.PET))
    np.testing.assert_allclose(image.voxels, PET.voxels, atol=PET.voxels.max() / 60_000)
    assert (factor.units, factor.counted_to) == ("BQML", Clock.STATED)


@pytest.mark.parametrize(
    ("zone", "injected", "time_of_day", "uptake_s"),
    [
        # the scan begins at 12:00 on the file's clock, on 2 January
        ("+0100", "20250102110000+0100", None, 3600.0),  # one clock
        ("+0100", "20250102100000+0000", None, 3600.0),  # 10:00 UTC is 11:00 here
        ("-0500", "20250102170000.500000+0100", None, 3599.5),  # 16:00 UTC is 11:00 here
        ("+0530", "20250102053000-0000", None, 3600.0),  # 5:30 UTC is 11:00 here
        ("+1000", "20250101233000-0130", None, 3600.0),  # over midnight: 1:00 UTC is 11:00 here
        ("-0800", "20250103040000+0900", None, 3600.0),  # the day after, there: 19:00 UTC on 2 January is 11:00 here
        (None, "20250102110000+0900", None, 3600.0),  # the offset is the scanner's, as nothing says otherwise
        (None, "20250102100000+0000", "110000", 3600.0),  # but for the time of day, which is on the file's clock
        (None, "20250103010000+1400", "110000", 3600.0),
        (None, "20250102110000+0200", "105500", 3600.0),  # five minutes apart: typed in, and of one clock
        (None, "20250102110000+0200", "104800", 3600.0),  # as are twelve: no clock has an offset of 1:45
        (None, "20250102051500+0000", "110000", 3600.0),  # Nepal's has one of 5:45
        (None, "20250101221500+0000", "110200", 3600.0),  # and that of the Chatham Islands one of 12:45
        ("+0100", "20250102110000", "110000", 3600.0),  # without an offset it is on the file's clock
        ("+9900", "20250102110000+0100", None, 3600.0),  # no offset
    ],
)
def test_an_injection_of_another_time_zone(place, zone, injected, time_of_day, uptake_s):
    change(place / "b", TimezoneOffsetFromUTC=zone)
    for path in (place / "b").iterdir():
        dataset = dcmread(path)
        (tracer,) = dataset.RadiopharmaceuticalInformationSequence
        tracer.RadiopharmaceuticalStartDateTime, tracer.RadiopharmaceuticalStartTime = injected, time_of_day
        dataset.save_as(path)
    _, factor = read_pet(find_one(place, Modality.PET))
    assert factor.uptake_s == uptake_s
    assert factor.factor == pytest.approx(70_000 / (INJECTION.dose_bq * 2 ** (-uptake_s / INJECTION.half_life_s)))


def test_a_scan_and_its_injection_on_two_sides_of_midnight_and_of_a_time_zone(place):
    """The scan begins at 0:20 at +0200, which is 22:20 UTC; the injection was at 22:50 at +0100, 21:50 UTC."""
    change(
        place / "b", SeriesDate="20250330", SeriesTime="002000", AcquisitionDate=None, AcquisitionTime=None,
        AcquisitionDateTime="20250330002000.000000+0200",
    )  # fmt: skip
    for path in (place / "b").iterdir():
        dataset = dcmread(path)
        dataset.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime = "20250329225000+0100"
        dataset.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartTime = None
        dataset.save_as(path)
    _, factor = read_pet(find_one(place, Modality.PET))
    assert (factor.counted_to, factor.uptake_s) == (Clock.SERIES, 1800.0)


def test_enhanced_images_give_their_moments_with_offsets(place):
    datasets = [dcmread(path) for path in sorted((place / "b").iterdir())]
    whole = enhanced(datasets)
    whole.TimezoneOffsetFromUTC = "+0200"
    whole.DecayCorrectionDateTime = "20250102100000+0000"  # 12:00 here
    save_series([whole], place.parent / "enhanced")
    _, factor = read_pet(find_one(place.parent / "enhanced", Modality.PET))
    assert (factor.counted_to, factor.uptake_s) == (Clock.STATED, 3600.0)


@pytest.mark.parametrize("per_frame", [True, False])
@pytest.mark.parametrize(
    ("code", "scale"), [("{SUVbw}g/ml", 70_000 / INJECTION.decayed_bq), ("g/ml{SUVbw}", 2), ("Bq/ml", 1)]
)
def test_an_enhanced_pet_whose_only_scale_is_its_mapping(place, code, scale, per_frame):
    """Values as stored, beside them what they are in the world; the slices' own slopes are of Bq/ml."""
    datasets = [dcmread(path) for path in sorted((place / "b").iterdir())]
    whole = enhanced(datasets)
    (shared,) = whole.SharedFunctionalGroupsSequence
    (mapping,) = shared.RealWorldValueMappingSequence
    mapping.MeasurementUnitsCodeSequence[0].CodeValue = code
    for frame, dataset in zip(whole.PerFrameFunctionalGroupsSequence, datasets, strict=True):
        (values,) = frame.PixelValueTransformationSequence
        values.RescaleSlope = 1
        own = deepcopy(mapping)
        own.RealWorldValueSlope, own.RealWorldValueIntercept = float(dataset.RescaleSlope) * scale, 0.0
        frame.RealWorldValueMappingSequence = [own]
    if per_frame:
        del shared.RealWorldValueMappingSequence
    save_series([whole], place.parent / "enhanced")
    image, factor = read_pet(find_one(place.parent / "enhanced", Modality.PET))
    in_suv = code != "Bq/ml"
    assert (factor.units, factor.suv_type) == (("GML", "BW") if in_suv else ("BQML", ""))
    expected = PET.voxels * (scale * INJECTION.decayed_bq / 70_000 if in_suv else 1)
    np.testing.assert_allclose(image.voxels, expected, atol=expected.max() / 60_000)


@pytest.mark.parametrize(
    ("code", "kind"),
    [("g/ml{SUVlbm(James128)}", "LBMJAMES128"), ("{SUVlbm(Janma)}g/ml", "LBMJANMA"), ("g/mL{SUVbw}", "BW")],
)
def test_a_code_too_long_for_its_place_stands_in_another(place, code, kind):
    whole = enhanced([dcmread(path) for path in sorted((place / "b").iterdir())])
    (mapping,) = whole.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    said = mapping.MeasurementUnitsCodeSequence[0]
    if len(code) > 16:
        del said.CodeValue
        said.LongCodeValue = code
    else:
        said.CodeValue = code
    whole.PatientSize = 1.7
    save_series([whole], place.parent / "enhanced")
    _, factor = read_pet(find_one(place.parent / "enhanced", Modality.PET))
    assert (factor.units, factor.suv_type) == ("GML", kind)
    assert factor.factor is not None


def test_an_enhanced_pet_whose_mapping_is_shared_or_a_table(place):
    datasets = [dcmread(path) for path in sorted((place / "b").iterdir())]
    whole, out = enhanced(datasets), place.parent / "enhanced"
    (mapping,) = whole.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 0.5, 2.0
    mapping.MeasurementUnitsCodeSequence[0].CodeValue = "{SUVbw}g/ml"
    save_series([whole], out)
    image, _ = read_pet(find_one(out, Modality.PET))
    stored = np.frombuffer(whole.PixelData, "<i2").reshape(image.voxels.shape)
    np.testing.assert_array_equal(image.voxels, 0.5 * stored + 2)
    change(out, Units="BQML")  # the unit of the rescaled values is said, which goes before
    _, factor = read_pet(find_one(out, Modality.PET))
    assert factor.units == "BQML"
    for changes, said in (
        ({"RealWorldValueSlope": -0.5}, "0001.dcm: RealWorldValueSlope is not above 0"),
        ({"RealWorldValueSlope": None, "RealWorldValueLUTData": [1.0, 2.0]}, "0001.dcm: a lookup table for its values"),
    ):
        for keyword, value in changes.items():
            if value is None:
                delattr(mapping, keyword)
            else:
                setattr(mapping, keyword, value)
        save_series([whole], out)
        with pytest.raises(InvalidInputError, match=said):
            read_pet(find_one(out, Modality.PET))


def test_images_of_different_kinds_make_a_pair(place, tmp_path):
    write_image(tmp_path / "ct.nii.gz", CT)
    images = read_pair(tmp_path / "ct.nii.gz", place / "b")
    np.testing.assert_array_equal(images.ct.voxels, CT.voxels)
    np.testing.assert_allclose(images.pet.voxels, PET.voxels, atol=PET.voxels.max() / 60_000)
    assert images.found["age"] == 61
    write_image(tmp_path / "pet.mha", PET)
    assert (images.ct_series, images.pet_series) == (None, find_one(place / "b", Modality.PET).identity)
    images = read_pair(place, tmp_path / "pet.mha")
    assert (images.suv, images.pet_is_suv) == (None, True)
    np.testing.assert_array_equal(images.pet.voxels, PET.voxels)


def test_a_file_of_a_whole_series_may_be_named_itself(place, tmp_path):
    """Frames in an order of their own, and each with its own slope, which image libraries do not look at."""
    cts, pets = ([dcmread(path) for path in sorted((place / name).iterdir())] for name in ("a", "b"))
    save_series([enhanced([*cts[1::2], *cts[::2]])], tmp_path / "ct")
    save_series([enhanced(pets)], tmp_path / "pet")
    folders = read_pair(tmp_path / "ct", tmp_path / "pet")
    named = read_pair(tmp_path / "ct" / "0001.dcm", tmp_path / "pet" / "0001.dcm")
    for ours, theirs in ((named.ct, folders.ct), (named.pet, folders.pet)):
        np.testing.assert_array_equal(ours.voxels, theirs.voxels)
        assert ours.grid == theirs.grid
    np.testing.assert_array_equal(named.ct.voxels, CT.voxels)
    assert (named.suv, named.ct_series) == (folders.suv, folders.ct_series)
    with pytest.raises(InvalidInputError, match="1 slice; a volume is needed"):
        read_pair(sorted((place / "a").iterdir())[2], place / "b")


def test_a_pair_of_two_patients_is_refused(place, tmp_path):
    write_ct(tmp_path / "other", CT, replace(STUDY, patient_id="Another"))
    with pytest.raises(InvalidInputError, match="images of 2 patients"):
        read_pair(tmp_path / "other", place / "b")


@pytest.mark.parametrize(
    ("values", "age"),
    [
        ({"PatientAge": "007Y"}, 7.0),
        ({"PatientAge": "061W"}, None),
        ({"PatientAge": "", "PatientBirthDate": "19630103"}, 61.0),
        ({"PatientAge": "", "PatientBirthDate": "19630102"}, 62.0),
        ({"PatientAge": "", "PatientBirthDate": ""}, None),
    ],
)
def test_age_by_the_header(place, values, age):
    dataset = dcmread(place / "a" / "0001.dcm")
    for keyword, value in values.items():
        dataset[keyword if keyword in dataset else "PatientAge"].value = value
    assert patient_facts(Header(place, dataset)).get("age") == age
