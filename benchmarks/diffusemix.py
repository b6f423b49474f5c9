"""A study: what mixtures bring to accuracy, calibration, OOD detection and robustness.

    pip install foolbox
    python benchmarks/diffusemix.py runs/diffusemix --limits 200 2000 --seeds 0 1 2

trains classifiers of the digits without augmentation, with the config's, with MixUp, CutMix and
DiffuseMix, and calibrates and evaluates a detector with each. The diffusion model is trained once
per number of training images, on those images alone. The edits are checked by the classifier with
standard augmentation of the same number of images and seed 0. A stage that is finished is not
repeated, so an interrupted study resumes. `results.md` has the mean and the standard deviation over
the seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import yaml
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from datamodules.ood import OODDataModule
from diffguard.detector import Detector
from diffguard_cli import evaluation, training
from diffguard_cli.parser import parse

# Arm -> the options of its training.
ARMS: dict[str, list[str]] = {
    "none": ["--classifier.augment", "none"],
    "standard": [],
    "mixup": ["--classifier.batch_mix", "mixup"],
    "cutmix": ["--classifier.batch_mix", "cutmix"],
    "diffusemix": ["--augment.method", "diffusemix"],
}
SCORES = ("msp", "energy", "knn", "diffguard", "fusion")
_BATCH = 100
# The largest change of a pixel in an attack.
_EPSILON = 8 / 255


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study and write its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limits", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--config", default="digits", help="config of data and recipes")
    parser.add_argument("--options", nargs="*", default=[], help="further options of training")
    options = parser.parse_args(argv)
    common = ["--config", options.config, *options.options]
    tables = [
        table_of(limit, study(options.folder, common, limit, options.seeds))
        for limit in options.limits
    ]
    text = "\n".join(tables)
    (options.folder / "results.md").write_text(text, encoding="utf-8")
    print(text)


def study(
    folder: Path, common: list[str], limit: int, seeds: Sequence[int]
) -> dict[str, list[dict[str, float]]]:
    """Arm -> the figures of each seed, for one number of training images."""
    common = [*common, "--data.train_limit", str(limit)]
    diffusion = folder / f"diffusion_{limit}"
    if not (diffusion / "diffusion").is_dir():
        train(diffusion, [*common, "--stages", "[diffusion]"])
    figures: dict[str, list[dict[str, float]]] = {}
    for arm, words in ARMS.items():
        for seed in seeds:
            run = folder / f"{arm}_{limit}_{seed}"
            if not (run / "detector.ckpt").is_file():
                judge = folder / f"standard_{limit}_{seeds[0]}" / "classifier"
                stages = ["--stages", "[classifier, calibrate]"]
                if arm == "diffusemix":
                    stages = ["--stages", "[augment, classifier, calibrate]"]
                    stages += ["--augment.classifier", str(judge / "classifier.safetensors")]
                    stages += ["--augment.cache", str(folder / "edits")]
                source = ["--diffusion.ckpt", str(diffusion / "diffusion")]
                train(run, [*common, *words, *stages, *source, "--seed", str(seed)])
            figures.setdefault(arm, []).append(figures_of(run))
    return figures


def train(run: Path, options: list[str]) -> None:
    """Train in a new run, or resume it."""
    is_begun = (run / "config.yaml").is_file()
    argv = ["--resume", str(run)] if is_begun else ["--run_dir", str(run), *options]
    if training.main(argv) != 0:
        raise SystemExit(f"{run} was interrupted: start the study again to resume it")


def figures_of(run: Path) -> dict[str, float]:
    """Accuracy, calibration, OOD detection and robustness of a run; computed once."""
    path = run / "study.json"
    if not path.is_file():
        ckpt, output = str(run / "detector.ckpt"), run / "evaluation"
        evaluation.main(["--ckpt", ckpt, "--output", str(output), "--panels", "0"])
        results = json.loads((output / "results.json").read_text(encoding="utf-8"))
        figures = {
            f"{row['score']} {row['dataset']}": row["auroc"]
            for row in results["rows"]
            if row["score"] in SCORES and row["dataset"] in ("near", "far")
        }
        path.write_text(json.dumps({**classifier_figures(ckpt), **figures}), encoding="utf-8")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def classifier_figures(ckpt: str) -> dict[str, float]:
    """Accuracy, expected calibration error, and accuracy under attack on ID test images."""
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfFastGradientAttack, LinfProjectedGradientDescentAttack

    classifier = Detector.load(ckpt).classifier.eval()
    parser = training.build_parser()
    path = Path(ckpt).with_name("config.yaml")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    config = parser.instantiate(parse(parser, [], values, str(path)))
    batches = list(test_batches(OODDataModule(config.data)))
    with torch.no_grad():
        logits = torch.cat([classifier(images) for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    error = MulticlassCalibrationError(logits.shape[1], n_bins=15)(logits, labels)
    figures = {"accuracy": float((logits.argmax(1) == labels).float().mean()), "ECE": float(error)}
    model = PyTorchModel(classifier, bounds=(0, 1))
    attacks = {
        "FGSM": LinfFastGradientAttack(),
        "PGD": LinfProjectedGradientDescentAttack(steps=20),
    }
    for name, attack in attacks.items():
        fooled = torch.cat([attack(model, x, y, epsilons=[_EPSILON])[2][0] for x, y in batches])
        figures[f"accuracy under {name}"] = float(1 - fooled.float().mean())
    return figures


def test_batches(data: OODDataModule) -> Iterable[tuple[Tensor, Tensor]]:
    """Images and labels of the ID test set."""
    stream = data.id_stream("test")
    positions = torch.arange(len(stream)).split(_BATCH)
    for batch in data.stream_loader(stream, [part.tolist() for part in positions]):
        yield batch["image"], batch["label"]


def table_of(limit: int, figures: dict[str, list[dict[str, float]]]) -> str:
    """A table of means and standard deviations over the seeds."""
    names = list(next(iter(figures.values()))[0])
    lines = [f"## {limit:,} training images", "", f"| arm | {' | '.join(names)} |"]
    lines.append("| --- " * (len(names) + 1) + "|")
    for arm, runs in figures.items():
        cells = [mean_and_deviation([run[name] for run in runs]) for name in names]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def mean_and_deviation(values: list[float]) -> str:
    """Mean ± standard deviation; a single value has none."""
    mean = f"{statistics.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"


if __name__ == "__main__":
    main()
