"""Settings of the detection methods, chosen on validation images by one rule.

    python benchmarks/method_settings.py runs/demo/detector.ckpt runs/methods

tries the settings of `GRIDS`, each method alone, on the ID and OOD *validation* sets. Of each
method, the settings with the highest AUROC, averaged over the OOD sets, are written to
`settings.yaml`, which `diffguard evaluate --config` reads, and all trials to `search.json`. No test
set is opened. Afterwards,

    python benchmarks/method_settings.py runs/demo/detector.ckpt runs/methods --speed

repeats the chosen trials, to measure the images per second on a machine without other load.

    python benchmarks/method_settings.py runs/demo/detector.ckpt runs/methods --methods diffpath

searches for the named methods only. Without `diffguard` among them, its settings are those of the
checkpoint.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from datamodules.evaluation_stream import EvaluationStream
from diffguard.batching import fixed_batch_size
from diffguard.checkpoint.file import read_checkpoint
from diffguard.detector import Detector
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import Program
from diffguard.methods.method import Method
from diffguard.methods.outcomes import outcomes_of
from diffguard.methods.registry import build_methods
from diffguard.settings.plain import completed, from_dict
from diffguard_cli.rankings import mean_auroc, rank_distances
from diffguard_cli.validation import validation_data

# Near-OOD images for validation, which the demo's config lacks.
NEAR = {"turned": "turned:validation"}
_PIXELS = ("l2", "ssim")


def grid(**options: Sequence[Any]) -> list[dict[str, Any]]:
    """All combinations of the values of settings."""
    return [
        dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())
    ]


# Method -> the settings to try: of DiffGuard's sections, or of the method's own section.
GRIDS: dict[str, list[dict[str, Any]]] = {
    "diffguard": [
        {"inversion": {"depth": depth}, "classifier_free": {"scale": scale}}
        for depth, scale in itertools.product((0.5, 0.9), (1.5, 3.0))
    ],
    "guidance_norm": [{}],
    "diffpath": grid(components=(2, 4, 8, 16)),
    "diffnb": grid(depth=(0.2, 0.4), scale=(1.5, 3.0), distance=("logits_l1", "feature_cosine")),
    "ddpm_ood": grid(levels=(5,), depth=(0.5, 1.0), distances=(["l2"], ["ssim"], ["l2", "ssim"])),
    "lmd": grid(repeats=(5,), squares=(4, 8), distance=_PIXELS),
    "msma": grid(levels=(5, 10), components=(2, 5, 10)),
    "minority": grid(depth=(0.2, 0.4, 0.6, 0.8), distance=_PIXELS),
}


@dataclass(frozen=True)
class Trial:
    """A method with one choice of its settings.

    Attributes:
        settings: The settings.
        auroc: AUROC, averaged over the OOD validation sets.
        distance: The distance or pair of distances of `diffguard` with the highest AUROC; empty
            for other methods.
        passes: Network passes per image.
        rate: Images per second of CPU time of one thread, of the method alone.
    """

    settings: dict[str, Any]
    auroc: float
    distance: list[str]
    passes: float
    rate: float


class Search:
    """Scores the validation sets of a checkpoint with one method at a time, and prints the results.

    Args:
        ckpt: A `detector.ckpt`.
        limit: Images per set.
    """

    def __init__(self, ckpt: Path, limit: int) -> None:
        content = read_checkpoint(ckpt)
        config = content["config"]["data"]
        sets = {**config["ood_validation"], **NEAR}
        self.data = validation_data({**config, "ood_validation": sets}, limit)
        self.models = Detector.from_checkpoint(content).models
        plain = {"baselines": [], "fused": [], "comparator": None, "decision": "diffguard"}
        self.settings: dict[str, Any] = {**completed(content["settings"]), **plain}
        self.batch_size = fixed_batch_size(self.data.read_size)
        self._outcomes: dict[tuple[Program, str], tuple[list[Outcome], float]] = {}
        print("| method | settings | AUROC | passes | images per second |\n" + "| --- " * 5 + "|")

    @torch.inference_mode()
    def trial(self, name: str, choice: dict[str, Any]) -> Trial:
        """Score the validation images with a method and one choice of its settings."""
        methods = list(dict.fromkeys(["diffguard", name]))
        plain = _merged({**self.settings, "methods": methods}, sections_of(name, choice))
        settings = from_dict(plain)
        models = self.models.with_settings(settings)
        method = build_methods(models, {})[-1]
        if name in settings.fitted_methods:
            stream = self.data.id_stream("train", method.images)
            outcomes, _ = self._run(method, f"train {method.images}", stream)
            method = build_methods(models, {name: method.fit(outcomes)})[-1]
        table: dict[str, dict[str, np.ndarray]] = {}
        count, passes, seconds = 0, 0, 0.0
        for images in self.data.evaluation_sets("validation"):
            stream = EvaluationStream([images], self.data.prepare)
            outcomes, duration = self._run(method, images.name, stream)
            began = time.process_time()
            table[images.name] = self._scores(method, outcomes)
            seconds += duration + time.process_time() - began
            count += len(outcomes)
            passes += sum(outcome.passes for outcome in outcomes)
        if name == "diffguard":
            best = rank_distances(table, settings).candidates[0]
            auroc, pair = best.auroc, best.choice
        else:
            auroc, pair = mean_auroc(table, name), []
        trial = Trial(choice, auroc, pair, passes / count, count / seconds)
        text = ", ".join([json.dumps(choice), *pair])
        print(f"| {name} | {text} | {auroc:.4f} | {trial.passes:.0f} | {trial.rate:.1f} |")
        sys.stdout.flush()
        return trial

    def keep(self, trial: Trial) -> dict[str, Any]:
        """Keep a trial of `diffguard`, whose phases other methods share; returns its sections."""
        sections = {**trial.settings, "distance": trial.distance}
        self.settings = _merged(self.settings, sections)
        return sections

    def _run(
        self, method: Method, name: str, stream: EvaluationStream
    ) -> tuple[list[Outcome], float]:
        """The outcomes of a set, and seconds of CPU time; each program is run once."""
        key = (method.program(), name)
        if key not in self._outcomes:
            began, batches = time.process_time(), self.data.stream_loader(stream)
            sampler = method.recipe.sampler
            results = outcomes_of(self.models, sampler, key[0], batches, self.batch_size)
            outcomes = list(results)
            self._outcomes[key] = outcomes, time.process_time() - began
        return self._outcomes[key]

    def _scores(self, method: Method, outcomes: Sequence[Outcome]) -> dict[str, np.ndarray]:
        parts = []
        for begin in range(0, len(outcomes), self.batch_size):
            batch = outcomes[begin : begin + self.batch_size]
            images = torch.stack([outcome.job.image for outcome in batch])
            output = self.models.classify(images, self.batch_size, method.layers)
            parts.append(method.scores(batch, output, self.batch_size))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def sections_of(name: str, choice: dict[str, Any]) -> dict[str, Any]:
    """The sections that a choice of a method's settings changes."""
    if name == "diffguard":
        return choice
    return {name: choice} if choice else {}


