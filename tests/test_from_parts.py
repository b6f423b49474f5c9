"""A detector from a user's classifier and diffusion model: built, calibrated, saved, loaded."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils.data import TensorDataset
from torchvision.transforms._presets import ImageClassification

from diffguard import Detector, UserError
from diffguard.checkpoint.file import read_checkpoint
from diffguard.classifiers.small_cnn import SmallCNN
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.formats import load_denoiser
from diffguard_cli.evaluation import main
from diffguard_cli.stored_config import stored_config
from tests.helpers.stranger import STRANGER, Stranger
from tests.helpers.tiny_models import denoiser_of, two_layers
from tests.helpers.tiny_project import write_images

NAMES = ["cat", "dog", "fox"]
SETTINGS = {
    "sampler": {"steps": 4},
    "distances": ["logits_l1"],
    "baselines": ["msp", "knn"],
    "knn_k": 3,
}
IMAGES = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(5))
DATA = TensorDataset(IMAGES, torch.arange(20) % 3)
pytestmark = pytest.mark.filterwarnings("ignore:with only", "ignore:the classifier")


def build(classifier, diffusion, **options):
    options = {"class_names": NAMES, **options}
    return Detector.from_parts(classifier, diffusion, settings=SETTINGS, **options)


def seeded(make):
    torch.manual_seed(0)
    return make()


def resnet():
    return seeded(lambda: torchvision.models.resnet18(num_classes=3))


def test_the_lines_of_the_readme(models, tmp_path):
    preset = ImageClassification(crop_size=32, resize_size=40)
    detector = build(resnet(), models("unet_classes"), preprocess=preset)
    assert (detector.image_size, detector.image_channels) == (8, 3)
    assert (detector.classifier.size, detector.classifier.resize) == ((32, 32), 40)
    assert detector.classifier.feature_layer == "fc"
    detector.calibrate(DATA, reference=DATA)
    path = tmp_path / "detector.ckpt"
    detector.save(path)
    again = Detector.load(path)
    assert torch.equal(again(IMAGES), detector(IMAGES))
    verdict = again.predict(IMAGES[0])[0]
    assert verdict.class_name in NAMES
    content = read_checkpoint(path)
    assert content["classifier"]["spec"]["arch"] == "torchvision/resnet18"
    assert stored_config(content, str(path))["data"]["class_names"] == NAMES


def test_a_large_diffusion_model_is_referred_to(models, tmp_path, monkeypatch):
    monkeypatch.setattr("diffguard.denoisers.assembly.LARGE", 0)
    detector = build(resnet(), models("unet_classes"))
    detector.calibrate(DATA, reference=DATA)
    path = tmp_path / "run" / "detector.ckpt"
    path.parent.mkdir()
    detector.save(path)
    assert read_checkpoint(path)["diffusion"]["state"] is None
    again = Detector.load(path)
    again.save(tmp_path / "again.ckpt")
    assert read_checkpoint(tmp_path / "again.ckpt")["diffusion"]["state"] is None
    assert torch.equal(Detector.load(tmp_path / "again.ckpt")(IMAGES), detector(IMAGES))
    # The command line judges images with it too.
    write_images(tmp_path / "photos", 3, "dots", 0)
    options = ["--images", str(tmp_path / "photos"), "--trainer.progress", "false"]
    assert main(["--ckpt", str(path), *options]) == 0
    assert (path.parent / "images" / "photos" / "images.csv").is_file()


def test_a_hub_id_is_downloaded_at_its_revision(models, monkeypatch):
    downloads = []

    def download(name, revision, **_):
        downloads.append((name, revision))
        return str(models("unet_classes"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    torch.manual_seed(0)
    detector = build(Stranger(3), "owner/name@v1", kwargs={})
    assert downloads == [("owner/name", "v1")]
    assert (detector.image_size, detector.denoiser.num_classes) == (8, 3)


@pytest.mark.parametrize("name", ["./nope", "../nope", "/nope"])
def test_a_path_that_does_not_exist_is_not_a_hub_id(name):
    with pytest.raises(UserError, match=f"^{name} does not exist"):
        build(Stranger(3), name, kwargs={})


NETWORKS = {
    "timm/test_resnet.r160_in1k": (lambda: timm.create_model("test_resnet", num_classes=3), {}),
    STRANGER: (lambda: Stranger(3, width=5), {"kwargs": {"width": 5}}),
    "small_cnn": (
        lambda: SmallCNN(3, in_channels=3, width=4),
        {"arch": "small_cnn", "kwargs": {"width": 4}},
    ),
}


@pytest.mark.parametrize("arch", NETWORKS)
def test_what_can_be_built_again_is_recognized(arch, models):
    make, options = NETWORKS[arch]
    detector = build(seeded(make), models("unet_classes"), **options)
    assert detector.origin.classifier.arch == arch


def test_a_class_of_the_user_is_saved_and_must_be_trusted(models, tmp_path):
    network = seeded(lambda: Stranger(3, width=5))
    detector = build(network, models("unet_classes"), kwargs={"width": 5}, mean=[0.5], std=[0.25])
    detector.calibrate(DATA, reference=DATA)
    detector.save(tmp_path / "detector.ckpt")
    with pytest.raises(UserError, match="--trusted"):
        Detector.load(tmp_path / "detector.ckpt")
    again = Detector.load(tmp_path / "detector.ckpt", trusted=STRANGER)
    assert torch.equal(again(IMAGES), detector(IMAGES))


def test_what_cannot_be_built_again_is_not_saved_and_the_rest_works(models):
    class Local(Stranger):
        pass

    detector = build(Local(3), denoiser_of(two_layers(3, 8, 3), 3), num_classes=3)
    detector.calibrate(DATA, reference=DATA)
    assert len(detector.predict(IMAGES)) == 20
    with pytest.raises(UserError, match=r"classifier Local cannot be saved.* name its arch, or"):
        detector.save("x.ckpt")
    spec = ClassifierSpec(STRANGER, 3)
    with pytest.raises(
        UserError, match=r"PixelDenoiser cannot be .* DiffusionSpec with its import"
    ):
        detector.save("x.ckpt", classifier_spec=spec)
    with pytest.raises(UserError, match="class Local cannot be imported"):
        build(Local(3), models("unet_classes"), kwargs={})
    with pytest.raises(UserError, match=r"differs in stem.* name the arguments"):
        build(Stranger(3, width=5), models("unet_classes"), kwargs={})


def test_a_spec_needs_weights(models, tmp_path):
    spec = ClassifierSpec("small_cnn", 3, {"width": 4}, class_names=NAMES)
    network = seeded(NETWORKS["small_cnn"][0])
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    options = {"class_names": None}
    with pytest.raises(UserError, match="a ClassifierSpec has no weights: give a file"):
        build(spec, models("unet_classes"), **options)
    diffusion = load_denoiser(models("unet_classes"))
    detector = build(spec, diffusion, weights=tmp_path / "weights.pt", **options)
    detector.calibrate(DATA, reference=DATA)
    detector.save(tmp_path / "detector.ckpt")
    assert torch.equal(Detector.load(tmp_path / "detector.ckpt")(IMAGES), detector(IMAGES))
    with pytest.raises(UserError, match="mean is for a plain module: a ClassifierSpec defines it"):
        build(spec, diffusion, weights=tmp_path / "weights.pt", mean=[0.5], **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": None}, "give class_names or num_classes"),
        ({"class_names": ["cat"]}, "no last layer with 1 outputs .* in feature_layer"),
        ({"feature_layer": "nope"}, "no layer 'nope'; its parts are"),
        ({"preprocess": len}, "give size, resize, interpolation, mean and std"),
        ({"means": [0.5]}, "'means' is not an argument; further ones are channels, size"),
        ({"weights": "x.pt"}, "weights are for a ClassifierSpec"),
        ({"classifier": nn.Linear(4, 3)}, "number of channels is unknown: give channels"),
        ({"classifier": 3}, "must be a torch.nn.Module or a ClassifierSpec, got int"),
        ({"diffusion": "no/thing/here"}, "no/thing/here does not exist: expected"),
        ({"diffusion": nn.Linear(3, 3)}, "Linear is not a denoiser, it has no num_classes"),
        ({"image_size": 9}, "image_size is 9, but the diffusion model was made for 8"),
    ],
)
def test_what_is_missing_or_wrong_is_named(changes, message):
    options = {
        "classifier": Stranger(3),
        "diffusion": denoiser_of(two_layers(3, 8, 3), 3),
        **changes,
    }
    with pytest.raises(UserError, match=message) as caught:
        build(**options)
    assert "\n" not in str(caught.value)
