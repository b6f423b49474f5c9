import pytest

from diffguard.errors import UserError
from diffguard.manifest import open_manifest, read_manifest

MANIFEST = {
    "checkpoint": "a" * 64,
    "scores": ["msp", "diffguard"],
    "sets": {"digits": {"group": "id", "n": 600}, "letters": {"group": "far", "n": 600}},
    "steps": 16,
}


def test_a_run_continues_its_own_folder(tmp_path):
    assert read_manifest(tmp_path / "run") is None
    open_manifest(tmp_path / "run", MANIFEST)
    open_manifest(tmp_path / "run", MANIFEST | {"scores": ("msp", "diffguard")})
    assert read_manifest(tmp_path / "run") == MANIFEST
    assert list(read_manifest(tmp_path / "run")["sets"]) == ["digits", "letters"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 20}, "belong to another run: steps was 16, is 20; restore"),
        ({"seed": 1}, r"seed was \(absent\), is 1"),
        ({"checkpoint": "b" * 64}, r'checkpoint was "a{38}…, is "b{38}…;'),
        (
            {"sets": {"digits": {"group": "id", "n": 500}}},
            r'sets.digits.n was 600, is 500; sets.letters.group was "far", is \(absent\)',
        ),
        ({"sets": dict(reversed(MANIFEST["sets"].items()))}, "order of the sets"),
    ],
)
def test_another_run_is_refused_with_each_difference(tmp_path, change, message):
    open_manifest(tmp_path, MANIFEST)
    with pytest.raises(UserError, match=message) as caught:
        open_manifest(tmp_path, MANIFEST | change)
    assert "\n" not in str(caught.value)
    assert read_manifest(tmp_path) == MANIFEST


def test_scores_of_unknown_origin_are_refused(tmp_path):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "rank-3.csv").touch()
    with pytest.raises(UserError, match="holds score tables but no manifest"):
        open_manifest(tmp_path, MANIFEST)


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "must hold a JSON")])
def test_a_damaged_manifest_is_refused(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=message):
        open_manifest(tmp_path, MANIFEST)
