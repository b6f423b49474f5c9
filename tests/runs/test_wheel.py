"""The wheel works outside the clone, in a virtual environment that does not know the clone."""

import csv
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Folder of the programs of an environment with the wheel; its libraries are the present ones.

    The wheel is built from the files that `.dockerignore` lets through.
    """
    folder = tmp_path_factory.mktemp("wheel")
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        source = ROOT / line[1:]
        if line.startswith("!") and source.is_dir():
            shutil.copytree(source, folder / "source" / line[1:])
        elif line.startswith("!"):
            (folder / "source").mkdir(exist_ok=True)
            shutil.copy(source, folder / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheels"]
    subprocess.run([*pip, *build, folder / "source"], check=True)
    venv.create(folder / "env", with_pip=False)
    programs = folder / "env" / "bin"
    install = ["--python", programs / "python", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, *install, *(folder / "wheels").glob("*.whl")], check=True)
    paths = sysconfig.get_paths(vars={"base": str(folder / "env")})
    # Python does not process the `.pth` files of a folder that it finds in one: no editable clone.
    libraries = Path(paths["purelib"]) / "libraries.pth"
    libraries.write_text(sysconfig.get_paths()["purelib"], encoding="utf-8")
    return programs


@pytest.fixture
def run(environment, tmp_path):
    """Run a program of the environment in an empty folder, and return what it prints."""

    def run_program(name, *words):
        result = subprocess.run(
            [environment / name, *map(str, words)],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run_program


def test_command_lists_its_subcommands(run):
    assert "diffguard COMMAND --help" in run("diffguard", "--help")


def test_training_starts_from_the_shipped_default(run):
    config = yaml.safe_load(run("diffguard", "train", "--print_config"))
    default = yaml.safe_load((ROOT / "configs" / "digits.yaml").read_text(encoding="utf-8"))
    assert config["data"]["id"].items() >= default["data"]["id"].items()


def test_only_the_packages_are_installed(run, environment):
    code = """if True:
        import json
        from importlib.metadata import files
        from importlib.util import find_spec
        places = [find_spec(name).origin for name in ("diffguard", "diffguard_cli")]
        print(json.dumps([places, [str(path) for path in files("diffguard-lightning")]]))
    """
    places, files = json.loads(run("python", "-c", code))
    assert all(Path(place).is_relative_to(environment.parent) for place in places)
    packages = ("diffguard", "lightning_modules", "datamodules", "diffguard_cli")
    folders = {path.split("/")[0] for path in files if ".dist-info/" not in path}
    assert folders == {*packages, ".."}  # `../../../bin/diffguard`
    shipped = {f"diffguard_cli/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    for name in packages:
        paths = [path for path in (ROOT / name).rglob("*") if path.is_file()]
        kept = [path for path in paths if path.suffix not in {".py", ".pyc"}]
        shipped |= {path.relative_to(ROOT).as_posix() for path in kept}
    assert "diffguard/pretrained/demo/detector.ckpt" in shipped
    assert {path for path in files if path.split("/")[0] in packages} >= shipped


SCRIPT = """
import sys

import numpy as np
import torch
from lightning import Trainer
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import ResNet18_Weights, resnet18

from diffguard import Detector
from lightning_modules import DetectorModule

loader = DataLoader(TensorDataset(torch.rand(20, 3, 8, 8), torch.arange(20) % 3), batch_size=8)
detector = Detector.from_parts(
    resnet18(num_classes=3),
    sys.argv[1],
    preprocess=ResNet18_Weights.DEFAULT.transforms(crop_size=32, resize_size=40),
    class_names=["cat", "dog", "fox"],
    settings={"sampler": {"steps": 4}, "knn_k": 3, "vim_dim": 2},
)
detector.calibrate(loader, reference=loader)
detector.save("detector.ckpt")

image = Image.new("RGB", (20, 30))
image.save("a.png")
forms = ["a.png", image, np.zeros((9, 9, 3), np.uint8), torch.zeros(3, 9, 9)]
verdicts = Detector.load("detector.ckpt").predict(forms)
assert torch.equal(verdicts.score, detector(forms))
print(len(verdicts), sorted(verdicts[0].to_dict()))

trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
module = DetectorModule(detector, batch_size=8)
trainer.test(module, {"id": loader, "ood": loader})
assert "ood/auroc/fusion" in trainer.callback_metrics
print(sum(len(batch) for batch in trainer.predict(module, loader)))

from diffguard_cli.main import main

main(["evaluate", "--ckpt", "demo", "--images", "demo", "--output", "results"])
"""


def test_detector_runs_in_python_in_a_trainer_and_as_a_command(run, models, tmp_path):
    lines = run("python", "-c", SCRIPT, models("unet_classes")).splitlines()
    assert lines[0].startswith("4 ['class_name', ")
    assert "20" in lines
    with (tmp_path / "results" / "images.csv").open(encoding="utf-8") as file:
        verdicts = {Path(row["path"]).name: row["verdict"] for row in csv.DictReader(file)}
    assert verdicts == {"digit.png": "id", "letter.png": "ood"}
