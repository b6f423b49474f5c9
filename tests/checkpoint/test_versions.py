import pytest

from diffguard.checkpoint.versions import VERSION, upgraded
from diffguard.settings.plain import from_dict
from diffguard.storage.trust import import_class


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("diffguard.networks.SmallCNN", "diffguard.classifiers.small_cnn.SmallCNN"),
        (
            "diffguard.networks_openood.ResNet18_32x32",
            "diffguard.classifiers.openood.ResNet18_32x32",
        ),
        ("torch.nn.Linear", "torch.nn.Linear"),
    ],
)
def test_classes_of_the_first_version_are_found_at_their_present_paths(old, new):
    spec = {"arch": old, "num_classes": 3}
    content = {"version": 1, "classifier": {"spec": spec}, "config": {"classifier": spec}}
    current = upgraded(content)
    assert current["version"] == VERSION
    assert current["classifier"]["spec"] == {"arch": new, "num_classes": 3}
    assert current["config"]["classifier"]["arch"] == new
    assert import_class(new).__name__ == new.rpartition(".")[2]
    assert spec["arch"] == old  # the content that was given is left as it is


@pytest.mark.parametrize(
    ("classes", "baselines", "change"),
    [
        (1000, ["gen"], {"gen_classes": 1000}),
        (100, ["gen"], {}),
        # Another evaluation may add `gen`.
        (1000, ["msp"], {"gen_classes": 1000}),
    ],
)
def test_gen_of_an_earlier_version_averages_over_all_classes(classes, baselines, change):
    settings = {"baselines": baselines, "guidance": "classifier_free"}
    spec = {"arch": "resnet50", "num_classes": classes}
    content = {"version": 3, "classifier": {"spec": spec}, "settings": settings}
    current = upgraded({**content, "config": {"detector": settings, "seed": 1}})
    assert current["settings"] == {**settings, **change}
    assert current["config"] == {"detector": {**settings, **change}, "seed": 1}
    # A user may replace the baselines of such a checkpoint.
    assert from_dict({**current["settings"], "baselines": ["knn"]}).baselines == ["knn"]
