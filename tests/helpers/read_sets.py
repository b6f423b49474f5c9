"""Which data sets a command reads images of."""

from datamodules.file_set import FileSet


def recorded_sets(monkeypatch):
    """The names of the sets of image files whose images are read from now on, in this process."""
    names, read = set(), FileSet.image

    def image(self, index):
        names.add(self.name)
        return read(self, index)

    monkeypatch.setattr(FileSet, "image", image)
    return names
