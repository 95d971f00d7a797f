"""Pictures show the numbers that they were given."""

from types import SimpleNamespace

import numpy as np
import pytest

from fedlearn_mini.classroom import plots

NAMES = ("Cleveland", "Hungary", "Switzerland")
ORDER = SimpleNamespace(round=4, theta=np.array([0.5, -1.0]))
LETTERS = {"weight": np.array([30, 9, 1]), "steps": np.array([5, 2, 7])}
LETTERS["update"] = np.array([[3.0, 2.0], [-4.0, 1.0], [0.0, 8.0]])
AVERAGE, THETA = np.array([0.25, 1.5]), np.array([0.75, 0.5])


def drawn(order=ORDER, letters=LETTERS):
    fig, ax = plots.sheet(width=9.6, height=5)
    assert plots.mail(NAMES, order, letters, AVERAGE, THETA, ax) is ax
    return fig, ax


def test_a_round_as_mail_has_every_number_as_a_bar_on_one_scale():
    cards = np.array([[bar.get_height() for bar in card] for card in drawn()[1].containers])
    sent = [part for update in LETTERS["update"] for part in (ORDER.theta, update)]
    given = np.array([AVERAGE, THETA, *sent])
    assert np.allclose(cards * 8 / cards.max(), given)


def test_a_round_as_mail_says_who_sent_what():
    words = [text.get_text() for text in drawn()[1].texts]
    assert words.count("r = 4, θ") == words.count("order") == words.count("letter") == words.count("3 upload") == 3
    assert {"n = 30, τ = 5, Δ", "n = 9, τ = 2, Δ", "n = 1, τ = 7, Δ", "1 patients stay", *NAMES} <= {*words}


@pytest.mark.parametrize("many", [1, 7, 40])
def test_in_a_round_as_mail_every_patient_is_a_mark_at_home(many):
    sizes = many * LETTERS["weight"]
    ax = drawn(letters=LETTERS | {"weight": sizes})[1]
    homes = [patch.get_bbox() for patch in ax.patches if patch.get_y() == 2]
    for name, n, home, marks in zip(NAMES, sizes, homes, ax.lines, strict=True):
        x, y = marks.get_data()
        assert len(x) == n and marks.get_color() == plots.style(name)["color"]
        assert home.x0 < x.min() and x.max() < home.x1 and home.y0 + 20 < y.min() and y.max() < home.y1


def test_a_round_as_mail_is_the_same_picture_twice_and_can_be_of_nothing():
    assert plots.png(drawn()[0]) == plots.png(drawn()[0])
    still = {name: 0 * part for name, part in LETTERS.items()}
    fig, ax = plots.sheet()
    plots.mail(NAMES, SimpleNamespace(round=0, theta=np.zeros(2)), still, np.zeros(2), np.zeros(2), ax)
    assert all(bar.get_height() == 0 for card in ax.containers for bar in card)
