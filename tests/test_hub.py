"""A detector in a folder of its own, with a model card, as the hub stores it."""

import json
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard

from diffguard import DEMO_IMAGES, Detector, UserError
from tests.helpers.stranger import STRANGER, Stranger
from tests.helpers.tiny_detector import build_detector

ROW = {"score": "fusion", "dataset": "letters", "group": "far", "auroc": 0.98, "n_id": 600}
RESULTS = {"rows": [{**ROW, "fpr95_id_positive": 0.041}, {**ROW, "fpr95_id_positive": 0.5}]}
RESULTS["rows"][1]["score"] = "msp"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The demo detector as a folder of the hub, with figures."""
    root = tmp_path_factory.mktemp("hub")
    (root / "results.json").write_text(json.dumps(RESULTS))
    detector = Detector.load("demo")
    detector.save_pretrained(root / "demo", model_card_kwargs={"results": root / "results.json"})
    return root / "demo"


def test_a_folder_gives_the_same_scores(folder):
    assert {path.name for path in folder.iterdir()} == {"README.md", "detector.ckpt", "config.json"}
    again = Detector.from_pretrained(folder, device="cpu")
    images = list(DEMO_IMAGES)
    assert torch.equal(again(images), Detector.load("demo")(images))


def test_the_card_gives_data_settings_figures_and_threshold(folder):
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "diffguard-lightning"
    detector = Detector.load("demo")
    threshold = detector.calibration.threshold("fusion", 0.95)
    for text in (
        "ID data: digits_0_5",
        "Classes (6): 0, 1, 2, 3, 4, 5",
        "ID validation images: 400",
        f"`fusion` is above {threshold:.6g}",
        "accepts about 95% of new ID images. With 400 ID validation images",
        "| letters | far | 98.0 | 4.1 |",
        "Classifier: `small_cnn`",
        '"steps": 10',
    ):
        assert text in card.text
    assert "50.0" not in card.text


def test_the_folder_is_uploaded(monkeypatch):
    uploads = []

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **options):
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, repo_id, folder_path, **options):
            uploads.append((repo_id, {path.name for path in folder_path.iterdir()}))
            return "url"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert Detector.load("demo").push_to_hub("owner/name") == "url"
    assert uploads == [("owner/name", {"README.md", "config.json", "detector.ckpt"})]

    def fail(*_args, **_options):
        raise ConnectionError("no route")

    monkeypatch.setattr(Api, "create_repo", fail)
    with pytest.raises(UserError, match=r"did not accept owner/name \(.*no route\)"):
        Detector.load("demo").push_to_hub("owner/name")


def test_a_foreign_class_must_be_trusted(models, tmp_path):
    torch.manual_seed(0)
    settings = {"sampler": {"steps": 2}, "distances": ["logits_l1"], "baselines": ["msp"]}
    settings |= {"fused": ["msp"]}
    detector = Detector.from_parts(
        Stranger(3), models("unet_classes"), num_classes=3, kwargs={}, settings=settings
    )
    with pytest.warns(UserWarning, match="ID validation"):
        detector.calibrate([(torch.rand(9, 3, 8, 8), torch.arange(9) % 3)])
    detector.save_pretrained(tmp_path)
    # A config from elsewhere sets no argument.
    (tmp_path / "config.json").write_text(json.dumps({"trusted": [STRANGER], "seed": 3}))
    with pytest.raises(UserError, match="--trusted"):
        Detector.from_pretrained(tmp_path)
    assert Detector.from_pretrained(tmp_path, trusted=STRANGER).seed == 0


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"the hub did not give detector\.ckpt of no/such/folder"):
        Detector.from_pretrained("no/such/folder")
    with pytest.raises(UserError, match=r"detector\.ckpt does not exist"):
        Detector.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="only a calibrated detector can be saved"):
        build_detector(calibrated=False).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"the hub did not give detector\.ckpt of owner/name"):
        Detector.from_pretrained("owner/name", local_files_only=True, cache_dir=tmp_path)
    (tmp_path / "results.json").write_text('{"rows": []}')
    with pytest.raises(UserError, match="has no metrics of fusion, the score that decides"):
        Detector.load("demo").generate_model_card(results=tmp_path / "results.json")
