"""The notebook runs from its first cell to its last."""

import json
from pathlib import Path

import matplotlib as mpl

NOTEBOOK = Path(__file__).parents[2] / "docs" / "quickstart.ipynb"
# The images that take most of the time -> an eighth of them.
FEWER = {'"validation", 2)': '"validation", 16)', '"test", 10)': '"test", 80)', "40)}": "320)}"}


def test_the_cells_of_the_notebook_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    names = {}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    for many, few in FEWER.items():
        assert sum(many in source for source in sources) == 1
        sources = [source.replace(many, few) for source in sources]
    for source in sources:
        exec(compile(source, str(NOTEBOOK), "exec"), names)
    # Digits 0 to 5 come first; a classifier that knows them is right about most.
    flags = names["verdicts"].is_ood.tolist()
    assert flags[:4].count(True) <= 1 < flags[4:].count(True)
    assert names["trainer"].callback_metrics["digits 6-9/auroc/fusion"] > 0.9
    assert "fusion: AUROC" in capsys.readouterr().out
