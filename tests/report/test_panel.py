import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from diffguard.errors import UserError
from diffguard.report.panel import HeatMap, PanelRow, colored, panel


def draw(figure):
    """Render as TensorBoard does, and return the pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def make_row(channels, number, **options):
    images = torch.rand(2, channels, 8, 8, generator=torch.Generator().manual_seed(number))
    return PanelRow(images[0], images[1], f"class {number}", 1.25 * number, "letters", **options)


def texts_of(figure):
    return [part._suptitle.get_text() for part in figure.subfigs]


def test_panel_shows_each_image_with_set_label_and_score():
    unguided = torch.rand(1, 8, 8)
    rows = [make_row(1, 1, unguided=unguided), make_row(1, 2, mask=torch.eye(8))]
    figure = panel(rows, "letters (far)")
    assert texts_of(figure) == [
        "letters · predicted class 1 · score 1.25",
        "letters · predicted class 2 · score 2.5",
    ]
    heads = [axes.get_title() for axes in figure.subfigs[0].axes]
    assert heads == ["input", "unguided", "guided", "|input − guided|"]
    pictures = [axes.get_images()[0].get_array() for axes in figure.subfigs[0].axes]
    expected = [rows[0].image, unguided, rows[0].guided, (rows[0].image - rows[0].guided).abs()]
    for picture, image in zip(pictures, expected, strict=True):
        np.testing.assert_allclose(picture, image[0], atol=1e-6)
    # The second row has no unguided image, so there is a gap, and an outline of its mask.
    assert [len(axes.get_images()) for axes in figure.subfigs[1].axes] == [1, 0, 1, 1]
    assert len(figure.subfigs[1].axes[0].collections) == 1
    assert draw(figure).std() > 0


def test_panel_needs_no_unguided_images():
    figure = panel([make_row(3, 4)], "letters")
    heads = [axes.get_title() for axes in figure.axes]
    assert heads == ["input", "guided", "|input − guided|"]
    assert figure.axes[0].get_images()[0].get_array().shape == (8, 8, 3)
    assert figure.axes[2].get_images()[0].get_array().shape == (8, 8)
    assert draw(figure).std() > 0


def test_an_empty_panel_is_refused():
    with pytest.raises(UserError, match="the panel 'letters' has no image"):
        panel([], "letters")


def test_panel_shows_where_the_classifier_looks_and_where_the_images_differ():
    location = HeatMap("features", torch.rand(8, 8))
    figure = panel([make_row(3, 1, cam=torch.eye(8), location=location)], "letters")
    axes = figure.subfigs[0].axes
    assert [part.get_title() for part in axes] == [
        "input", "CAM", "guided", "|input − guided|", "features",
    ]  # fmt: skip
    for part, values in ((axes[1], torch.eye(8)), (axes[4], location.values)):
        background, heat = (image.get_array() for image in part.get_images())
        np.testing.assert_allclose(heat, values)
        assert background.shape == (8, 8)


def test_an_image_that_was_not_reconstructed_shows_its_input_alone():
    row = PanelRow(torch.rand(1, 8, 8), None, "three", 0.5, "letters")
    assert list(row.pictures) == ["input"]
    figure = panel([make_row(1, 1), row], "letters")
    assert [len(axes.get_images()) for axes in figure.subfigs[1].axes] == [1, 0, 0]


def test_colored_pictures_are_rgb_and_heat_maps_lie_over_the_input():
    image = torch.zeros(1, 4, 4)
    image[0, 0, 0] = 1.0
    assert colored("input", image, image)[0, 0].tolist() == [255, 255, 255]
    heat = torch.zeros(4, 4)
    heat[1, 1] = 1.0
    cam = colored("CAM", heat, image)
    assert cam.shape == (4, 4, 3)
    assert cam[1, 1].sum() > cam[3, 3].sum()
    assert cam[0, 0].sum() > cam[3, 3].sum()


@pytest.mark.parametrize("name", ["$\\frac{", "caf\udce9", "a\x1bb"])
def test_names_from_files_are_drawn_as_they_are(name):
    zeros = torch.zeros(1, 4, 4)
    draw(panel([PanelRow(zeros, zeros, name, 0.5, name)], name))
