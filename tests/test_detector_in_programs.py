"""A detector inside other programs: gradients, training and precision around it."""

import lightning.pytorch as pl
import torch

from diffguard.classifiers.small_cnn import TimedCNN
from tests.helpers.tiny_detector import build_detector

GRAY = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def test_gradients_and_layout_of_the_images_change_no_score(detector):
    black_and_white = (GRAY > 0.5).float()
    expected = detector.score(black_and_white)
    with torch.enable_grad():
        traced = black_and_white.clone().requires_grad_()
        scores = detector.score(traced * 1)
        assert not scores.requires_grad
        assert torch.equal(scores, expected)
        assert torch.equal(detector.predict(traced).score, expected)
    with torch.inference_mode():
        assert torch.equal(detector.score(black_and_white.clone()), expected)
    # Outside the range by a rounding error.
    rounded = torch.where(black_and_white > 0, 1 + 1e-6, -1e-6)
    assert torch.equal(detector.score(rounded), expected)
    assert torch.equal(detector.score(black_and_white.double()), expected)
    assert detector.predict(GRAY[:0]).label.shape == (0,)
    unfrozen = build_detector().requires_grad_()
    assert torch.equal(unfrozen.score(black_and_white), expected)


class Around(pl.LightningModule):
    """A trained module that contains a detector."""

    def __init__(self, detector, images):
        super().__init__()
        self.detector, self.images, self.scores = detector, images, []
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        self.scores.append(self.detector.score(self.images))
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.scores.append(self.detector.score(self.images))

    def configure_optimizers(self):
        return torch.optim.SGD(self.layer.parameters(), 0.1)


def test_training_around_a_detector_does_not_change_it(tmp_path):
    detector = build_detector(noisy_classifier=TimedCNN(3, 1, width=4))
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    expected = detector.score(GRAY)
    assert detector.train() is detector
    around = Around(detector, GRAY)
    around.train()
    assert around.training
    assert not any(module.training for module in detector.modules())
    data = torch.utils.data.DataLoader(torch.rand(4, 1), batch_size=2)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(around, data, data)
    # Also a part that is set to training mode separately.
    detector.classifier.train()
    around.scores.append(detector.score(GRAY))
    assert len(around.scores) == 7
    assert all(torch.equal(scores, expected) for scores in around.scores)
    for name, value in detector.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_scoring_uses_full_precision_and_restores_the_programs_settings(detector, monkeypatch):
    cudnn, values = torch.backends.cudnn, []
    monkeypatch.setattr(cudnn, "deterministic", False)
    monkeypatch.setattr(cudnn, "benchmark", True)
    classify = detector.classifier.forward_features

    def watched(*args):
        modes = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
        values.append((*modes, torch.get_float32_matmul_precision(), torch.is_grad_enabled()))
        return classify(*args)

    monkeypatch.setattr(detector.classifier, "forward_features", watched)
    torch.set_float32_matmul_precision("high")
    try:
        with torch.enable_grad():
            detector.score(GRAY)
            assert torch.is_grad_enabled()
        assert torch.get_float32_matmul_precision() == "high"
        assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == (False, True, True)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(values) == {(True, False, False, "highest", False)}
