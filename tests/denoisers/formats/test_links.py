"""Parts that are copied into a run are those of the model, not what links lead to."""

import pytest

from diffguard.denoisers.formats.save import _refuse_foreign_links
from diffguard.errors import UserError


def test_links_stay_in_the_folder_of_the_model(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    part = snapshot / "text_encoder"
    part.mkdir(parents=True)
    blob = tmp_path / "models--a--b" / "blobs" / "x"
    blob.parent.mkdir()
    blob.write_text("{}")
    # As the hub's cache has it.
    (part / "config.json").symlink_to(blob)
    _refuse_foreign_links(snapshot, "text_encoder")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for target in (secret, "/", part):
        link = part / "further"
        link.symlink_to(target)
        with pytest.raises(UserError, match="further is a link"):
            _refuse_foreign_links(snapshot, "text_encoder")
        link.unlink()
    (snapshot / "tokenizer").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is a link"):
        _refuse_foreign_links(snapshot, "tokenizer")
