import errno

import pytest

from diffguard.errors import UserError
from diffguard.files import replace_file


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
