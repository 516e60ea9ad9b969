"""Figures that colour-blind readers and grey print can tell apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from alignkit.analysis.style import COLOURS, COLUMN, PAGE, SEQUENTIAL, legend_below, looks, name_panel, only_lowest_named, panels, short


def test_no_look_comes_twice_and_grey_print_tells_the_first_nine_apart():
    names = [str(number) for number in range(315)]
    drawn = [(look.colour, look.marker, str(look.line)) for look in looks(names).values()]
    assert len(set(drawn)) == 315
    assert len({(marker, line) for _, marker, line in drawn[:45]}) == 45
    assert list(looks(["a", "b", "a"])) == ["a", "b"]


def test_the_same_name_looks_alike_in_two_figures_of_the_same_methods():
    assert looks(["dpo", "ppo"])["ppo"] == looks(["dpo", "ppo", "ipo"])["ppo"]


# Linear RGB as a deuteranope and a protanope see it: Viénot, Brettel and Mollon 1999.
DEUTERANOPE = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
PROTANOPE = np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]])


@pytest.mark.parametrize("seen", [np.eye(3), DEUTERANOPE, PROTANOPE], ids=["all cones", "deuteranope", "protanope"])
def test_colours_differ_for_every_eye(seen):
    linear = [np.array(to_rgb(colour)) ** 2.2 for colour in COLOURS]
    perceived = [np.clip(seen @ colour, 0, 1) ** (1 / 2.2) for colour in linear]
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(perceived, 2))
    assert nearest > 0.13


def test_quantities_get_lighter_evenly():
    shades = colormaps[SEQUENTIAL](np.linspace(0, 1, 50))[:, :3] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(shades) > 0).all()


@pytest.mark.parametrize(("count", "columns", "width", "rows"), [(1, 2, COLUMN, 1), (2, 2, PAGE, 1), (3, 2, PAGE, 2), (9, 3, PAGE, 3)])
def test_sizes_are_those_of_a_column_and_a_page(count, columns, width, rows):
    figure, axes = panels(count, columns=columns, height=2.0)
    assert (figure.get_figwidth(), figure.get_figheight(), len(axes), len(figure.axes)) == (width, 2.0 * rows, count, count)


def test_axes_are_named_once_a_column():
    _, axes = panels(5, columns=3)
    for place in axes:
        name_panel(place, "title", "steps", "nats")
    only_lowest_named(axes)
    assert [place.get_xlabel() for place in axes] == ["", "", "steps", "steps", "steps"]


def test_a_title_that_is_too_long_for_its_panel_takes_two_lines():
    _, axes = panels(3, columns=3)
    name_panel(axes[0], "value/explained_variance, training", "steps", "")
    name_panel(axes[1], "loss, training", "steps", "")
    assert axes[0].get_title(loc="left") == "value/explained_variance,\ntraining"
    assert axes[1].get_title(loc="left") == "loss, training"


@pytest.mark.parametrize("names", [["a"], ["a long name of a method, beta 0.1"] * 7, [f"m{number}" for number in range(60)]])
def test_a_legend_stays_inside_its_figure(names):
    figure, (axes,) = panels(1, columns=1, height=4.0)
    handles = [axes.plot([0, 1], [0, 1])[0] for _ in names]
    legend_below(figure, handles, names, title="line: mean")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 <= box.x1 <= whole.x1
    assert box.y0 >= whole.y0
    assert box.y1 <= axes.get_window_extent().y0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.6696, "0.670"), (-12.345, "−12.3"), (1234.5, "1234"), (0.0, "0.00"), (1.2345e-5, "1.23e−05"), (0.00123, "0.00123")],
)
def test_numbers_have_three_digits(value, text):
    assert short(value) == text


def test_a_half_width_has_the_decimals_of_its_mean():
    assert short(0.1, like=0.913) == "0.100"
    assert short(2.34, like=123.4) == "2"
