"""The rules for names and sources of a benchmark."""

import pytest

from datamodules.benchmark import check_sets, part_name
from datamodules.config import IDSets, OODSets
from diffguard.errors import UserError

ID = IDSets("digits:0-5/train", "digits:0-5/validation", "digits:0-5/test")


def _check(name="mnist", id=ID, near=None, far=None, validation=None, root=None):
    check_sets(name, id, OODSets(near or {}, far or {}), validation or {}, root)


def test_a_correct_benchmark_passes():
    _check(near={"a": "digits:6-9"}, far={"B_1.2-x": "letters:test"}, validation={"c": "x"})
    _check(name="id")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", "-x", "ä", "a,b"])
def test_names_must_fit_into_tables_and_paths(name):
    with pytest.raises(UserError, match="must consist of letters"):
        _check(far={name: "letters:test"})
    with pytest.raises(UserError, match="must consist of letters"):
        _check(name=name)


@pytest.mark.parametrize("name", ["id", "near", "far", "mnist", "mnist_train", "mnist_validation"])
def test_reserved_names_are_refused(name):
    with pytest.raises(UserError, match=f"{name!r} is reserved or used twice"):
        _check(far={name: "letters:test"})


@pytest.mark.parametrize("groups", [("near", "far"), ("near", "validation"), ("far", "validation")])
def test_a_name_used_twice_is_refused(groups):
    with pytest.raises(UserError, match="'same' is reserved or used twice"):
        _check(**{group: {"same": f"{group}-images"} for group in groups})


def test_nothing_is_chosen_on_test_data(tmp_path):
    with pytest.raises(UserError, match=r"data\.ood_validation\.v \(letters:test\).*test set 'f'"):
        _check(far={"f": "letters:test"}, validation={"v": "letters:test"})
    with pytest.raises(UserError, match="nothing may be chosen on test data"):
        _check(near={"n": "folder:x"}, validation={"v": f"{tmp_path}/y/../x/"}, root=str(tmp_path))
    with pytest.raises(UserError, match=r"data\.id\.validation .*test set 'mnist'"):
        _check(id=IDSets(validation="digits:0-5", test="digits:0-5"))
    with pytest.raises(UserError, match=r"data\.id\.train .*test set 'mnist'"):
        _check(id=IDSets(train="digits:0-5", test="digits:0-5"))


def test_training_and_validation_sources_must_differ(tmp_path):
    with pytest.raises(UserError, match=r"data\.id\.train and data\.id\.validation have images"):
        _check(id=IDSets("folder:x", f"{tmp_path}/y/../x", "folder:z"), root=str(tmp_path))
    with pytest.raises(UserError, match=r"data\.id\.validation and data\.ood_validation\.v have"):
        _check(validation={"v": "digits:0-5/validation"})
    with pytest.raises(UserError, match=r"ood_validation\.v and data\.ood_validation\.w have"):
        _check(validation={"v": "blends:validation", "w": "blends:validation"})


def test_sources_are_compared_by_the_files_that_they_name(tmp_path, monkeypatch):
    (tmp_path / "x" / "part").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "x")
    (tmp_path / "x" / "list.txt").touch()
    monkeypatch.chdir(tmp_path)
    same = (f"{tmp_path}/link", "x", "./y/../x", "folder:x/part", "folder:.")
    for source in same:
        with pytest.raises(
            UserError, match=r"data\.id\.train and data\.id\.validation have images"
        ):
            _check(id=IDSets("folder:x", source), root=str(tmp_path))
    for source in ("folder:xx", "x/list.txt"):
        _check(id=IDSets("folder:x", source), root=str(tmp_path))


def test_test_sets_must_differ(tmp_path):
    with pytest.raises(UserError, match=r"test sets 'mnist' and 'f' have images in common"):
        _check(far={"f": "digits:0-5/test"})
    with pytest.raises(UserError, match=r"test sets 'n' and 'f' have images in common"):
        _check(near={"n": "folder:x"}, far={"f": f"{tmp_path}/y/../x"}, root=str(tmp_path))


def test_only_the_test_part_has_the_name_of_its_set():
    assert part_name("mnist", "test") == "mnist"
    assert part_name("mnist", "validation") == "mnist_validation"
