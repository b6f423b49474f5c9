"""Files that cannot be converted: one clear line each, and nothing of them runs."""

import os
import pickle
import re
import sys
import types
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from diffguard.denoisers.formats import (
    CheckpointOptions,
    load_denoiser,
    load_diffusion,
)
from diffguard.errors import UserError
from diffguard.storage.foreign import read_checkpoint_tensors
from diffguard_cli.convert import main
from tests.helpers.checkpoint_files import OWN, cases_in

FOUND = {case.name: case for case in cases_in(OWN)}
NAMES = ("adm_uncond", "adm_cond", "ldm_cin", "ddpm_cifar_cond")
DIFFUSION = [FOUND[name] for name in NAMES]


def line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture(params=DIFFUSION, ids=[case.name for case in DIFFUSION])
def case(request):
    return request.param


def write(tmp_path, tensors, name="model.ckpt"):
    path = tmp_path / name
    torch.save(tensors, path)
    return path


def refuse(path, options, pattern):
    with pytest.raises(UserError, match=pattern) as error:
        load_diffusion(path, options)
    assert line(error).startswith(str(path))


def spread(names, number):
    """Some of the names, evenly spread."""
    names = sorted(names)
    return names[:: max(1, len(names) // number)]


def test_missing_tensors_are_named(case, tmp_path):
    tensors = case.tensors()
    derived = {n for n in tensors if "." not in n and n != "betas"}
    for missing in spread(set(tensors) - derived, 4):
        rest = {n: v for n, v in tensors.items() if n != missing}
        if missing == "label_emb.weight":
            continue  # that is the unconditional network
        refuse(write(tmp_path, rest), case.options(), re.escape(missing) + r" is missing")


def test_extra_tensors_are_named(case, tmp_path):
    tensors = case.tensors()
    prefix = "model.diffusion_model." if "betas" in tensors else ""
    for extra in (prefix + "extra.weight", "control.weight"):
        path = write(tmp_path, {**tensors, extra: torch.zeros(3)})
        refuse(path, case.options(), re.escape(extra) + " is left over")


def test_a_tensor_of_another_shape_is_named(case, tmp_path):
    tensors = case.tensors()
    name = next(n for n in sorted(tensors) if n.endswith("norm.bias") and tensors[n].ndim == 1)
    path = write(tmp_path, {**tensors, name: torch.zeros(7)})
    refuse(path, case.options(), re.escape(name) + r" has shape \(7,\), expected")


SPOILED = {
    "scalar": (lambda v: v.flatten()[0], "has shape"),
    "flat": (lambda v: v.flatten(), "has shape"),
    "empty": (lambda v: v[:0], "has shape"),
    "sparse": (lambda v: v.to_sparse(), "is sparse float32, expected dense float32"),
    "integers": (lambda v: v.long(), "is dense int64, expected dense float32"),
    "not finite": (lambda v: v / 0, "values that are not finite numbers"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_tensors_that_are_not_weights_are_named(case, tmp_path, kind):
    spoil, message = SPOILED[kind]
    tensors = case.tensors()
    # The architecture is read from some of them; the others only fill it. Each kind spoils others.
    names = [n for n in tensors if tensors[n].ndim > 1]
    for name in names[list(SPOILED).index(kind) :: len(names) // 2]:
        path = write(tmp_path, {**tensors, name: spoil(tensors[name])})
        refuse(path, case.options(), f"{re.escape(name)} (holds .*)?{message}")


def test_tensors_that_count_too_far_are_refused(case, tmp_path):
    tensors = case.tensors()
    name = next(n for n in tensors if re.search(r"(input_blocks|down)\.1\.", n))
    far = re.sub(r"(input_blocks|down)\.1\.", r"\1.99999999.", name)
    more = dict.fromkeys((far, far.replace("input", "output")), tensors[name])
    path = write(tmp_path, {**tensors, **more})
    refuse(path, case.options(), "are numbered up to 99999999")


IDLE = {"num_head_channels": 16, "new_attention_order": True, "noise_schedule": "cosine"}


@pytest.mark.parametrize("option", [*IDLE, "null_class"])
def test_options_of_other_families_are_refused(option):
    value, message = {**IDLE, "null_class": 77}[option], f"{option} .*leave it out"
    takes = {"adm": set(IDLE), "ldm": {"num_head_channels"}, "ddp": set()}
    for case in DIFFUSION:
        if option not in takes[case.name[:3]]:
            options = CheckpointOptions(**{**vars(case.options()), option: value})
            refuse(case.file, options, message)


def test_the_network_is_taken_out_of_diffoods_training_file(tmp_path):
    case = FOUND["ddpm_cifar_cond"]
    network = {f"module.{name}": value for name, value in case.tensors().items()}
    path = write(tmp_path, [network, {"state": {}, "param_groups": []}, {}, 3, 100, 0.5])
    weights = load_diffusion(path, case.options()).network.state_dict()
    expected = load_diffusion(case.file, case.options()).network.state_dict()
    assert all(torch.equal(weights[n], expected[n]) for n in expected)


def test_truncated_files_are_refused(case, tmp_path):
    content = case.file.read_bytes()
    for length in (0, 100, len(content) // 2, len(content) - 1000):
        path = tmp_path / "cut.ckpt"
        path.write_bytes(content[:length])
        refuse(path, case.options(), "refused|cannot be read")


def test_a_wrong_number_of_classes_is_refused(case, tmp_path):
    options = CheckpointOptions(**{**vars(case.options()), "num_classes": 77})
    if case.name == "adm_uncond":
        # Any classifier can be protected by it, but a conversion was asked for classes.
        assert load_diffusion(case.file, options).num_classes is None
        sizes = ["--image_size=32", "--num_head_channels=16", "--num_classes=77"]
        with pytest.raises(UserError, match="knows no classes, expected 77"):
            main([str(case.file), str(tmp_path / "out"), *sizes])
    else:
        refuse(case.file, options, "expected 77")


def test_an_impossible_image_size_is_refused(case):
    options = {**vars(case.options()), "image_size": 33}
    refuse(case.file, CheckpointOptions(**options), "cannot take image_size 33: .* multiple of")


def test_options_missing_in_the_file_are_required(case):
    values = vars(case.options())
    options = CheckpointOptions(**{**values, "image_size": None})
    refuse(case.file, options, "give image_size")
    if not case.name.startswith("ddpm"):
        plain = {**values, "num_heads": None, "num_head_channels": None}
        refuse(case.file, CheckpointOptions(**plain), "num_head_channels and num_heads")
        options = CheckpointOptions(**{**plain, "num_heads": 5})
        refuse(case.file, options, "num_heads 5 does not divide")


def test_files_of_other_families_are_refused(tmp_path):
    path = write(tmp_path, {"encoder.weight": torch.zeros(2), "decoder.weight": torch.zeros(2)})
    refuse(path, CheckpointOptions(), "belong to an unknown family")
    classifier = FOUND["openood_resnet18_32x32"].file
    refuse(classifier, CheckpointOptions(), "is a classifier")


def test_files_without_tensors_and_missing_files_are_refused(tmp_path):
    refuse(write(tmp_path, {"epoch": 3}), CheckpointOptions(), "holds no tensors")
    refuse(tmp_path / "none.ckpt", CheckpointOptions(), "does not exist")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config\.json cannot be read") as error:
        load_denoiser(tmp_path / "empty")
    line(error)


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_does_not(tmp_path, legacy):
    made = tmp_path / "made"
    path = tmp_path / "evil.ckpt"
    content = {"input_blocks.0.0.weight": torch.zeros(1), "callbacks": Evil(made)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    refuse(path, CheckpointOptions(), "was refused: it asks for posix.mkdir, which could run code")
    plain = {"callbacks": content["callbacks"]}
    path.write_bytes(pickle.dumps(plain, protocol=2))
    refuse(path, CheckpointOptions(), "was refused: it asks for posix.mkdir")
    path.write_bytes(pickle.dumps(plain, protocol=4))
    with warnings.catch_warnings(record=True) as message:
        refuse(path, CheckpointOptions(), "was refused: .*could run code")
    assert not message
    assert not made.exists()
    path.write_bytes(pickle.dumps(plain))
    pickle.loads(path.read_bytes())
    assert made.exists(), "the pickle is harmless, so the test shows nothing"


def rename_global(source, target, module, name):
    """Rewrite the class that a file names, which no import on this machine has to provide."""
    old = b"cmarker_module\nMarker\n"
    new = f"c{module}\n{name}\n".encode()
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as written:
        for item in archive.namelist():
            data = archive.read(item)
            written.writestr(item, data.replace(old, new))


@pytest.mark.parametrize(
    ("module", "name", "taken"),
    [
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", True),
        ("lightning.pytorch.callbacks.early_stopping", "EarlyStopping", True),
        ("pytorch_lightning.trainer", "Trainer", False),
        ("evil_lightning.callbacks", "ModelCheckpoint", False),
        ("subprocess", "Popen", False),
    ],
)
def test_callback_classes_become_stubs_and_others_are_refused(
    tmp_path, monkeypatch, module, name, taken
):
    marker = types.ModuleType("marker_module")
    marker.Marker = type("Marker", (), {"__module__": "marker_module"})
    monkeypatch.setitem(sys.modules, "marker_module", marker)
    content = {
        "state_dict": {"a.weight": torch.ones(2)},
        "callbacks": {marker.Marker: {"best": 1.0}},
    }
    plain, path = tmp_path / "plain.ckpt", tmp_path / "model.ckpt"
    torch.save(content, plain)
    rename_global(plain, path, module, name)
    if taken:
        assert read_checkpoint_tensors(path)["a.weight"].tolist() == [1.0, 1.0]
    else:
        with pytest.raises(UserError, match=f"asks for {module}.{name}") as error:
            read_checkpoint_tensors(path)
        line(error)


def test_safetensors_and_prefixes_are_read(case, tmp_path):
    tensors = {f"module.{n}": v.contiguous() for n, v in case.tensors().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    weights = load_diffusion(tmp_path / "model.safetensors", case.options()).network.state_dict()
    expected = load_diffusion(case.file, case.options()).network.state_dict()
    assert all(torch.equal(weights[n], expected[n]) for n in expected)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:500])
    refuse(tmp_path / "cut.safetensors", case.options(), "cannot be read")


def test_averaged_weights_are_ignored(tmp_path):
    case = FOUND["ldm_cin"]
    tensors = {**case.tensors(), "model_ema.decay": torch.tensor(0.9)}
    assert load_diffusion(write(tmp_path, tensors), case.options()).family == "ldm"


def test_the_command_converts_a_file(case, tmp_path):
    options = case.options()
    arguments = [f"--image_size={options.image_size}"]
    if options.num_head_channels:
        arguments.append(f"--num_head_channels={options.num_head_channels}")
    if options.num_heads:
        arguments.append(f"--num_heads={options.num_heads}")
    folder = tmp_path / "out"
    assert main([str(case.file), str(folder), *arguments]) == 0
    again, before = load_diffusion(folder), load_diffusion(case.file, options)
    assert (again.num_classes, again.null_class) == (before.num_classes, before.null_class)
    assert again.image_size == before.image_size
    for part in ("network", "autoencoder", "context"):
        old, new = getattr(before, part), getattr(again, part)
        assert (old is None) == (new is None)
        if old is not None:
            state = new.state_dict()
            assert all(torch.equal(v, state[n]) for n, v in old.state_dict().items())
    with pytest.raises(UserError, match=f"^{folder} already exists"):
        main([str(case.file), str(folder), *arguments])
    with pytest.raises(UserError):
        main([str(case.file), str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()
