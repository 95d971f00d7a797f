"""The picture of a federation says what the rounds' records say, and no patient moves in it."""

import io
import itertools
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from fedlearn_mini import data, models
from fedlearn_mini.classroom import picture, plots
from fedlearn_mini.evaluate import average_loss
from fedlearn_mini.federation import rounds as real
from fedlearn_mini.hospital import Hospital
from fedlearn_mini.plan import Plan

MANY, MODEL = data.make_hospitals(4, 30, d=3, rng=0), models.logistic(3)
STEPS = np.arange(1.0, 7.0, 0.25)


def sometimes(updates, rng):
    """A cable that breaks about a letter in five."""
    return np.where(rng.random((len(updates), 1)) < 0.2, np.nan, updates)


def broken_at_home(inner):
    """A hospital whose letter is not finite where its last number is negative."""

    def step(job):
        letter, kept = inner.step(job)
        bad = letter["update"][..., -1:] < 0
        return letter | {"update": np.where(bad, np.inf, letter["update"])}, kept

    return Hospital(inner.init, step, inner.told)


PLAN = Plan(lr=0.3, steps=3, seed=7)
HARD = replace(PLAN, fraction=0.75, dropout=0.2, late=0.3)
PLANS = {
    "everybody": PLAN,
    "broken on the way": replace(HARD, uplink=sometimes),
    "broken at home": replace(HARD, around=(broken_at_home,)),
    "by coins": replace(HARD, poisson=True, fraction=0.4, aggregate=lambda updates, weights, rng: updates.sum(0)),
    "scaffold": replace(HARD, scaffold=True),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_film_is_the_protocols_own_run(plan):
    """Listening changes nothing: θ, bytes and who are those of rounds without a listener, over sixty rounds."""
    many = MANY._replace(**{part: np.array(getattr(MANY, part))[[2, 0, 3, 1]] for part in MANY._fields})
    many = many._replace(names=tuple(map(str, many.names)))
    film = picture.film(MODEL, many, plan, 60)
    states, records = zip(*islice(real(MODEL, many, plan), 60), strict=True)
    for frame, state, record in zip(film.frames, states, records, strict=True):
        assert np.array_equal(frame.after, state.theta)
        who = record["who"]
        expected = {int(k): "silent" for k in who.invited} | {int(k): "heard" for k in who.present}
        expected |= {int(k): "late" for k in who.late} | {int(k): "refused" for k in who.refused}
        assert dict(enumerate(frame.fate)) == {k: expected.get(k, "not invited") for k in range(4)}
        assert {name: value for name, value in frame.record.items() if name != "who"} == {
            name: value for name, value in record.items() if name != "who"
        }
    assert np.allclose(film.losses[1:], [average_loss(MODEL, state.theta, many) for state in states])


def test_the_order_in_which_hospitals_lie_changes_nothing_but_the_rows():
    turn = [2, 0, 3, 1]
    many = MANY._replace(**{part: np.array(getattr(MANY, part))[turn] for part in MANY._fields})
    many, plan = many._replace(names=tuple(map(str, many.names))), replace(HARD, uplink=sometimes)
    frames = [picture.film(MODEL, some, plan, 20).frames for some in (MANY, many)]
    for frame, turned in zip(*frames, strict=True):
        for part in ("sent", "came", "old"):
            assert np.allclose(getattr(frame, part)[turn], getattr(turned, part), equal_nan=True)
        assert frame.fate[turn].tolist() == turned.fate.tolist()


def test_the_hard_plans_have_every_fate():
    fates = {
        name: {fate for f in picture.film(MODEL, MANY, plan, 60).frames for fate in f.fate}
        for name, plan in PLANS.items()
    }
    assert fates["everybody"] == {"heard"}
    for name in ("broken on the way", "broken at home"):
        assert fates[name] == {"heard", "late", "silent", "refused", "not invited"}


def test_the_letters_in_the_trays_are_those_that_the_server_averages():
    seen = []

    def listening(updates, weights, rng):
        seen.append(updates)
        return weights @ updates / max(weights.sum(), 1)

    film = picture.film(MODEL, MANY, replace(HARD, uplink=sometimes, aggregate=listening), 60)
    where = picture.places(MANY.names, MANY.sizes)
    for frame, updates in zip(film.frames, seen, strict=True):
        whose, spots, old, new = picture.letters(frame, where, picture.AVERAGE, 1.0)
        in_tray = np.isfinite(new).all(1) & (np.abs(spots - where.tray[whose]).max(1) < 6)  # not those halfway
        assert not old.any()
        assert sorted(map(tuple, new[in_tray])) == sorted(map(tuple, updates))


def test_a_late_letter_waits_halfway_and_comes_a_round_later():
    film = picture.film(MODEL, MANY, HARD, 60)
    where, found = picture.places(MANY.names, MANY.sizes), 0
    for frame, after in itertools.pairwise(film.frames):
        late = frame.fate == "late"
        assert np.array_equal(np.isfinite(after.old).all(1), late)
        assert np.array_equal(after.old[late], frame.sent[late])
        whose, spots, _, _ = picture.letters(frame, where, picture.UPDATE, 1.0)
        for k in np.flatnonzero(late):
            halfway = (where.home[k] + where.tray[k]) / 2
            assert any(np.allclose(spot, halfway) for spot in spots[whose == k])
            found += 1
    assert found > 20


def dots(panel):
    """Where the patients are, and what they look like."""
    found = [one for one in panel.fig.axes[0].collections if isinstance(one, PathCollection)]
    assert not set(found) & set(panel.moving)
    return [(one.get_offsets().copy(), one.get_facecolor().copy(), one.get_sizes().copy()) for one in found]


def test_no_dot_ever_moves_and_there_is_one_for_every_patient_filled_if_ill():
    film = picture.film(MODEL, MANY, replace(HARD, uplink=sometimes), 12)
    panel = picture.federation(film)
    before = dots(panel)
    for hospital, (offsets, faces, _) in enumerate(before):
        ill = (faces[:, :3] != 1).any(1).sum()
        assert len(offsets) == MANY.sizes[hospital]
        assert ill == round((MANY.y * MANY.w).sum(-1)[hospital] * MANY.sizes[hospital])
    for r, step in itertools.product((1, 5, 12), STEPS):
        panel.sliders["round"].value, panel.sliders["step"].value = r, step
    for one, other in zip(before, dots(panel), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_is_said_and_written_is_what_the_records_count():
    film = picture.film(MODEL, MANY, replace(HARD, uplink=sometimes), 20)
    panel = picture.federation(film)
    for r, step in itertools.product(range(20), (1.0, 3.75, 4.0, 6.75)):
        said = panel.update(round=r + 1, step=step)
        gone = [frame.record for frame in film.frames[: r + (step >= 4)]]
        letters, sent = sum(len(g["who"].present) for g in gone), sum(g["bytes_up"] for g in gone)
        assert sent == letters * 8 * MODEL.P
        assert f"{letters:,} letters, {letters * MODEL.P:,} numbers ({sent:,} bytes), 0 patient records" in said
        shown = [text.get_text() for text in panel.fig.axes[0].texts]
        assert f"{letters:,}" in shown and f"{letters * MODEL.P:,}" in shown


def test_no_patient_records_never_stands_without_what_the_server_sees():
    film = picture.film(MODEL, MANY, PLAN, 2)
    panel = picture.federation(film)
    for step in STEPS:
        said = panel.update(round=1, step=step)
        assert said.index("What the server sees") < said.index("0 patient records")
        assert any("what the server sees" in text.get_text() for text in panel.fig.axes[0].texts)


def test_every_position_of_the_sliders_has_its_sentence():
    film = picture.film(MODEL, MANY, replace(HARD, poisson=True, uplink=sometimes), 25)
    panel = picture.federation(film)
    for round, step in itertools.product(range(1, 26), STEPS):
        said = panel.update(round=round, step=step)
        assert said.startswith(f"Round {round} of 25, step {int(step)} of 6, {list(picture.STEPS)[int(step) - 1]}. ")
        assert said.endswith("records.") and "nan" not in said and "{" not in said
    assert len({panel.update(round=3, step=step) for step in STEPS}) == 6, "a sentence changes with the step alone"
    for name in ("silent", "late", "refused"):
        first = next(r for r, frame in enumerate(film.frames) if name in frame.fate)
        assert f"{name}: {picture.listed(MANY.names, film.frames[first].fate == name)}" in panel.update(first + 1, 5.0)


def test_changes_are_magnified_only_by_what_is_written_beside_them():
    film = picture.film(MODEL, MANY, PLAN, 40)
    panel, top = picture.federation(film), max(np.abs(frame.after).max() for frame in film.frames)
    for r, frame in enumerate(film.frames):
        panel.update(round=r + 1, step=4.25)
        zoom = picture.magnified(frame, top)
        assert f"{zoom:g}" in [text.get_text() for text in panel.fig.axes[0].texts]
        assert top / 1.51 <= zoom * max(np.abs(frame.sent).max(), np.abs(frame.average).max()) <= top * (1 + 1e-9)
    assert zoom >= 8


def test_a_bar_is_as_high_as_its_number():
    quads = picture.bars(np.zeros((1, 2)), (100, 100), np.zeros((1, 3)), np.array([[1.0, -0.5, 0.0]]), least=1)
    assert np.allclose(np.ptp(quads[..., 1], axis=1), [45, 22.5, 1])
    assert np.allclose(quads[0, :, 1].max(), 45) and np.allclose(quads[1, :, 1].min(), -22.5)


def test_two_hundred_hospitals_keep_apart_and_inside():
    many = data.make_hospitals(200, 12, d=3, rng=0)
    where = picture.places(many.names, many.sizes)
    away = np.linalg.norm(where.home[:, None] - where.home, axis=-1) + 1e9 * np.eye(200)
    assert (away >= where.radius[:, None] + where.radius).all()
    assert (np.abs(where.home) + where.radius[:, None] < [300, 220]).all() and (where.home[:, 1] < picture.FLOOR).all()
    panel = picture.federation(picture.film(MODEL, many, replace(HARD, fraction=0.3), 4))
    for step in STEPS:
        assert "hospitals" in panel.update(round=3, step=step)
    panel.refresh()
    assert "⚠" not in panel.picture.said


@pytest.mark.parametrize("K", [1, 2, 5, 6, 7])
def test_few_hospitals_and_a_network_of_many_numbers_are_shown_too(K):
    many, model = data.make_hospitals(K, 12, d=3, rng=0), models.mlp(3, hidden=(5, 4))
    panel = picture.federation(picture.film(model, many, replace(HARD, fraction=1.0), 3))
    for step in STEPS:
        panel.sliders["step"].value = step
        assert "⚠" not in panel.picture.said


def test_a_film_of_no_rounds_is_refused_in_words():
    with pytest.raises(ValueError, match="rounds"):
        picture.film(MODEL, MANY, PLAN, 0)


@pytest.mark.parametrize("K", [1, 2, 3, 5, 6, 7, 13, 60, 1000])
def test_any_number_of_hospitals_finds_its_place(K):
    where = picture.places([f"H{k}" for k in range(K)], np.random.default_rng(0).integers(5, 300, K))
    assert (np.abs(where.home) + where.radius[:, None] < [300, 220]).all()
    assert (np.abs(where.tray[:, 0]) < 162).all() and (where.tray[:, 1] > picture.FLOOR).all()


def contrast(color):
    """The contrast ratio of a colour with white, as in WCAG 2.2."""
    parts = np.array(to_rgb(color))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)


def test_every_ink_stands_out_from_white():
    names = [f"H{k}" for k in range(6)]
    inks = {*picture.places(names, np.ones(6)).color, *picture.places(MANY.names, MANY.sizes).color, picture.GREY}
    panel = picture.federation(picture.film(MODEL, data.make_hospitals(6, 20, d=3, rng=0), HARD, 6))
    for step in STEPS:
        panel.update(round=4, step=step)
        for part in panel.fig.axes[0].collections:
            found = [*part.get_facecolor(), *part.get_edgecolor()]
            inks |= {to_hex(color) for color in found if color[3] and tuple(color[:3]) != (1, 1, 1)}
    inks |= {line.get_color() for ax in panel.fig.axes for line in ax.lines}
    inks |= {text.get_color() for ax in panel.fig.axes for text in ax.texts}
    assert len(inks) > 7
    assert {ink: round(contrast(ink), 2) for ink in inks if contrast(ink) < 3} == {}


def test_text_is_large_enough_and_a_projector_gets_more_pixels():
    film = picture.film(MODEL, MANY, PLAN, 3)
    panel, large = picture.federation(film), picture.federation(film, dpi=180)
    sizes = [text.get_fontsize() for ax in panel.fig.axes for text in (*ax.texts, ax.title, ax.xaxis.label)]
    assert min(sizes) * 100 / 72 >= 11
    wide = [Image.open(io.BytesIO(one.picture.value)).width for one in (panel, large)]
    assert wide[0] == 980 and 1700 < wide[1] <= 1920


def test_how_a_letter_looks_is_a_function():
    """Later pages draw sealed, noisy or forged letters; here one that nobody can read."""

    def sealed(centres, size, old, new, colors):
        return picture.opened(centres, size, old, new, colors)[:1]

    film = picture.film(MODEL, MANY, PLAN, 3)
    count = [
        len(
            next(a for a in picture.federation(film, letter=letter).moving if isinstance(a, PolyCollection)).get_paths()
        )
        for letter in (picture.opened, sealed)
    ]
    assert count[0] - count[1] == 2 * 4 * MODEL.P


def test_every_colour_of_the_kit_stands_out_and_the_two_yardsticks_differ_in_grey():
    assert min(map(contrast, plots.PALETTE)) >= 3
    pooled, local = (contrast(plots.style(name)["color"]) for name in ("pooled", "local"))
    assert pooled / local > 1.3, "in grey print one must be darker than the other"


def test_a_band_has_edges_that_stand_out():
    fig, ax = plots.sheet()
    runs = np.cumsum(np.random.default_rng(0).random((5, 9)), axis=1)
    plots.band(np.arange(9), runs, ax, "network", 7)
    low, high, middle = (line.get_ydata() for line in ax.lines)
    assert np.array_equal(low, runs.min(0)) and np.array_equal(high, runs.max(0))
    assert np.array_equal(middle, np.median(runs, 0))
    assert all(contrast(line.get_color()) >= 3 and line.get_alpha() is None for line in ax.lines)
