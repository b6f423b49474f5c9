"""Which data sets a command reads images of, and whether it reads test images under other names."""

from datamodules.image_set import ImageSet
from datamodules.sources import open_set

# The test sets of the tiny project.
TESTS = ("folder:test", "folder:near", "folder:far")


def recorded_sets(monkeypatch, root, tests=TESTS):
    """The names of the sets whose images are read from now on, in this process.

    An image with the pixels of a test image adds the name of the test set in brackets.
    """
    names, test_of = set(), {}
    for source in tests:
        images = open_set("test", source, root=root, labeled=False)
        test_of |= {_pixels(images.image(index)): source for index in images.indices}
    for kind in set_kinds():
        monkeypatch.setattr(kind, "image", _recorded(kind.image, names, test_of))
    return names


def set_kinds(base=ImageSet):
    """The classes of data sets."""
    return [kind for child in base.__subclasses__() for kind in (child, *set_kinds(child))]


def _recorded(read, names, test_of):
    def image(self, index):
        pixels = read(self, index)
        test = test_of.get(_pixels(pixels))
        names.update({self.name} if test is None else {self.name, f"{self.name} ({test})"})
        return pixels

    return image


def _pixels(image):
    return tuple(image.shape), image.numpy().tobytes()
