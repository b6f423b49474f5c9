"""The files, commands and Python code of docs/your-classifier.md."""

import csv
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

import evaluate
import train

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "your-classifier.md").read_text(encoding="utf-8")
CONFIG = ROOT / "configs" / "your_classifier.yaml"
CLASSES, SHADES = ("cat", "dog", "fox"), (30, 110, 190)
SIDE = 64
# Lines of the config that a reader changes; smaller images take less time.
CHANGES = {
    "image_size: 256": f"image_size: {SIDE}",
    "# size: [224, 224]": f"size: [{SIDE}, {SIDE}]",
}
COMMANDS = [
    shlex.split(line) for line in re.findall(r"^ {4}(python \w+\.py .*)$", PAGE, re.MULTILINE)
]


def write_images(folder, count, shade, seed):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = rng.integers(0, 40, (20, 24, 3)) + shade
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")


def shade_classifier():
    """A random ResNet-18 whose last layer distinguishes the three shades of the images."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=len(CLASSES)).eval()
    shades = (torch.tensor(SHADES) + 19.5) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    flat = (((shades[:, None] - mean) / std)[:, :, None, None]).expand(3, 3, SIDE, SIDE)
    with torch.no_grad():
        features = torch.nn.Sequential(*list(network.children())[:-1])(flat).flatten(1)
        # The nearest of three features as a linear layer, scaled down to avoid overconfidence.
        network.fc.weight.copy_(0.02 * features)
        network.fc.bias.copy_(-0.01 * (features**2).sum(1))
    return network


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files of the page and the results of its commands."""
    place = tmp_path_factory.mktemp("journey")
    for part, count in (("train", 20), ("validation", 8), ("test", 3)):
        for name, shade in zip(CLASSES, SHADES, strict=True):
            write_images(place / "my_images" / part / name, count, shade, shade + count)
    write_images(place / "new_images", 4, 110, 7)
    write_images(place / "other_images", 4, 70, 8)
    torch.save(shade_classifier().state_dict(), place / "my_classifier.pt")
    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        num_class_embeds=len(CLASSES) + 1,
    )
    DDPMPipeline(network, DDPMScheduler()).save_pretrained(place / "my_diffusion")
    shutil.copytree(ROOT / "configs", place / "configs")
    config = CONFIG.read_text(encoding="utf-8")
    for line, change in CHANGES.items():
        assert line in config
        config = config.replace(line, change)
    (place / "configs" / CONFIG.name).write_text(config, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for command in COMMANDS:
            script = {"train.py": train, "evaluate.py": evaluate}[command[1]]
            assert script.main(command[2:]) == 0, command
    return place


def test_the_page_shows_lines_of_the_config():
    shown = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL).group(1))
    shipped = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    for section, values in shown.items():
        for key, value in values.items():
            assert shipped[section][key] == value
    assert shipped["stages"] == ["calibrate"]


def test_the_commands_give_verdicts(place):
    assert [command[1] for command in COMMANDS] == ["train.py", "evaluate.py", "evaluate.py"]
    with (place / "verdicts" / "images.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [f"{number:02}.png" for number in range(4)]
    assert {row["prediction"] for row in rows} == {"dog"}
    assert (place / "runs" / "mine" / "evaluation" / "results.json").is_file()
    assert not (place / "runs" / "mine" / "classifier").exists()
    assert not (place / "runs" / "mine" / "diffusion").exists()


def test_the_python_example_runs(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1)
    exec(code, {"images": torch.full((2, 3, 30, 40), 0.5)})
    output = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in output] == ["dog", "dog"]


def test_classes_in_another_order_end_the_calibration(place, monkeypatch):
    from diffguard.errors import UserError

    monkeypatch.chdir(place)
    command = [*COMMANDS[0][2:-2], "--data.class_names", "[fox, dog, cat]"]
    with pytest.raises(UserError, match=r"another order than the data's \(8 of 8 images of 'fox'"):
        train.main([*command, "--run_dir", "runs/order"])
