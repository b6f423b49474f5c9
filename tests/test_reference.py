"""The method agrees with the numbers of the authors' program (`reference/README.md`).

Every compared number comes from a public function of `diffguard`, on networks with the weights of
the files. DIFFGUARD_REFERENCE selects another folder of files in the same format. The classes in
`reference/beyond_*.py` test what the files do not cover, against libraries and general laws.
"""

import pytest
import torch

from tests.reference.beyond_guidance import (
    TestClassifierFreeGuidance,
    TestClassifierGuidance,
    TestCrops,
)
from tests.reference.beyond_outcomes import TestCam, TestEarlyStop, TestMetrics
from tests.reference.beyond_schedule import TestNoiseSchedule, TestSamplingPlan, TestSpacing
from tests.reference.files import GroupFile, folder
from tests.reference.outcomes import (
    check_cam,
    check_cfg_end_to_end,
    check_gdm_early_stop,
    check_metrics,
)
from tests.reference.solvers import (
    check_gdm_denoise,
    check_gdm_guidance,
    check_gdm_inversion,
    check_ldm_denoise,
    check_ldm_inversion,
    check_schedule,
)

# Pytest collects the imported classes here.
__all__ = [
    "TestCam",
    "TestClassifierFreeGuidance",
    "TestClassifierGuidance",
    "TestCrops",
    "TestEarlyStop",
    "TestMetrics",
    "TestNoiseSchedule",
    "TestSamplingPlan",
    "TestSpacing",
]

CHECKS = {
    "schedule": check_schedule,
    "gdm_inversion": check_gdm_inversion,
    "gdm_early_stop": check_gdm_early_stop,
    "gdm_guidance": check_gdm_guidance,
    "gdm_denoise": check_gdm_denoise,
    "ldm_inversion": check_ldm_inversion,
    "ldm_denoise": check_ldm_denoise,
    "cam": check_cam,
    "metrics": check_metrics,
    "cfg_end_to_end": check_cfg_end_to_end,
}


def test_every_group_of_files_has_a_check():
    assert {path.stem for path in folder().glob("*.npz")} == set(CHECKS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("group", CHECKS)
def test_equals_the_reference_vectors(group, dtype):
    file = GroupFile(group)
    data_sets = file.data_sets(dtype)
    assert data_sets, f"{group} is empty"
    for data in data_sets:
        before = len(file.compared)
        CHECKS[group](data)
        assert len(file.compared) > before, f"nothing of {group} {data.prefix} was compared"
    print(f"{group}: compared {', '.join(sorted(file.compared))}")  # noqa: T201
    assert not file.unaccounted(), "arrays that are neither compared nor used as input"
