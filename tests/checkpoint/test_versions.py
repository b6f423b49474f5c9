import pytest

from diffguard.checkpoint.versions import VERSION, upgraded
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
