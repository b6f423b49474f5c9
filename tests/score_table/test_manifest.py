import pytest

from diffguard.errors import UserError
from diffguard.score_table import manifest
from diffguard.score_table.manifest import check_manifest, open_manifest, read_manifest

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
        ({str(i): i for i in range(20)}, r"7 was \(absent\), is 7; and 12 more; restore"),
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


def test_machine_matters_only_if_rows_are_added(tmp_path):
    machines = [
        {**MANIFEST, "machine": {"device": name, "torch": "2.6"}} for name in ("cpu", "cuda")
    ]
    open_manifest(tmp_path, machines[0])
    with pytest.raises(UserError, match=r'machine\.device was "cpu", is "cuda"'):
        open_manifest(tmp_path, machines[1])
    open_manifest(tmp_path, machines[1], complete=True)
    assert read_manifest(tmp_path) == machines[0]
    with pytest.raises(UserError, match="steps was 16"):
        open_manifest(tmp_path, machines[1] | {"steps": 20}, complete=True)


def test_only_expected_entries_are_compared(tmp_path):
    open_manifest(tmp_path, MANIFEST)
    check_manifest(tmp_path, {"steps": 16})
    with pytest.raises(UserError, match="steps was 16, is 20"):
        check_manifest(tmp_path, {"steps": 20})


def test_of_two_launches_at_once_the_first_one_counts(tmp_path, monkeypatch):
    # The other writes its manifest after this one has looked.
    look = manifest.check_manifest
    looks = []

    def late(*given, **options):
        looks.append(look(*given, **options))
        if len(looks) == 1:
            open_manifest(tmp_path, MANIFEST)

    monkeypatch.setattr(manifest, "check_manifest", late)
    with pytest.raises(UserError, match="steps was 16, is 20"):
        manifest.open_manifest(tmp_path, MANIFEST | {"steps": 20})
    assert read_manifest(tmp_path) == MANIFEST


def test_scores_of_unknown_origin_are_refused(tmp_path):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "rank-3.csv").touch()
    with pytest.raises(UserError, match="holds score tables but no manifest"):
        open_manifest(tmp_path, MANIFEST)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("[]", "should be a valid dictionary"), ('{"seed": NaN}', "NaN")],
)
def test_a_damaged_manifest_is_refused(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=message):
        open_manifest(tmp_path, MANIFEST)
