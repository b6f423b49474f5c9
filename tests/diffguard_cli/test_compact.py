"""Compact models: small files with rounded weights, which load unchanged."""

import json

import pytest
import torch
from safetensors.torch import load_file

import train
from diffguard import Detector
from diffguard.checkpoint.file import read_checkpoint
from diffguard.errors import UserError
from diffguard.storage.weights import load_tensors
from diffguard_cli import compact
from tests.helpers.tiny_project import write_config

WEIGHTS = ("classifier/classifier", "diffusion/unet/diffusion_pytorch_model")


@pytest.fixture
def compact_run(tmp_path, run_folder):
    compact.compact_models(run_folder, tmp_path / "kept", shard_bytes=2000)
    return tmp_path / "kept"


@pytest.mark.parametrize("name", WEIGHTS)
def test_shards_contain_the_weights_in_bfloat16(compact_run, run_folder, name):
    original = load_file(run_folder / f"{name}.safetensors")
    files = sorted(compact_run.glob(f"{name}-*.safetensors"))
    assert len(files) > 1
    largest = max(2 * value.numel() for value in original.values())
    assert max(sum(v.nbytes for v in load_file(f).values()) for f in files) <= max(2000, largest)
    tensors = load_tensors(compact_run / f"{name}.safetensors.index.json")
    assert tensors.keys() == original.keys()
    for key, value in original.items():
        expected = value.to(torch.bfloat16) if value.is_floating_point() else value
        assert torch.equal(tensors[key], expected)


def test_small_weights_are_one_file_and_the_command_prints_the_size(tmp_path, run_folder, capsys):
    assert compact.main([str(run_folder), str(tmp_path / "kept")]) == 0
    files = [p for p in (tmp_path / "kept").rglob("*") if p.is_file()]
    size = sum(path.stat().st_size for path in files)
    assert f"kept, {size / 1e6:.1f} MB" in capsys.readouterr().out
    assert {p.name for p in files if p.suffix == ".safetensors"} == {
        "classifier.safetensors", "diffusion_pytorch_model.safetensors",
    }  # fmt: skip
    with pytest.raises(UserError, match="already exists"):
        compact.main([str(run_folder), str(tmp_path / "kept")])


def test_a_detector_of_compact_models_is_small_and_has_the_rounded_weights(
    tmp_path, compact_run, data_root, run_folder
):
    config = write_config(tmp_path / "tiny.yaml", data_root)
    arguments = ["--classifier.ckpt", compact_run / f"{WEIGHTS[0]}.safetensors.index.json"]
    arguments += ["--diffusion.ckpt", compact_run / "diffusion", "--run_dir", tmp_path / "run"]
    assert train.main(["--config", str(config), *map(str, arguments)]) == 0
    path = tmp_path / "run" / "detector.ckpt"
    content = read_checkpoint(path)
    for part in ("classifier", "diffusion"):
        floats = [v for v in content[part]["state"].values() if v.is_floating_point()]
        assert {value.dtype for value in floats} == {torch.bfloat16}
    detector = Detector.load(path)
    original = load_file(run_folder / f"{WEIGHTS[1]}.safetensors")
    for name, value in detector.denoiser.network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, original[name].to(torch.bfloat16).float()), name


def test_a_detector_of_float32_weights_keeps_them(run_folder):
    content = read_checkpoint(run_folder / "detector.ckpt")["classifier"]["state"]
    original = load_file(run_folder / f"{WEIGHTS[0]}.safetensors")
    assert all(torch.equal(content[name].to(v), v) for name, v in original.items())
    assert content["fc.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../a.safetensors"}}, "expected .safetensors files beside it"),
        ({"weight_map": {"a": "a.bin"}}, "expected .safetensors files beside it"),
        ({"weight_map": {"a": "gone.safetensors"}}, "gone.safetensors does not exist"),
        ({}, "index.json is damaged: weight_map: field required"),
        ({"weight_map": {}}, "index.json is damaged: weight_map: "),
        ({"weight_map": {"a": 3}}, "index.json is damaged: weight_map.a: "),
        ({"weight_map": [["a", "b"]]}, "index.json is damaged: weight_map: "),
    ],
)
def test_a_wrong_index_is_refused(tmp_path, index, message):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        load_tensors(path)


def test_error_of_a_missing_tensor_names_it(compact_run):
    path = compact_run / f"{WEIGHTS[0]}.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["more"] = next(iter(index["weight_map"].values()))
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match="lack more"):
        load_tensors(path)


def test_a_run_without_models_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no trained classifier"):
        compact.compact_models(tmp_path, tmp_path / "kept")


def test_a_full_disk_leaves_nothing_behind(run_folder, tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise RuntimeError('IoError(Os { code: 28, message: "No space left on device" })')

    monkeypatch.setattr("diffguard_cli.compact._write_shards", full)
    with pytest.raises(UserError, match="No space left on device"):
        compact.compact_models(run_folder, tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert compact.compact_models(run_folder, tmp_path / "kept") > 0


def test_links_in_a_run_are_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for name in ("classifier", "diffusion"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / "diffusion" / "config.json").symlink_to(secret)
    with pytest.raises(UserError, match="link"):
        compact.compact_models(tmp_path / "run", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
