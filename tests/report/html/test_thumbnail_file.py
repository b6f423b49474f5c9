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
