"""The method against the numbers of the authors' program (`reference/README.md`).

Every number compared comes from a public function of `diffguard`, on networks with the files'
weights. DIFFGUARD_REFERENCE points the test at another folder of files of the same form. What the
files do not reach, the modules `beyond_*.py` compare with libraries and laws.
"""

import pytest
import torch

from tests.reference.beyond_guidance import *  # noqa: F403
from tests.reference.beyond_outcomes import *  # noqa: F403
from tests.reference.beyond_schedule import *  # noqa: F403
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


def test_groups_are_complete():
    assert {path.stem for path in folder().glob("*.npz")} == set(CHECKS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("group", CHECKS)
def test_group(group, dtype):
    file = GroupFile(group)
    data_sets = file.data_sets(dtype)
    assert data_sets, f"{group} is empty"
    for data in data_sets:
        before = len(file.compared)
        CHECKS[group](data)
        assert len(file.compared) > before, f"nothing of {group} {data.prefix} was compared"
    print(f"{group}: compared {', '.join(sorted(file.compared))}")  # noqa: T201
    assert not file.unaccounted(), "arrays that are neither compared nor used as input"
