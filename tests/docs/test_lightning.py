"""The examples of docs/lightning.md run."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.helpers import tiny_training as tiny

PAGE = Path(__file__).parents[2] / "docs" / "lightning.md"


@pytest.mark.filterwarnings("ignore")
def test_the_examples_run(run_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    shutil.copy(run_folder / "detector.ckpt", tmp_path / "runs" / "demo" / "detector.ckpt")
    monkeypatch.chdir(tmp_path)
    pairs = TensorDataset(torch.rand(12, 1, 8, 8), torch.arange(12) % 3)
    loader = DataLoader(pairs, batch_size=6)
    names = {"digits": pairs, "letters": pairs, "images": torch.rand(3, 1, 8, 8)}
    names |= {"classifier": tiny.classifier(), "train_loader": loader}
    names |= {"validation_loader": loader, "test_loader": loader}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(code, names)
    assert "tensor(0.5" in capsys.readouterr().out
    assert [len(batch) for batch in names["verdicts"]] == [3]
    assert "classifier/test_accuracy" in names["trainer"].callback_metrics
