"""Edited checkpoints give one line before memory is allocated or anything is built."""

import zipfile

import pytest
import torch

from diffguard.checkpoint import build as checkpoint_build
from diffguard.checkpoint.file import read_checkpoint
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.settings.plain import with_guidance
from diffguard.storage.weights import load_tensors
from tests.helpers.saved_detector import CLASSIFIER, CONFIG, DIFFUSION, build
from tests.helpers.tiny_detector import CLASSES


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "detector.ckpt"
    build().save(path, CLASSIFIER, DIFFUSION, CONFIG)
    return path


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def scores(content):
    return content["calibration"]["scores"]


def first(content):
    return next(iter(scores(content)))


def model_at(path):
    return {"path": path, "inside": False, "options": {}, "sha256": "0" * 64}


EDITS = {
    **{
        f"no {key}": lambda c, key=key: c.pop(key)
        for key in ("settings", "config", "seed", "image")
    },
    **{
        f"{key} a number": lambda c, key=key: c.update({key: 7})
        for key in ("settings", "config", "classifier", "diffusion", "calibration", "reference")
    },
    "seed text": lambda c: c.update(seed="0"),
    "seed huge": lambda c: c.update(seed=2**70),
    "settings of text": lambda c: c["settings"].update(sampler="a.b"),
    "setting of another type": lambda c: c["settings"].update(knn_k="5"),
    "setting NaN": lambda c: c["settings"].update(accept=float("nan")),
    "setting a tensor": lambda c: c["settings"].update(accept=torch.ones(1)),
    "unknown choice": lambda c: c["settings"]["sampler"].update(spacing="odd"),
    "crops by the million": lambda c: c["settings"].update(
        with_guidance(c["settings"], "classifier", {"crops": {"number": 10**6}})
    ),
    "a form of guidance": lambda c: c["settings"].update(guidance="free"),
    "a list of forms": lambda c: c["settings"].update(guidance=["classifier"]),
    "settings of both forms": lambda c: c["settings"].update(classifier={}),
    "guidance of a former version": lambda c: c["settings"].update(guidance={"kind": "classifier"}),
    "deep config": lambda c: c.update(config=nested(150)),
    "image side": lambda c: c["image"].update(size=20_000),
    "image channels": lambda c: c["image"].update(channels=7),
    "no scores": lambda c: scores(c).clear(),
    "one score": lambda c: scores(c).update({k: v[:1] for k, v in scores(c).items()}),
    "empty scores": lambda c: scores(c).update({k: v[:0] for k, v in scores(c).items()}),
    "constant scores": lambda c: scores(c)[first(c)].zero_(),
    "NaN score": lambda c: scores(c)[first(c)].view(-1)[3:4].fill_(float("nan")),
    "scores of other lengths": lambda c: scores(c).update({first(c): torch.arange(9.0).double()}),
    "scores of two dimensions": lambda c: scores(c).update({first(c): torch.rand(30, 2).double()}),
    "scores with gradient": lambda c: scores(c)[first(c)].requires_grad_(),
    "features with gradient": lambda c: c["reference"]["features"].requires_grad_(),
    "scores to be negated": lambda c: scores(c).update({first(c): torch._neg_view(torch.rand(30))}),
    "no diffguard score": lambda c: scores(c).pop("diffguard"),
    "scores in float32": lambda c: scores(c).update({first(c): torch.rand(30)}),
    "a score is missing": lambda c: scores(c).pop("knn"),
    "no decision": lambda c: scores(c).pop("fusion"),
    "features NaN": lambda c: c["reference"]["features"].fill_(float("nan")),
    "features of another width": lambda c: c["reference"].update(features=torch.rand(12, 5)),
    "features of one dimension": lambda c: c["reference"].update(features=torch.rand(12)),
    "other number of labels": lambda c: c["reference"].update(labels=torch.zeros(5).long()),
    "labels beyond the classes": lambda c: c["reference"]["labels"].fill_(9),
    "share of 0": lambda c: c["reference"].update(share=0.0),
    "floating labels": lambda c: c["reference"].update(labels=torch.zeros(12)),
    "variance": lambda c: c["classifier"]["state"].update(
        {n: v - 5 for n, v in c["classifier"]["state"].items() if n.endswith("running_var")}
    ),
    "meta": lambda c: c["classifier"]["state"].update({"fc.bias": torch.empty(3, device="meta")}),
    "sparse": lambda c: c["classifier"]["state"].update({"fc.bias": torch.ones(3).to_sparse()}),
    "expanded": lambda c: c["classifier"]["state"].update(a=torch.ones(1).expand(10**9)),
    "mean text": lambda c: c["classifier"]["spec"].update(mean=["0"]),
    "std zero": lambda c: c["classifier"]["spec"].update(std=[0.0]),
    "std NaN": lambda c: c["classifier"]["spec"].update(std=[float("nan")]),
    "size huge": lambda c: c["classifier"]["spec"].update(size=[8000, 8000]),
    "classes": lambda c: c["classifier"]["spec"].update(num_classes=10**6),
    "names": lambda c: c["classifier"]["spec"].update(class_names=["a"] * 10**6),
    "width": lambda c: c["classifier"]["spec"].update(kwargs={"width": 900_000}),
    "spec a list": lambda c: c["classifier"].update(spec=[]),
    "state a list": lambda c: c["classifier"].update(state=[]),
    "layers": lambda c: c["diffusion"]["spec"]["config"].update(layers_per_block=10**9),
    "null class among the classes": lambda c: c["diffusion"]["spec"].update(null_class=1),
    "null class": lambda c: c["diffusion"]["spec"].update(null_class=-3),
    "side": lambda c: c["diffusion"]["spec"]["config"].update(sample_size=0),
    "side text": lambda c: c["diffusion"]["spec"]["config"].update(sample_size="8"),
    "label without embedding": lambda c: c["diffusion"]["spec"].update(null_class=CLASSES + 1),
    "images of the diffusion model": lambda c: c["diffusion"]["spec"].update(image_size=7),
    "long name": lambda c: c["classifier"]["spec"].update(arch="a." * 5000 + "b"),
    "long layer": lambda c: c["classifier"]["spec"].update(feature_layer="fc." * 5000),
    "context": lambda c: c["diffusion"]["spec"].update(context=[10**6, 10**6, 10**6]),
    "no context": lambda c: c["diffusion"]["spec"].update(context=[1]),
    "no model": lambda c: c["diffusion"].update(state=None),
    "steps": lambda c: c["diffusion"]["spec"]["scheduler"].update(num_train_timesteps=10**9),
    "no steps": lambda c: c["diffusion"]["spec"]["scheduler"].update(num_train_timesteps=0),
    "betas": lambda c: c["diffusion"]["spec"]["scheduler"].update(trained_betas=[[0.1]]),
    "beta": lambda c: c["diffusion"]["spec"]["scheduler"].update(beta_end="0.1"),
    "betas beyond one": lambda c: c["diffusion"]["spec"]["scheduler"].update(beta_end=3.0),
    "scheduler class": lambda c: c["diffusion"]["spec"]["scheduler"].update(_class_name="utils"),
    "noisy classifier": lambda c: c.update(noisy_classifier={"fc.bias": torch.ones(3)}),
    "hub": lambda c: c["diffusion"].update(
        reference={"path": "a/b", "inside": False, "options": {}, "sha256": "0" * 64}
    ),
    "memory of the process": lambda c: c["diffusion"].update(
        state=None, reference=model_at("/proc/self/mem")
    ),
    "long path": lambda c: c["diffusion"].update(state=None, reference=model_at("x" * 4000)),
    "unknown option": lambda c: c["diffusion"].update(
        state=None, reference={**model_at("x"), "options": {"no_such": 1}}
    ),
    "outside": lambda c: c["diffusion"].update(
        reference={"path": "../../x", "inside": True, "options": {}, "sha256": "0" * 64}
    ),
    "options": lambda c: c["diffusion"].update(
        reference={"path": "x", "inside": True, "options": {"image_size": "1"}, "sha256": "0" * 64}
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_checkpoints_give_one_line(saved, tmp_path, edit, monkeypatch):
    import huggingface_hub

    def refused(*_, **options):
        if not options.get("local_files_only"):
            raise AssertionError("asked the hub because of what a file says")
        raise OSError("not in the cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    content = read_checkpoint(saved)
    EDITS[edit](content)
    path = tmp_path / "bad.ckpt"
    torch.save(content, path)
    with pytest.raises(UserError) as caught:
        Detector.load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_an_internal_error_is_not_reported_as_a_damaged_checkpoint(saved, monkeypatch):
    def broken(*_args, **_options):
        raise AttributeError("a mistake")

    monkeypatch.setattr(checkpoint_build, "build_classifier", broken)
    with pytest.raises(AttributeError, match="a mistake"):
        Detector.load(saved)


def test_files_that_grow_are_refused(saved, tmp_path):
    deflated = tmp_path / "deflated.pt"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    with pytest.raises(UserError, match="compressed archive"):
        load_tensors(deflated)

    class Reserve:
        def __reduce__(self):
            return bytearray, (10,)

    torch.save({"a": Reserve()}, tmp_path / "reserve.pt")
    with pytest.raises(UserError, match="asks for bytearray"):
        load_tensors(tmp_path / "reserve.pt")

    shared = torch.zeros(2**20)
    torch.save({str(i): shared[:] for i in range(200)}, tmp_path / "shared.pt")
    with pytest.raises(UserError, match="more than the file holds"):
        load_tensors(tmp_path / "shared.pt")

    bomb = []
    for _ in range(40):
        bomb = [bomb, bomb]
    torch.save({"a": bomb}, tmp_path / "bomb.pt")
    with pytest.raises(UserError, match="too many values"):
        load_tensors(tmp_path / "bomb.pt")
