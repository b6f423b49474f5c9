"""The notebook runs from its first cell to its last."""

import json
from pathlib import Path

import matplotlib as mpl

NOTEBOOK = Path(__file__).parents[2] / "docs" / "quickstart.ipynb"


def test_the_cells_of_the_notebook_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    # Digits 0 to 5 come first; a classifier that knows them is right about most.
    flags = names["verdicts"].is_ood.tolist()
    assert flags[:4].count(True) <= 1 < flags[4:].count(True)
    assert names["trainer"].callback_metrics["digits 6-9/auroc/fusion"] > 0.9
    assert "fusion: AUROC" in capsys.readouterr().out
