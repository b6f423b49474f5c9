import os
import pickle
import zipfile

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision

from diffguard.errors import UserError
from lightning_modules.checkpoint_io import EpochCheckpoint, SafeCheckpointIO, last_checkpoint
from lightning_modules.classifier import ClassifierModule
from tests.helpers import tiny_training as tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*exists and is not empty")


def fit(folder, **options):
    trainer = tiny.trainer(folder, **options)
    trainer.fit(ClassifierModule(tiny.classifier()), tiny.train_loader(), tiny.val_loader())


def test_every_epoch_replaces_one_file(tmp_path):
    assert last_checkpoint(tmp_path) is None
    epochs = []

    class Watch(tiny.Callback):
        def on_train_epoch_start(self, trainer, *_):
            path = last_checkpoint(tmp_path)
            epochs.append(path and torch.load(path, weights_only=True)["epoch"])

    fit(tmp_path, max_epochs=3, callbacks=[Watch()])
    assert epochs == [None, 0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(last_checkpoint(tmp_path), weights_only=True)["epoch"] == 2


def test_a_crash_while_writing_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    io = SafeCheckpointIO()
    io.save_checkpoint({"pytorch-lightning_version": "2", "epoch": 1}, path)

    def half(_checkpoint, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint({"pytorch-lightning_version": "2", "epoch": 2}, path)
    assert io.load_checkpoint(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("kind", ["empty", "text", "no zip", "pickled code", "code in a zip"])
@pytest.mark.parametrize("weights_only", [None, False, True])
def test_bad_files_are_refused_in_one_line_and_run_no_code(tmp_path, kind, weights_only):
    path, marker = tmp_path / "last.ckpt", tmp_path / "code was run"
    plain = {
        "empty": b"",
        "text": b"hello",
        "no zip": b"PK\x03\x04" + b"0" * 200,
        "pickled code": pickle.dumps(Malicious(marker), protocol=2),
    }
    if kind in plain:
        path.write_bytes(plain[kind])
    else:
        torch.save({"state_dict": Malicious(marker)}, path)
    with pytest.raises(UserError, match=r"last\.ckpt") as caught:
        SafeCheckpointIO().load_checkpoint(path, weights_only=weights_only)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_a_truncated_checkpoint_is_refused_in_one_line(tmp_path):
    fit(tmp_path, max_epochs=1)
    path = last_checkpoint(tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match="damaged"):
        SafeCheckpointIO().load_checkpoint(path)


def test_foreign_and_absent_files_are_refused_in_one_line(tmp_path):
    io = SafeCheckpointIO()
    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="not a checkpoint of a training stage"):
        io.load_checkpoint(tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="does not exist"):
        io.load_checkpoint(tmp_path / "absent.ckpt")


def test_files_named_in_a_checkpoint_are_not_deleted(tmp_path):
    with pytest.raises(tiny.CrashError):
        fit(tmp_path, max_epochs=2, callbacks=[tiny.Crash(1)])
    path, victim = last_checkpoint(tmp_path), tmp_path / "victim"
    victim.mkdir()
    # The state of Lightning's own callback, with the path of the last good checkpoint.
    callback = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
    state = {**callback.state_dict(), "best_model_path": str(victim), "dirpath": str(tmp_path)}
    content = torch.load(path, weights_only=True)
    torch.save({**content, "callbacks": {callback.state_key: state}}, path)
    trainer = tiny.trainer(tmp_path, max_epochs=2, callbacks=[callback])
    module = ClassifierModule(tiny.classifier())
    trainer.fit(module, tiny.train_loader(), tiny.val_loader(), ckpt_path=path)
    assert trainer.current_epoch == 2
    assert victim.is_dir()


def _loops(checkpoint):
    return checkpoint["loops"]["fit_loop"]


def _group(checkpoint):
    return checkpoint["optimizer_states"][0]["param_groups"][0]


def _state(checkpoint):
    return checkpoint["optimizer_states"][0]["state"]


MALFORMED = {
    "no loops": lambda c: c.pop("loops"),
    "loops of another type": lambda c: c.update(loops=[1]),
    "an empty loop": lambda c: c.update(loops={"fit_loop": {}}),
    "text as progress": lambda c: _loops(c)["epoch_progress"]["current"].update(ready="x"),
    "negative progress": lambda c: _loops(c)["epoch_progress"]["current"].update(ready=-1),
    "another attribute": lambda c: _loops(c)["epoch_progress"]["current"].update(reset=1),
    "a loader state": lambda c: _loops(c)["state_dict"].update(combined_loader=[{"batches": -1}]),
    "an epoch of text": lambda c: c.update(epoch="1"),
    "no optimizer": lambda c: c.update(optimizer_states=[]),
    "no groups": lambda c: c["optimizer_states"][0].pop("param_groups"),
    "two groups": lambda c: c["optimizer_states"][0].update(param_groups=2 * [_group(c)]),
    "a rate of NaN": lambda c: _group(c).update(lr=float("nan")),
    "other parameters": lambda c: _group(c).update(params=[0, 7]),
    "another option": lambda c: _group(c).update(fused="yes"),
    "a moment of another shape": lambda c: _state(c)[0].update(exp_avg=torch.zeros(3)),
    "no moments": lambda c: _state(c).update({1: {}}),
    "a state beyond the parameters": lambda c: _state(c).update({99: _state(c)[0]}),
    "no schedule": lambda c: c.update(lr_schedulers=[]),
    "a schedule of another form": lambda c: c.update(lr_schedulers=[{"step": 1}]),
    "a step beyond the schedule": lambda c: c["lr_schedulers"][0].update(last_epoch=10**6),
    "other base rates": lambda c: c["lr_schedulers"][0].update(base_lrs=["x"]),
    "no planned steps": lambda c: c.update(planned_steps=None),
    "planned steps of text": lambda c: c.update(planned_steps="8"),
    "no generators": lambda c: c.update(generators=[]),
    "generators of another size": lambda c: c.update(generators=[{"cpu": torch.zeros(3)}]),
    "a generator cut short": lambda c: c["generators"][0].update(cpu=torch.zeros(8).byte()),
    "weights that are no tensors": lambda c: c["state_dict"].update(more=1),
    "an expanded tensor": lambda c: c["state_dict"].update(more=torch.zeros(1).expand(10**9)),
    "an old version": lambda c: c.update({"pytorch-lightning_version": "1.0.0"}),
    "a version of text": lambda c: c.update({"pytorch-lightning_version": "2.x"}),
}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(tiny.CrashError):
        fit(folder, max_epochs=2, callbacks=[tiny.Crash(1)])
    return last_checkpoint(folder)


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_states_are_refused_in_one_line(tmp_path, interrupted, kind):
    content = torch.load(interrupted, weights_only=True)
    MALFORMED[kind](content)
    torch.save(content, tmp_path / "last.ckpt")
    trainer = tiny.trainer(tmp_path, max_epochs=2)
    module = ClassifierModule(tiny.classifier())
    with pytest.raises(UserError) as caught:
        trainer.fit(
            module,
            tiny.train_loader(),
            tiny.val_loader(),
            ckpt_path=tmp_path / "last.ckpt",
            weights_only=True,
        )
    assert "\n" not in str(caught.value)


def test_a_malformed_gradient_scaler_is_one_line(tmp_path):
    def trainer(folder, *callbacks):
        precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
        plugins = [SafeCheckpointIO(), precision]
        return tiny.trainer(folder, max_epochs=2, callbacks=callbacks, plugins=plugins)

    def fit_scaled(folder, *callbacks, **options):
        module = ClassifierModule(tiny.classifier())
        loaders = tiny.train_loader(), tiny.val_loader()
        trainer(folder, *callbacks).fit(module, *loaders, **options)

    with pytest.raises(tiny.CrashError):
        fit_scaled(tmp_path, EpochCheckpoint(tmp_path), tiny.Crash(1))
    content = torch.load(last_checkpoint(tmp_path), weights_only=True)
    state, path = content["MixedPrecision"], tmp_path / "changed.ckpt"
    for change in ({"scale": -1.0}, {"scale": float("nan")}, {"growth_interval": "x"}, {"more": 1}):
        torch.save({**content, "MixedPrecision": {**state, **change}}, path)
        with pytest.raises(UserError, match=r"MixedPrecision.* is damaged") as caught:
            fit_scaled(tmp_path, ckpt_path=path, weights_only=True)
        assert "\n" not in str(caught.value)
    fit_scaled(tmp_path, ckpt_path=last_checkpoint(tmp_path), weights_only=True)


def test_a_compressed_archive_is_refused(tmp_path, interrupted):
    with (
        zipfile.ZipFile(interrupted) as source,
        zipfile.ZipFile(tmp_path / "last.ckpt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.namelist():
            target.writestr(member, source.read(member))
    with pytest.raises(UserError, match="compressed"):
        SafeCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="named pipe"):
        SafeCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
