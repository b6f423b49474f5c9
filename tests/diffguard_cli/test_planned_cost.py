"""`train.py --dry_run`: the cost of a detector before it is trained."""

import evaluate
import train


def test_it_is_the_cost_of_the_trained_detector(run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate.main(["--ckpt", str(run_folder / "detector.ckpt"), "--dry_run"]) == 0
    expected = capsys.readouterr().out
    argv = ["--config", str(run_folder / "config.yaml"), "--dry_run"]
    for model in ([], ["--diffusion.ckpt", str(run_folder / "diffusion")]):
        assert train.main([*argv, *model, "--run_dir", "new"]) == 0
        assert capsys.readouterr().out == expected
    assert not list(tmp_path.iterdir())
    assert "dry_run" not in (run_folder / "config.yaml").read_text()
