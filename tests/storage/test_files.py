import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffguard.errors import UserError
from diffguard.storage.files import append_line, create_file, file_hash, refuse_links, replace_file
from diffguard.storage.json_files import read_json
from diffguard.storage.reading import LARGEST_TEXT


def test_a_file_is_replaced_in_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("first", "second"):
        with replace_file(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (RuntimeError("stop"), RuntimeError, "stop"),
        (OSError(errno.ENOSPC, "No space left on device"), UserError, "cannot write .*: No space"),
    ],
)
def test_a_failure_leaves_the_old_content(tmp_path, error, raised, message):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail():
        with replace_file(path) as temporary:
            temporary.write_text("half of the new")
            raise error

    with pytest.raises(raised, match=message):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_existing_file_is_not_created_again(tmp_path):
    path = tmp_path / "file.txt"
    for text in ("first", "second"):
        with create_file(path) as temporary:
            temporary.write_text(text)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_links_will_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    test_existing_file_is_not_created_again(tmp_path)


def test_leftovers_of_killed_processes_are_removed_and_those_of_living_ones_stay(tmp_path):
    path = tmp_path / "file.txt"
    code = (
        "import os, sys; from pathlib import Path\n"
        "from diffguard.storage.files import replace_file\n"
        "with replace_file(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); print('written', flush=True); sys.stdin.read()\n"
    )
    root = Path(__file__).parents[2]
    words = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(words, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        (left,) = tmp_path.iterdir()
        # Not this project's, or nothing that can be a file of it.
        strange = [tmp_path / f".file.txt.{name}.tmp" for name in ("vm-99999999999999999999", "x")]
        for one in strange:
            one.touch()
        pipe, link = (tmp_path / f".file.txt.{digit * 32}.tmp" for digit in "ab")
        os.mkfifo(pipe)
        link.symlink_to(strange[0])
        for text in ("first", "second"):
            with replace_file(path) as temporary:
                temporary.write_text(text)
        assert left.exists()  # it is being written
        assert path.read_text() == "second"
        other.kill()
        other.wait()
    with replace_file(path) as temporary:
        temporary.write_text("third")
    assert set(tmp_path.iterdir()) - {pipe} == {path, link, *strange}


def test_two_writers_at_once_do_not_meet(tmp_path):
    path = tmp_path / "file.txt"
    with replace_file(path) as one, replace_file(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_sparse_file_is_not_hashed(tmp_path):
    (tmp_path / "a").write_text("a")
    assert file_hash(tmp_path / "a").startswith("ca978112ca1bbdca")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="huge has 1,099,511,627,776 bytes, expected at most"):
        file_hash(tmp_path / "huge")


def test_lines_are_appended_to_files_alone(tmp_path):
    for line in ("first", "second"):
        append_line(tmp_path / "lines", line)
    assert (tmp_path / "lines").read_text() == "first\nsecond\n"
    (tmp_path / "link").symlink_to(tmp_path / "lines")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe"):
        with pytest.raises(UserError, match=f"cannot write .*{name}"):
            append_line(tmp_path / name, "third")
    with pytest.raises(UserError, match="link is a link"):
        refuse_links(tmp_path / "lines", tmp_path / "nothing", tmp_path / "link")
    assert (tmp_path / "lines").read_text() == "first\nsecond\n"


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling", "device", "process"])
def test_only_regular_files_are_read(tmp_path, kind):
    path = tmp_path / "file.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        # A file in /proc has no size; this one never ends.
        places = {"device": "/dev/zero", "process": "/proc/self/pagemap"}
        path.symlink_to(places.get(kind, tmp_path / "gone"))
    with pytest.raises(UserError, match=r"file\.json") as caught:
        read_json(path, dict)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"\xff", b"{", b"[" * 100_000, b"[" * 300 + b"]" * 300, b'{"a": NaN}', b"1" * 5000, b"[]"],
)
def test_damaged_json_is_one_line(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"file\.json is damaged") as caught:
        read_json(path, dict[str, int])
    assert "\n" not in str(caught.value)
    with path.open("wb") as file:
        file.truncate(LARGEST_TEXT + 1)
    with pytest.raises(UserError, match="at most"):
        read_json(path, dict[str, int])
