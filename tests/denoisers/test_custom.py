"""A denoiser of the user's own, from the page that shows one: config, checkpoint, scores."""

import re

import pytest
import torch
from torch import nn

import evaluate
import train
from diffguard import Detector, DiffusionSpec
from diffguard.denoisers.custom import build_custom_denoiser, cast_weights
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.errors import UserError
from tests.helpers.pages import PAGE
from tests.helpers.tiny_project import write_config, write_data

CLASS = "page_denoiser.GaussianDenoiser"


@pytest.fixture(scope="module", autouse=True)
def page_denoiser(tmp_path_factory):
    """The class of the page, in a module that Python can import."""
    code = re.search(r"class GaussianDenoiser.*?(?=\n\n\n)", PAGE, re.DOTALL).group(0)
    imports = (
        "import torch\nfrom torch import nn\n"
        "from diffguard.diffusion.schedule import NoiseSchedule\n"
    )
    folder = tmp_path_factory.mktemp("modules")
    (folder / "page_denoiser.py").write_text(f"{imports}\n\n{code}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("own")
    denoiser = build_custom_denoiser(CLASS, {"classes": 3, "side": 8}, [CLASS])
    denoiser.means.normal_(generator=torch.Generator().manual_seed(0))
    torch.save(denoiser.state_dict(), place / "gaussian.pt")
    diffusion = {
        "network": CLASS,
        "kwargs": {"classes": 3, "side": 8},
        "ckpt": str(place / "gaussian.pt"),
    }
    config = write_config(
        place / "own.yaml",
        write_data(place / "data"),
        diffusion=diffusion,
        stages=["classifier", "calibrate"],
    )
    assert train.main(["--config", str(config), "--run_dir", str(place / "run")]) == 0
    return place / "run"


def test_a_config_names_it_and_its_scores_come_out(run, no_figures):
    ckpt = str(run / "detector.ckpt")
    assert evaluate.main(["--ckpt", ckpt, "--trusted", CLASS]) == 0
    assert len((run / "evaluation" / "scores.csv").read_text().splitlines()) == 1 + 18 + 7 + 9
    detector = Detector.load(ckpt, trusted=[CLASS])
    expected = torch.load(run.parent / "gaussian.pt", weights_only=True)["means"]
    assert torch.equal(detector.denoiser.means, expected)
    assert not detector.denoiser.training


def test_an_object_of_it_is_saved_with_its_import_path(run, tmp_path):
    classifier = Detector.load(run / "detector.ckpt", trusted=[CLASS]).classifier.network
    denoiser = build_custom_denoiser(CLASS, {"classes": 3, "side": 8}, [CLASS])
    denoiser.means.normal_(generator=torch.Generator().manual_seed(1))
    detector = Detector.from_parts(
        classifier,
        denoiser,
        arch="small_cnn",
        kwargs={"width": 4},
        num_classes=3,
        image_channels=1,
        image_size=8,
        settings={
            "sampler": {"steps": 2},
            "distances": ["logits_l1"],
            "baselines": ["msp"],
            "fused": ["msp"],
        },
    )
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with pytest.warns(UserWarning, match="ID validation"):
        detector.calibrate([(images, torch.arange(12) % 3)], progress=False)
    spec = DiffusionSpec(CLASS, {"classes": 3, "side": 8}, {}, 8, 1, num_classes=3)
    detector.save(tmp_path / "detector.ckpt", diffusion_spec=spec)
    with pytest.raises(UserError, match=f"--trusted {CLASS}"):
        Detector.load(tmp_path / "detector.ckpt")
    again = Detector.load(tmp_path / "detector.ckpt", trusted=[CLASS])
    assert torch.equal(again(images), detector(images))


def test_a_dry_run_counts_it(run, capsys):
    ckpt = str(run / "detector.ckpt")
    assert evaluate.main(["--ckpt", ckpt, "--trusted", CLASS, "--dry_run"]) == 0
    assert re.search(r"network GaussianDenoiser +256 ", capsys.readouterr().out)


def test_it_is_built_only_with_consent(run):
    with pytest.raises(UserError, match=f"--trusted {CLASS}"):
        Detector.load(run / "detector.ckpt")


class NoNoise(nn.Module):
    """Lacks what makes a denoiser."""

    def __init__(self, schedule=None):
        super().__init__()
        self.num_classes = self.null_class = None
        self.schedule = schedule or NoiseSchedule.linear()
        self.encode = self.decode = self.preview = self.place_mask = lambda x: x


class NoSchedule(NoNoise):
    def __init__(self):
        super().__init__(schedule=[0.1])

    def predict_noise(self, z_t, t, y):
        raise NotImplementedError


class NullAmongClasses(NoNoise):
    def __init__(self):
        super().__init__()
        self.num_classes, self.null_class = 3, 0
        self.predict_noise = lambda z_t, t, y: z_t


@pytest.mark.parametrize(
    ("path", "kwargs", "message"),
    [
        ("none.Denoiser", {}, "cannot be imported"),
        (f"{__name__}.PAGE", {}, "is not a torch.nn.Module class"),
        (CLASS, {"width": 3}, "cannot be built: .*unexpected keyword argument"),
        (f"{__name__}.NoNoise", {}, "is not a denoiser, it has no predict_noise: expected"),
        (f"{__name__}.NoSchedule", {}, "has no schedule of the class NoiseSchedule"),
        (f"{__name__}.NullAmongClasses", {}, "null class 0 .* one of its labels 0 to 2: reorder"),
    ],
)
def test_a_class_that_is_not_a_denoiser_is_refused(path, kwargs, message):
    with pytest.raises(UserError, match=message) as error:
        build_custom_denoiser(path, kwargs, [path])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ckpt": "absent.pt"}, r"absent\.pt does not exist"),
        ({"kwargs": {"classes": 4, "side": 8}}, "means has shape .* expected"),
        (
            {"kwargs": {"classes": 4, "side": 8}, "ckpt": None},
            "but the diffusion model 4",
        ),
        ({"model": {"image_size": 8}}, "leave out diffusion.model"),
        ({"store": "reference"}, "diffusion.store reference"),
    ],
)
def test_settings_that_do_not_fit_are_refused(run, tmp_path, changes, message):
    diffusion = {
        "network": CLASS,
        "kwargs": {"classes": 3, "side": 8},
        "ckpt": str(run.parent / "gaussian.pt"),
        **changes,
    }
    config = write_config(
        tmp_path / "own.yaml",
        run.parent / "data",
        diffusion=diffusion,
        classifier={"ckpt": str(run / "classifier" / "classifier.safetensors")},
        stages=["calibrate"],
    )
    with pytest.raises(UserError, match=message):
        train.main(["--config", str(config), "--run_dir", str(tmp_path / "run")])


def test_it_is_not_trained_here(run, tmp_path):
    config = write_config(
        tmp_path / "own.yaml", run.parent / "data", diffusion={"network": CLASS, "kwargs": {}}
    )
    argv = ["--config", str(config), "--run_dir", str(tmp_path / "run"), "--stages", "[diffusion]"]
    with pytest.raises(UserError, match="DiffGuard does not train: leave diffusion out of stages"):
        train.main(argv)


def test_half_precision_needs_a_way_to_it():
    denoiser = build_custom_denoiser(CLASS, {}, [CLASS])
    cast_weights(denoiser, torch.float32)
    with pytest.raises(UserError, match=r"no method cast\(dtype\)"):
        cast_weights(denoiser, torch.bfloat16)
