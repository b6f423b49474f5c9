import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader, TensorDataset

from diffguard.report.metrics import auroc
from diffguard.settings.fusion import FusionSettings
from lightning_modules import DetectorModule
from tests.helpers.tiny_detector import build_detector, small_settings

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def test_a_cascade_logs_the_scores_that_every_image_has():
    fusion = FusionSettings("cascade", band=[0.3, 0.9])
    detector = build_detector(small_settings(fusion=fusion))
    generator = torch.Generator().manual_seed(4)
    images = {name: torch.rand(20, 1, 8, 8, generator=generator) for name in ("shapes", "noise")}
    loaders = {
        name: DataLoader(TensorDataset(x, torch.zeros(20, dtype=torch.int64)), batch_size=20)
        for name, x in images.items()
    }
    trainer = Trainer(**QUIET)
    module = DetectorModule(detector, batch_size=8, all_metrics=True)
    trainer.test(module, loaders, verbose=False)
    logged = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("noise/auroc/")}
    assert {k.split("/")[2] for k in logged} == {"msp", "knn", "fusion", "fusion_baselines"}
    scores = [detector.score(x, batch_size=8) for x in images.values()]
    assert float(logged["noise/auroc/fusion"]) == pytest.approx(auroc(*scores), abs=1e-6)
    (verdicts,) = trainer.predict(DetectorModule(detector, batch_size=8), loaders["noise"])
    assert set(verdicts.stage.tolist()) == {1, 2}
