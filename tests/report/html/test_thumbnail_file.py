import pytest

from diffguard.errors import UserError
from diffguard.report.html.thumbnail_file import ThumbnailWriter, read_thumbnails
from diffguard.report.html.thumbnails import Thumbnail

PICTURES = [Thumbnail("guided", "data:image/png;base64,AA"), Thumbnail("|x|", "data:b")]


def test_thumbnails_of_all_processes_and_sessions_are_read(tmp_path):
    assert read_thumbnails(tmp_path, [("far", 0)]) == {}
    for place, rank in enumerate((0, 0, 1)):
        writer = ThumbnailWriter(tmp_path, rank)
        writer.write([])
        writer.write([("é", 10 * place, PICTURES)])
        writer.write([("é", 10 * place + 1, PICTURES[:1])])
    files = sorted(path.name for path in (tmp_path / "scores").iterdir())
    assert files == ["thumbnails-0.2.jsonl", "thumbnails-0.jsonl", "thumbnails-1.jsonl"]
    # A process that dies leaves a torn line.
    torn = tmp_path / "scores" / files[0]
    torn.write_bytes(torn.read_bytes()[:-5])
    images = [("é", index) for index in (0, 10, 11, 20, 21, 99)]
    thumbnails = read_thumbnails(tmp_path, images)
    assert thumbnails == {
        ("é", 0): PICTURES,
        ("é", 10): PICTURES,
        ("é", 20): PICTURES,
        ("é", 21): PICTURES[:1],
    }


@pytest.mark.parametrize(
    "line", ["{}", "no JSON", '{"dataset": "a", "index": "1", "pictures": {}}', "x" * 2**20]
)
def test_a_damaged_file_is_named(tmp_path, line):
    ThumbnailWriter(tmp_path, 0).write([("far", 0, PICTURES)])
    with (tmp_path / "scores" / "thumbnails-0.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=r"thumbnails-0.jsonl, line 2, is damaged"):
        read_thumbnails(tmp_path, [])