def choose(search: Search, output: Path, methods: Sequence[str]) -> None:
    """Try all settings of some methods, and write the best ones."""
    rows: dict[str, list[dict[str, Any]]] = {}
    chosen: dict[str, Any] = {"methods": list(dict.fromkeys(["diffguard", *methods]))}
    for name in methods:
        results = [search.trial(name, choice) for choice in GRIDS[name]]
        best = max(results, key=lambda trial: trial.auroc)
        chosen |= search.keep(best) if name == "diffguard" else sections_of(name, best.settings)
        rows[name] = [asdict(trial) for trial in results]
    text = yaml.safe_dump({"detector": chosen}, sort_keys=False)
    (output / "settings.yaml").write_text(text, encoding="utf-8")
    _write(output / "search.json", rows)


def repeat(search: Search, output: Path) -> None:
    """Repeat the best trial of each method, and write the images per second."""
    rates = {}
    for name, rows in json.loads((output / "search.json").read_text(encoding="utf-8")).items():
        best = max(rows, key=lambda row: row["auroc"])
        trial = search.trial(name, best["settings"])
        rates[name] = trial.rate
        if name == "diffguard":
            search.keep(trial)
    _write(output / "speed.json", rates)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _merged(plain: Mapping[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some keys of their sections replaced."""
    changed = {
        name: {**plain[name], **section} if isinstance(section, dict) else section
        for name, section in sections.items()
    }
    return {**plain, **changed}


def main(argv: Sequence[str]) -> int:
    """Choose settings, or measure the speed of the chosen ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ckpt", type=Path, help="a detector.ckpt")
    parser.add_argument("output", type=Path, help="folder of settings.yaml and search.json")
    parser.add_argument("--limit", type=int, default=100, help="images per validation set")
    parser.add_argument("--speed", action="store_true", help="repeat the chosen trials")
    parser.add_argument("--methods", nargs="+", choices=[*GRIDS], default=[*GRIDS])
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    search = Search(options.ckpt, options.limit)
    if options.speed:
        repeat(search, options.output)
    else:
        choose(search, options.output, options.methods)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
