"""The examples in docstrings run and give the output shown."""

import doctest
import importlib

import pytest
import torch

EXAMPLES = {
    "diffguard.diffusion.ddim": ["ddim_step"],
    "diffguard.diffusion.guidance": ["classifier_free"],
    "diffguard.diffusion.plan": ["SamplingPlan", "respace"],
    "diffguard.diffusion.schedule": ["NoiseSchedule", "predict_clean"],
    "diffguard.methods.verdicts": ["Verdict", "Verdicts"],
    "diffguard.report.metrics": ["auroc", "compute_metrics"],
    "diffguard.report.set_metrics": ["SetMetrics"],
    "diffguard.report.torch_metric": ["OODMetrics"],
    "diffguard.scores.calibration": ["Calibration"],
    "diffguard.scores.distances": ["build_distance", "find_distance"],
    "diffguard.scores.formulas": ["psnr", "ssim"],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_give_their_output(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"torch": torch}, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_public_names_have_an_example(name):
    module = importlib.import_module(name)
    missing = [item for item in EXAMPLES[name] if ">>>" not in getattr(module, item).__doc__]
    assert not missing
