"""The detection methods that a detector can have in addition to its baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffguard.diffusion.solver import EXACT, SolverName
from diffguard.errors import UserError
from diffguard.settings.method_section import MethodSettings

# Those with a section of their own.
SECTIONS = ("diffpath", "diffnb", "ddpm_ood", "lmd", "minority", "msma")
METHODS = ("diffguard", *SECTIONS, "guidance_norm")
# Those that are fitted on ID training images.
FITTED = ("diffpath", "ddpm_ood", "msma")
# Those that pass images to the diffusion model without a label.
UNLABELED = ("ddpm_ood", "lmd", "minority", "msma")


def check_methods(methods: Sequence[str], solver: SolverName, *, sees_both: bool) -> None:
    """Refuse methods that are unknown or do not fit the guidance or the solver.

    Args:
        methods: The selected methods.
        solver: Name of the solver.
        sees_both: Whether guided steps take passes both without and with the label.

    Raises:
        UserError: Naming the method.
    """
    for name in methods:
        if name not in METHODS:
            raise UserError(
                f"detector.methods names {name!r}, expected some of {', '.join(METHODS)}"
            )
    if "diffguard" not in methods:
        names = ", ".join(["diffguard", *methods])
        raise UserError(
            "detector.methods must name diffguard, which the others are added to, got "
            f"[{', '.join(methods)}]: write [{names}]"
        )
    if "lmd" in methods and solver in EXACT:
        raise UserError(
            f"detector.methods lmd replaces pixels between steps, which the solver "
            f"{solver} does not allow: set detector.sampler.solver to another one, such as "
            "ddim"
        )
    if "minority" in methods and solver in ("pndm", "edict"):
        raise UserError(
            f"detector.methods minority denoises in one network pass, and the solver "
            f"{solver} begins with two: set detector.sampler.solver to another one, such "
            "as ddim"
        )
    if "guidance_norm" in methods and not sees_both:
        raise UserError(
            "detector.methods guidance_norm needs passes both without and with the label: set "
            "detector.guidance to classifier_free and its scale to another value than 0 and 1, "
            "or leave it out"
        )


def check_sections(sections: Mapping[str, MethodSettings], methods: Sequence[str]) -> None:
    """Refuse settings of methods that are not selected.

    Args:
        sections: Method -> its section.
        methods: The selected methods.

    Raises:
        UserError: Naming the section.
    """
    for name, section in sections.items():
        if name not in methods and section != type(section)():
            raise UserError(
                f"detector.{name} has no effect here: leave it out, or add {name} to "
                "detector.methods"
            )
