"""The Python interface on the sample case, as a notebook would use it: `python docs/python_interface.py [WEIGHTS]`.

The images may be paths, SimpleITK images, or voxels with an affine as nibabel gives them; here each way is shown once.
Processes that answer are to be spawned, not forked from one that has answered: PyTorch's threads do not survive that.
"""

import json
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

import mmpl
from mmpl.api import mask_image
from mmpl.findings import in_words

CHECKOUT = Path(__file__).resolve().parent.parent
SAMPLE = CHECKOUT / "test" / "input"

# weights are verified and read once, whatever number of patients follows
model = mmpl.load(sys.argv[1] if len(sys.argv) > 1 else CHECKOUT / "weights")

ct, pet = (next((SAMPLE / "images" / name).glob("*.mha")) for name in ("ct", "pet"))
record = json.loads((SAMPLE / "ehr.json").read_text())
result = model.answer(ct, pet, record, patient_id="sample")

mask = result.segmentation.mask  # voxels (z, y, x) on the CT's own grid: 0 background, 1 GTVp, 2 GTVn
image = mask_image(result)  # the same as a SimpleITK image, which sitk.WriteImage takes
assert image.GetSize() == mask.grid.size_xyz
print(f"GTVp {result.gtvp_ml:.1f} ml, GTVn {result.gtvn_ml:.1f} ml, on {mask.grid.size_xyz} voxels")

assert result.hpv is not None  # as these weights were trained for all three tasks
assert result.survival is not None
print(f"HPV {'positive' if result.hpv.positive else 'negative'}, probability {result.hpv.probability:.3f}")
print(
    f"recurrence risk {result.survival.risk_score:+.2f}: higher is worse, 0 an average patient of the training cohort"
)
days, curves = result.survival.curve_days, result.survival.member_curves  # (T,) and (models, T), of the networks alone
print(f"{len(curves)} curves over {days[-1]:.0f} days")
assert result.survival.explanation is not None
for finding in result.survival.explanation.contributions[:3]:
    print(f"  {finding.added:+.2f} for {in_words(finding.name)}: {finding.value}")
for remark in (*result.flags, *result.notes):
    print(remark)

# the same patient from memory: a SimpleITK image, and voxels (x, y, z) with their affine to RAS
loaded = sitk.ReadImage(str(pet))
affine = np.eye(4)
affine[:3, :3] = np.reshape(loaded.GetDirection(), (3, 3)) * loaded.GetSpacing()
affine[:3, 3] = loaded.GetOrigin()
affine = np.diag([-1, -1, 1, 1]) @ affine  # SimpleITK counts from right to left and front to back (LPS)
voxels = sitk.GetArrayFromImage(loaded).transpose(2, 1, 0)
again = model.answer(sitk.ReadImage(str(ct)), (voxels, affine), record)
assert np.array_equal(again.segmentation.mask.voxels, mask.voxels)
print("the same mask from arrays")
