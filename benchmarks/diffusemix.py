"""A study: what mixtures bring to accuracy, calibration, OOD detection and robustness.

    pip install -e '.[benchmarks]'
    python benchmarks/diffusemix.py runs/diffusemix --limits 200 2000 --seeds 0 1 2

trains classifiers of the digits without augmentation, with standard augmentation, and with MixUp,
CutMix, DiffuseMix or DiffuseMix without fractals in addition to it, and calibrates and evaluates a
detector with each. A diffusion model is trained for each number of training images, on those images
alone; it makes the edits and belongs to all detectors. The edits are checked by the classifier with
standard augmentation of the same number of images and the first seed. Every training of a kind has
the same number of steps, whatever the number of images.

OOD sets and ID test images of the OOD metrics have at most `--test_limit` images, always the same
choice. Reconstructions that several detectors make are computed once. Finished stages are not
repeated, so an interrupted study resumes. `results.md` has the mean and the standard deviation over
the seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import yaml
from detector_figures import SCORES, Figures, classifier_figures, detection_figures
from shared_reconstructions import Memory, shared

from datamodules.ood import OODDataModule
from diffguard.detector import Detector
from diffguard_cli import training
from diffguard_cli.parser import parse

# Arm -> the options of its training.
ARMS: dict[str, list[str]] = {
    "none": ["--classifier.augment", "none"],
    "standard": [],
    "MixUp": ["--classifier.batch_mix", "mixup"],
    "CutMix": ["--classifier.batch_mix", "cutmix"],
    "DiffuseMix": ["--augment.method", "diffusemix"],
    "without fractals": ["--augment.method", "diffusemix", "--augment.fractal_weight", "0"],
}


@dataclass(frozen=True)
class Study:
    """The study's options.

    Attributes:
        folder: Folder of all runs.
        seeds: Seeds of the classifiers.
        classifier_steps: Steps of each training of a classifier.
        diffusion_steps: Steps of each training of a diffusion model.
        test_limit: Most images of each test set for the OOD metrics.
        common: Options of every training.
    """

    folder: Path
    seeds: Sequence[int]
    classifier_steps: int
    diffusion_steps: int
    test_limit: int
    common: Sequence[str]

    def run(self, limit: int) -> dict[str, list[Figures]]:
        """Arm -> the figures of each seed, for one number of training images."""
        self.train_diffusion(limit)
        figures: dict[str, list[Figures]] = {arm: [] for arm in ARMS}
        memory: Memory = {}
        for seed in self.seeds:
            for arm in ARMS:
                run = self._run_of(arm, limit, seed)
                with shared(memory):
                    if not (run / "detector.ckpt").is_file():
                        self.train_detector(run, arm, limit, seed)
                    figures[arm].append(figures_of(run, self.test_limit))
        return figures

    def train_diffusion(self, limit: int) -> None:
        """Train the diffusion model of a number of images, unless it exists."""
        run = self.folder / f"diffusion_{limit}"
        if not (run / "diffusion").is_dir():
            options = self._options(limit, "diffusion", self.diffusion_steps)
            train(run, [*options, "--stages", "[diffusion]"])

    def train_detector(self, run: Path, arm: str, limit: int, seed: int) -> None:
        """Train a classifier, and calibrate a detector with it."""
        stages = "[classifier, calibrate]"
        options = self._options(limit, "classifier", self.classifier_steps) + ARMS[arm]
        if "--augment.method" in options:
            stages = "[augment, classifier, calibrate]"
            judge = self._run_of("standard", limit, self.seeds[0]) / "classifier"
            options += ["--augment.classifier", str(judge / "classifier.safetensors")]
            options += ["--augment.cache", str(self.folder / "edits")]
        diffusion = self.folder / f"diffusion_{limit}" / "diffusion"
        options += ["--diffusion.ckpt", str(diffusion), "--seed", str(seed)]
        train(run, [*options, "--stages", stages])

    def _run_of(self, arm: str, limit: int, seed: int) -> Path:
        return self.folder / f"{arm.lower().replace(' ', '_')}_{limit}_{seed}"

    def _options(self, limit: int, stage: str, steps: int) -> list[str]:
        """Options that train a stage for a number of steps."""
        epochs = max(1, steps // max(1, limit // _train_batch_size(self.common)))
        return [
            *self.common,
            *("--data.train_limit", str(limit)),
            *(f"--{stage}.max_epochs", str(epochs)),
            *(f"--{stage}.val_every", str(epochs)),
        ]


def _train_batch_size(options: Sequence[str]) -> int:
    return training.build_parser().parse_args([*options]).data.train_batch_size


def train(run: Path, options: list[str]) -> None:
    """Train in a new run, or resume it."""
    is_begun = (run / "config.yaml").is_file()
    argv = ["--resume", str(run)] if is_begun else ["--run_dir", str(run), *options]
    if training.main(argv) != 0:
        raise SystemExit(f"{run} was interrupted: start the study again to resume it")


def figures_of(run: Path, test_limit: int) -> Figures:
    """Accuracy, calibration, robustness and OOD detection of a run; computed once."""
    path = run / "study.json"
    if not path.is_file():
        parser = training.build_parser()
        config_file = run / "config.yaml"
        values = yaml.safe_load(config_file.read_text(encoding="utf-8"))
        config = parser.instantiate(parse(parser, [], values, str(config_file)))
        detector = Detector.load(str(run / "detector.ckpt"))
        figures = classifier_figures(detector.classifier.eval(), OODDataModule(config.data))
        data = OODDataModule(replace(config.data, limit=test_limit))
        figures |= detection_figures(detector, data, config.trainer, run / "scores")
        path.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def tables_of(limit: int, figures: dict[str, list[Figures]]) -> str:
    """Two tables of means and standard deviations over the seeds, in %."""
    names = list(figures["none"][0])
    is_detection = {name: name.split()[0] in SCORES for name in names}
    lines = [f"### {limit:,} training images", ""]
    for part in (False, True):
        columns = [name for name in names if is_detection[name] == part]
        lines += [f"| arm | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
        for arm, runs in figures.items():
            cells = [spread([run[name] for run in runs]) for name in columns]
            lines.append(f"| {arm} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation in %; a single value alone."""
    text = f"{100 * mean(values):.1f}"
    return f"{text} ± {100 * stdev(values):.1f}" if len(values) > 1 else text


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study and write its results."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="further options are those of train.py",
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limits", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--config", default="digits", help="config of data and recipes")
    parser.add_argument("--classifier_steps", type=int, default=930, help="those of the demo")
    parser.add_argument("--diffusion_steps", type=int, default=1550, help="those of the demo")
    parser.add_argument("--test_limit", type=int, default=300)
    options, training_options = parser.parse_known_args(argv)
    study = Study(
        options.folder,
        options.seeds,
        options.classifier_steps,
        options.diffusion_steps,
        options.test_limit,
        ["--config", options.config, *training_options],
    )
    tables = [tables_of(limit, study.run(limit)) for limit in options.limits]
    text = "\n".join(tables)
    (options.folder / "results.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
