"""What docs/diffusion-models.md shows is what works."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from lightning_modules.settings import DiffusionConfig, ModelConfig, TrainerConfig

PAGE = (Path(__file__).parent.parent / "docs" / "diffusion-models.md").read_text(encoding="utf-8")


def test_the_denoiser_of_ones_own_runs_as_it_stands(tmp_path):
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1)
    script = f"import torch; torch.set_num_threads(1)\n{code}"
    script += "from diffguard.denoisers import Denoiser\n"
    script += "assert isinstance(detector.denoiser, Denoiser)\n"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    # Better than chance: what the page shows detects something.
    assert 0.6 < float(result.stdout.split()[-1]) <= 1.0


def test_the_options_are_there():
    known = {f"diffusion.model.{f.name}" for f in fields(ModelConfig)}
    known |= {f"diffusion.{f.name}" for f in fields(DiffusionConfig)}
    known |= {f"trainer.{f.name}" for f in fields(TrainerConfig)}
    named = set(re.findall(r"--((?:diffusion|trainer)\.[\w.]+)", PAGE))
    assert named
    assert named <= known
