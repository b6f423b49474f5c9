"""The settings of a detector, which the `detector` section of a config holds.

They are data classes that check themselves. The defaults are sound choices; `configs/paper_*.yaml`
hold the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from diffguard.engine.acceleration import CompileMode
from diffguard.errors import UserError
from diffguard.scores.baseline_table import FITTED_BASELINES, PARAMETERS, check_names, idle_keys
from diffguard.scores.conformal import check_share
from diffguard.scores.fusion_rule import (
    DIFFGUARD,
    FUSION,
    FUSION_BASELINES,
    UNGUIDED,
    FusionRule,
)
from diffguard.settings.fusion import FusionSettings, check_cascade, check_compared, check_tandem
from diffguard.settings.guidance import ClassifierFreeSettings, GuidanceSettings
from diffguard.settings.methods import FITTED, SECTIONS, check_methods, check_sections
from diffguard.settings.mixture_methods import DiffPathSettings, MsmaSettings
from diffguard.settings.names import check_distances, check_fused
from diffguard.settings.reconstruction_methods import (
    DdpmOodSettings,
    DiffNbSettings,
    LmdSettings,
    MinoritySettings,
)
from diffguard.settings.sections import (
    ComparisonSettings,
    EarlyStopSettings,
    InversionSettings,
    SamplerSettings,
    SynthesisSettings,
    check_masking,
    check_start,
)
from diffguard.settings.values import check_distinct, check_least, check_values, refuse_unused

# The score that decides is chosen by how well ID images are reconstructed.
AUTO = "auto"

Combine = Literal["mean", "tandem"]
LabelSource = Literal["prediction", "oracle"]

BASELINES = ("msp", "mls", "energy", "knn", "vim")


@dataclass(frozen=True)
class DetectorSettings:
    """Everything that defines a score, apart from the networks.

    Attributes:
        sampler: Solver, timesteps and noise levels.
        inversion: Depth and condition.
        early_stop: Adaptive early stop.
        synthesis: Where synthesis starts.
        guidance: How synthesis is guided, by the form of guidance whose settings it is.
        label: Label to guide toward: the prediction, or the oracle of the studies (true label of
            ID images, a random one for OOD images).
        methods: The detection methods on the diffusion model; `diffguard` and further ones. All
            run in the same batches.
        distances: Distances that are computed between each image and its guided reconstruction.
        unguided: Distances that are computed between the unguided and the guided reconstruction
            (which costs the unguided passes).
        comparison: How the classifier's outputs are compared.
        distance: What `diffguard` stands for: a name in `distances`, or `unguided/NAME`, or several
            of them, each then normalized on ID validation images.
        combine: How several are combined: by their `mean`, or in `tandem`, where the first decides
            clear cases and the next the rest.
        tandem_band: Tandem: shares of the ID validation images between which a case is in doubt.
        baselines: Post-hoc detectors that are scored as well; `diffguard baselines` lists them.
        diffpath: Settings of the method `diffpath`.
        diffnb: Settings of the method `diffnb`.
        ddpm_ood: Settings of the method `ddpm_ood`.
        lmd: Settings of the method `lmd`.
        minority: Settings of the method `minority`.
        msma: Settings of the method `msma`.
        fused: The scores that `fusion` combines with `diffguard`: some of the baselines and of the
            further methods.
        comparator: The baselines that `fusion_baselines` combines, to compare `fusion` with: the
            best ones without `diffguard`. Defaults to `fused`.
        fusion: The rule by which they are combined.
        decision: The score that decides on new images; `auto` is `fusion` if the diffusion model
            reconstructs ID validation images well, and otherwise `fusion_baselines`.
        accept: Share of ID images to accept, at least on average, see `scores.conformal`.
        gen_classes: GEN: most classes over which it averages, the most likely ones.
        knn_k: Neighbors of the KNN baseline among all ID training images. If `reference_images`
            keeps a share of them, the same share of the neighbors is used.
        reference_images: Most ID training images that the feature baselines are fitted on.
        vim_dim: Principal dimensions of the ViM baseline; defaults to half of the features.
        nci_alpha: NCI: weight of the norm of the features, at least 0.
        react_percentile: ReAct: share of the activations of ID training images below the limit.
        ash_percentile: ASH: share of the activations of an image that are set to 0.
        scale_percentile: SCALE: share of the activations that are not among the largest.
        dice_sparsity: DICE: share of the weights of the last layer that are set to 0.
        odin_temperature: ODIN: divisor of the logits, at least 1.
        odin_step: ODIN: size of the step on an image in [0, 1].
        perceptual_weights: Folder or file with the backbone weights of LPIPS and DISTS.
        compile: Compile the diffusion network, see `engine/acceleration.py`. Changes no score
            beyond rounding, as does `channels_last`. With `auto`, a scoring run of the commands
            compiles it if this saves at least a minute; in Python, `auto` does not compile.
        channels_last: Keep the diffusion network in channels-last memory format.

    Raises:
        UserError: For a value that is unknown, out of range or without effect, and for settings
            that contradict each other.
    """

    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    inversion: InversionSettings = field(default_factory=InversionSettings)
    early_stop: EarlyStopSettings = field(default_factory=EarlyStopSettings)
    synthesis: SynthesisSettings = field(default_factory=SynthesisSettings)
    guidance: GuidanceSettings = field(default_factory=ClassifierFreeSettings)
    label: LabelSource = "prediction"
    methods: list[str] = field(default_factory=lambda: ["diffguard"])
    distances: list[str] = field(default_factory=lambda: ["logits_l1", "feature_cosine", "l2"])
    unguided: list[str] = field(default_factory=list)
    comparison: ComparisonSettings = field(default_factory=ComparisonSettings)
    distance: list[str] = field(default_factory=lambda: ["logits_l1"])
    combine: Combine = "mean"
    tandem_band: list[float] = field(default_factory=lambda: [0.5, 0.99])
    baselines: list[str] = field(default_factory=lambda: list(BASELINES))
    diffpath: DiffPathSettings = field(default_factory=DiffPathSettings)
    diffnb: DiffNbSettings = field(default_factory=DiffNbSettings)
    ddpm_ood: DdpmOodSettings = field(default_factory=DdpmOodSettings)
    lmd: LmdSettings = field(default_factory=LmdSettings)
    minority: MinoritySettings = field(default_factory=MinoritySettings)
    msma: MsmaSettings = field(default_factory=MsmaSettings)
    fused: list[str] = field(default_factory=lambda: ["knn"])
    comparator: list[str] | None = None
    fusion: FusionSettings = field(default_factory=FusionSettings)
    decision: str = "fusion"
    accept: float = 0.95
    gen_classes: int = 100
    knn_k: int = 50
    reference_images: int = 10_000
    vim_dim: int | None = None
    nci_alpha: float = 0.0
    react_percentile: float = 0.9
    ash_percentile: float = 0.65
    scale_percentile: float = 0.85
    dice_sparsity: float = 0.9
    odin_temperature: float = 1000.0
    odin_step: float = 0.0014
    perceptual_weights: str | None = None
    compile: CompileMode | Literal["auto"] = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        check_values(self, "detector")
        if not isinstance(self.guidance, GuidanceSettings):
            raise UserError(
                "guidance must be ClassifierFreeSettings or ClassifierGuidanceSettings, got "
                f"{self.guidance!r}"
            )
        check_start(self.sampler, self.synthesis)
        for key in ("methods", "distances", "unguided", "distance", "baselines"):
            check_distinct(getattr(self, key), f"detector.{key}")
        check_names(self.baselines)
        check_methods(self.methods, self.sampler.solver, sees_both=self.guidance.sees_both)
        sections = {name: getattr(self, name) for name in SECTIONS}
        check_sections(sections, self.methods)
        check_distances(self.distances, self.unguided, self.distance)
        check_masking(self.comparison, [*self.distances, *self.unguided])
        check_tandem(self.combine, self.distance, self.tandem_band)
        if self.combine != "tandem":
            refuse_unused(self, "detector", {"tandem_band": "detector.combine tandem"})
        self._check_decision()

    @property
    def needs_reference(self) -> bool:
        """Whether a baseline is fitted on ID training images."""
        return any(name in FITTED_BASELINES for name in self.baselines)

    @property
    def baseline_parameters(self) -> dict[str, float | None]:
        """Hyper-parameter of a baseline -> its value."""
        return {key: getattr(self, key) for key in PARAMETERS}

    @property
    def fitted_methods(self) -> list[str]:
        """The methods that are fitted on ID training images."""
        return [name for name in self.methods if name in FITTED]

    @property
    def reconstruction_distances(self) -> list[str]:
        """All distances between images and reconstructions, each once."""
        sections = [getattr(self, name) for name in SECTIONS if name in self.methods]
        of_methods = [name for section in sections for name in section.distance_names]
        return list(dict.fromkeys([*self.distances, *self.unguided, *of_methods]))

    @property
    def all_distances(self) -> list[str]:
        """All distances that are computed, those of early stop included, each once."""
        return list(dict.fromkeys([*self.reconstruction_distances, *self.early_stop.thresholds]))

    @property
    def fusible(self) -> list[str]:
        """The scores in addition to `diffguard`: those of further methods and of the baselines."""
        return [*(name for name in self.methods if name != DIFFGUARD), *self.baselines]

    def fusion_rule(self) -> FusionRule:
        """How the scores of an image are combined."""
        band = None
        if self.combine == "tandem":
            low, high = self.tandem_band
            band = (low, high)
        cascade = self.fusion.cascade_rule([n for n in self.fused if n in self.baselines])
        return FusionRule(self.distance, self.fusible, self.fused, self.comparator, band, cascade)

    def _check_decision(self) -> None:
        for key, value in self.baseline_parameters.items():
            PARAMETERS[key].check(value)
        refuse_unused(self, "detector", idle_keys(self.baselines))
        check_fused(self.fused, self.comparator, self.fusible)
        if self.decision in (FUSION, FUSION_BASELINES, AUTO) and not self.fused:
            raise UserError(
                f"detector.decision is {self.decision}, but nothing is fused: name baselines in "
                "detector.fused, or decide by diffguard"
            )
        names = score_names(self)
        if self.decision not in (AUTO, *names):
            raise UserError(
                f"detector.decision: there is no score {self.decision!r}, expected {AUTO} or one "
                f"of {', '.join(names)}"
            )
        rule = self.fusion_rule()
        if rule.cascade is not None:
            decision = FUSION if self.decision == AUTO else self.decision
            check_cascade(rule.cascade.baselines, self.baselines, decision)
            check_compared(rule.compared, self.baselines, "detector.fusion.rule cascade")
        if self.decision == AUTO:
            check_compared(rule.compared, self.baselines, f"detector.decision {AUTO}")
        check_least("detector.reference_images", self.reference_images, 1)
        check_share(self.accept, "detector.accept")


def score_names(settings: DetectorSettings, *, derived: bool = True) -> list[str]:
    """The scores of each image, in the order of the table's columns.

    Args:
        settings: The detector's settings.
        derived: Include those that need calibration: `diffguard` and its fusion.
    """
    plain = [
        *(f"{DIFFGUARD}/{name}" for name in settings.distances),
        *(f"{UNGUIDED}/{name}" for name in settings.unguided),
        *settings.fusible,
    ]
    if not derived:
        return plain
    diffguard, *fusions = settings.fusion_rule().derived
    return [diffguard, *plain, *fusions]
