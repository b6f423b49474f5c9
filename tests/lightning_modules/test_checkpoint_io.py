import pickle

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from diffguard.errors import UserError
from lightning_modules.checkpoint_io import SafeCheckpointIO, last_checkpoint
from lightning_modules.classifier import ClassifierModule
from tests.helpers import tiny_training as tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*exists and is not empty")


def fit(folder, **options):
    trainer = tiny.trainer(folder, **options)
    trainer.fit(ClassifierModule(tiny.classifier()), tiny.train_loader(), tiny.val_loader())


def test_one_file_after_every_epoch(tmp_path):
    assert last_checkpoint(tmp_path) is None
    seen = []

    class Watch(tiny.Callback):
        def on_train_epoch_start(self, trainer, *_):
            path = last_checkpoint(tmp_path)
            seen.append(path and torch.load(path, weights_only=True)["epoch"])

    fit(tmp_path, max_epochs=3, callbacks=[Watch()])
    assert seen == [None, 0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(last_checkpoint(tmp_path), weights_only=True)["epoch"] == 2


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
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
def test_bad_files_are_one_line_and_run_no_code(tmp_path, kind, weights_only):
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


def test_truncated_checkpoint_is_one_line(tmp_path):
    fit(tmp_path, max_epochs=1)
    path = last_checkpoint(tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match="damaged"):
        SafeCheckpointIO().load_checkpoint(path)


def test_foreign_and_absent_files_are_one_line(tmp_path):
    io = SafeCheckpointIO()
    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="no checkpoint of a training stage"):
        io.load_checkpoint(tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="does not exist"):
        io.load_checkpoint(tmp_path / "absent.ckpt")


def test_what_a_checkpoint_names_is_not_deleted(tmp_path):
    with pytest.raises(tiny.CrashError):
        fit(tmp_path, max_epochs=2, callbacks=[tiny.Crash(1)])
    path, victim = last_checkpoint(tmp_path), tmp_path / "victim"
    victim.mkdir()
    # As Lightning's own callback keeps its state, which would be the last good checkpoint.
    callback = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
    state = {**callback.state_dict(), "best_model_path": str(victim), "dirpath": str(tmp_path)}
    content = torch.load(path, weights_only=True)
    torch.save({**content, "callbacks": {callback.state_key: state}}, path)
    trainer = tiny.trainer(tmp_path, max_epochs=2, callbacks=[callback])
    module = ClassifierModule(tiny.classifier())
    trainer.fit(module, tiny.train_loader(), tiny.val_loader(), ckpt_path=path)
    assert trainer.current_epoch == 2
    assert victim.is_dir()
