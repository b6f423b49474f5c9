"""Which data sets a command reads images of."""

from datamodules import sources  # noqa: F401 - defines the sets of every kind of source
from datamodules.image_set import ImageSet


def recorded_sets(monkeypatch):
    """The names of the sets whose images are read from now on, in this process."""
    names = set()
    for kind in set_kinds():
        monkeypatch.setattr(kind, "image", _recorded(kind.image, names))
    return names


def set_kinds(base=ImageSet):
    """The classes of data sets."""
    return [kind for child in base.__subclasses__() for kind in (child, *set_kinds(child))]


def _recorded(read, names):
    def image(self, index):
        names.add(self.name)
        return read(self, index)

    return image
