"""Settings of a detector as version 2 of the checkpoint's format holds them."""

from dataclasses import asdict

from diffguard.settings.guidance import CropSettings


def version_2(plain):
    """Plain settings of today with the keys of version 2, in their order."""
    form = plain["guidance"]
    section = plain[form]
    guidance = {
        "kind": form,
        "scale": section["scale"],
        "cam_cut": section.get("cam_cut"),
        "classifier": section.get("model", "protected"),
        "blend": section.get("blend", True),
        "crops": section.get("crops", asdict(CropSettings())),
        **plain["synthesis"],
        "label": plain["label"],
    }
    values = {**plain, "guidance": guidance}
    return {key: values[key] for key in values if key not in ("synthesis", form, "label")}
