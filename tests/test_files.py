import errno
import os
import socket
import subprocess
import sys

import pytest

from diffguard.errors import UserError
from diffguard.files import create_file, replace_file


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


def test_a_file_that_is_there_is_not_created_again(tmp_path):
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
    test_a_file_that_is_there_is_not_created_again(tmp_path)


def test_what_killed_processes_left_is_removed_and_that_of_living_ones_stays(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path, host = tmp_path / "file.txt", socket.gethostname()
    left, others = (tmp_path / f".file.txt.{host}-{pid}.tmp" for pid in (ended.pid, os.getppid()))
    elsewhere = tmp_path / f".file.txt.other-{ended.pid}.tmp"
    for one in (left, others, elsewhere):
        one.touch()
    with replace_file(path) as temporary:
        temporary.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, others, elsewhere])
