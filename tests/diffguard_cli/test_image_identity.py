"""What identifies the reference images of a calibration."""

from datamodules.file_set import folder_set
from diffguard_cli.calibrate import image_identity
from tests.helpers.tiny_project import write_images


def test_an_overwritten_image_changes_the_identity(tmp_path):
    write_images(tmp_path / "images", 3, "dots", 0)
    before = image_identity(folder_set("mine", tmp_path / "images"))
    assert image_identity(folder_set("mine", tmp_path / "images")) == before
    first, second = (tmp_path / "images" / name for name in ("000.png", "001.png"))
    first.write_bytes(second.read_bytes())
    assert image_identity(folder_set("mine", tmp_path / "images")) != before
