import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from diffguard.report.training_figures import confusion_figure, pixels_of
from lightning_modules.callbacks.chart_layout import ChartLayout
from lightning_modules.callbacks.classifier_figures import ClassifierFigures
from lightning_modules.classifier import ClassifierModule
from tests.helpers import fake_wandb
from tests.helpers import tiny_training as tiny


def test_validation_figures_reach_the_loggers_that_show_pictures(tmp_path, monkeypatch):
    runs = fake_wandb.install(monkeypatch)
    loggers = [TensorBoardLogger(tmp_path, name="tb"), WandbLogger(), CSVLogger(tmp_path)]
    figures = ClassifierFigures(["a", "b", "c"], every_n_epochs=2)
    callbacks = [figures, ChartLayout("classifier")]
    trainer = tiny.trainer(tmp_path, max_epochs=3, logger=loggers, callbacks=callbacks)
    trainer.fit(ClassifierModule(tiny.classifier()), tiny.train_loader(), tiny.val_loader())
    accuracy = float(trainer.callback_metrics["classifier/val_accuracy"])
    counts = figures.confusion.compute()
    assert counts.sum() == 20
    assert counts.trace() / 20 == pytest.approx(accuracy)
    events = EventAccumulator(loggers[0].log_dir, size_guidance={"images": 0}).Reload()
    names = ("classifier/confusion_matrix", "classifier/reliability")
    for name in names:
        assert [image.step for image in events.Images(name)] == [8, 12]
    assert set(names) <= set(runs[0].values)
    (event,) = events.Tensors("custom_scalars__config__")
    (category,) = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0]).category
    assert category.title == "Classifier"
    assert category.chart[0].multiline.tag == ["classifier/(train|val)_loss"]


def test_the_confusion_matrix_shows_counts_and_many_classes_without_text():
    counts = np.array([[8, 2], [0, 5]])
    axes = confusion_figure(counts, ["cat", "$dog"]).axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["2", "5", "8"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "$dog"]
    np.testing.assert_allclose(axes.get_images()[0].get_array(), [[0.8, 0.2], [0, 1]])
    many = confusion_figure(np.eye(200, dtype=np.int64), [str(n) for n in range(200)])
    assert not many.axes[0].texts
    assert pixels_of(many).std() > 0
