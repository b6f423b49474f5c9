import pytest
import torch
from safetensors.torch import save_file

from diffguard.errors import UserError
from diffguard.storage.weights import load_tensors, state_dict_of

WEIGHTS = {"conv.weight": torch.arange(6.0).view(2, 3), "conv.bias": torch.ones(2)}


def same(tensors):
    assert list(tensors) == list(WEIGHTS)
    assert all(torch.equal(tensors[name], value) for name, value in WEIGHTS.items())


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors"])
def test_both_formats_are_read(tmp_path, name):
    (save_file if name.endswith("safetensors") else torch.save)(WEIGHTS, tmp_path / name)
    tensors = load_tensors(tmp_path / name)
    same({key: tensors[key] for key in WEIGHTS})


@pytest.mark.parametrize("around", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "network.", "classifier.network.", "model.", "module."])
def test_state_dict_is_found_in_wrappers(tmp_path, around, prefix):
    state = {prefix + name: value for name, value in WEIGHTS.items()}
    content = state if around is None else {around: state, "epoch": 3}
    same(state_dict_of(content, tmp_path))


def test_a_prefix_of_some_names_only_belongs_to_the_network(tmp_path):
    state = {"model.weight": torch.zeros(1), "head": torch.zeros(1)}
    assert set(state_dict_of(state, tmp_path)) == set(state)


def test_values_that_are_not_tensors_are_left_out(tmp_path):
    same(state_dict_of({**WEIGHTS, "epoch": 3, "note": "text"}, tmp_path))


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {}}, {"model": 1}])
def test_a_file_without_tensors_is_refused(tmp_path, content):
    with pytest.raises(UserError, match=r"w\.pt holds no tensors"):
        state_dict_of(content, tmp_path / "w.pt")


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absent", "does not exist: expected a file of weights"),
        ("folder", "is a folder"),
        ("empty", "cannot be read|was refused"),
        ("text", "cannot be read|was refused"),
        ("truncated", "cannot be read|was refused"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, name, kind, message):
    path = tmp_path / name
    if kind == "folder":
        path.mkdir()
    elif kind in ("empty", "text"):
        path.write_text("hello" if kind == "text" else "")
    elif kind == "truncated":
        (save_file if name.endswith("safetensors") else torch.save)(WEIGHTS, path)
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=message) as caught:
        load_tensors(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_of_tensors_is_not_a_state_dict(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "w.pt")
    with pytest.raises(UserError, match="holds a list, expected a dictionary"):
        load_tensors(tmp_path / "w.pt")


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"w": Malicious(tmp_path / "ran")}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="was refused"):
        load_tensors(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()
