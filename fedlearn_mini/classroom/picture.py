"""A federation that one can look at: the server on top, the hospitals below, and what travels between them.

A dot is a patient, filled if ill, and no dot ever moves. What travels is a card with a bar for each of its numbers: the
model goes down in black, training adds coloured pieces, and only those come up. `film` notes what happens in the real
rounds, `federation` shows it; nothing is drawn that was not noted. Lengths on the stage are pixels at 100 dpi.
"""

from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from ..checks import whole
from ..data import Hospitals
from ..desk import Desk
from ..evaluate import average_loss
from ..plan import pieces
from ..protocol import initial, one_round
from . import plots
from .widgets import LivePanel, slider

STEPS = {  # their names, and what is said of them
    "invite": "The server invites {asked}",
    "send the model": "A copy of the model travels to {asked}",
    "train at home": "The model learns from the patients of {sent}, and nothing travels",
    "send the change": "Only what training changed travels up, from {sent}",
    "average": "The server averages what it got from {used}",
    "update": "The server adds the average to its model",
}
INVITE, SEND, TRAIN, RETURN, AVERAGE, UPDATE = range(6)
FATES = {"silent": TRAIN, "late": RETURN, "refused": AVERAGE, "not invited": INVITE}  # and the step that shows it
SENT = ["heard", "late", "refused"]
MARKS = {"heard": "s", "late": ">", "silent": "o", "refused": "x"}
GREY, FEW = "#6A6A6A", 6  # more than FEW hospitals are discs
MODEL, CHANGE, STRIP = np.array([[-80.0, 154]]), np.array([[80.0, 154]]), np.array([146, 62])  # at the server
FLOOR, DOOR, HALFWAY = 44, 0.8, 0.5  # its lower edge; that edge and where late letters wait, as parts of their way
SMALL = {"fontsize": 8.5, "va": "center", "linespacing": 1.2}


class Frame(NamedTuple):
    """A round: θ before and after it, the average (P,), letters (K, P) with NaN where there is none, and who.

    sent letters as they left home, came those of them that were used, old those used that had been late before; fate
    (K,) of FATES, or "heard"; record as the protocol says it.
    """

    theta: np.ndarray
    after: np.ndarray
    average: np.ndarray
    sent: np.ndarray
    came: np.ndarray
    old: np.ndarray
    fate: np.ndarray
    record: dict


class Film(NamedTuple):
    """Hospitals, the average training loss after 0, 1, … rounds, and a Frame for each round."""

    hospitals: Hospitals
    losses: np.ndarray
    frames: list


def film(model, hospitals: Hospitals, plan, rounds: int) -> Film:
    """What happens in so many rounds, noted by listeners at both ends of the wire: the protocol is as it was."""
    desk, parts, noted = Desk.of(hospitals), pieces(plan, model), {}

    def note(name, value):
        noted[name] = value
        return value

    def by_hospital(letters, which):
        seats, rows = letters["seat"][which], np.full((len(desk.names), model.P), np.nan, letters["update"].dtype)
        rows[seats if desk.rows is None else desk.rows[seats]] = letters["update"][which]
        return rows

    wire = lambda *way: note("sent", way[:2]), *parts.wire, lambda *way: note("came", way[:2])
    ready = parts._replace(wire=wire, aggregate=lambda *what: note("average", parts.aggregate(*what))), desk
    state, frames = initial(model, plan), []
    for r in range(whole("rounds", rounds)):
        new, record = one_round(state, model, hospitals, plan, ready)
        (sent, _), (came, _), fate = noted["sent"], noted["came"], np.full(len(desk.names), "not invited")
        for word, rows in zip(("silent", "heard", "late", "refused"), record["who"], strict=True):
            fate[rows] = word
        now = came["round"] == r
        letters = by_hospital(sent, slice(None)), by_hospital(came, now), by_hospital(came, ~now)
        frames.append(Frame(state.theta, new.theta, noted["average"], *letters, fate, record))
        state = new
    thetas = [frames[0].theta, *(frame.after for frame in frames)]
    return Film(hospitals, np.array([average_loss(model, theta, hospitals) for theta in thetas]), frames)


class Places(NamedTuple):
    """Of the hospitals: centres and trays at the server (K, 2), radii and colours (K,), the size of a card (2,)."""

    home: np.ndarray
    tray: np.ndarray
    radius: np.ndarray
    color: np.ndarray
    card: np.ndarray


def places(names, sizes) -> Places:
    """An arc of circles with areas like sizes; of more than FEW hospitals, half-rings of discs."""
    K, k, radius = len(sizes), np.arange(len(sizes)), np.sqrt(sizes / np.max(sizes))
    x, pitch, rings = (k + 0.5) / K - 0.5, min(76, 308 / K), np.ceil(np.sqrt(K / 9))
    if K > FEW:
        turn, reach = np.pi * (1.5 + 0.9 * x[:, None]), 1 - 0.42 * (k[:, None] % rings) / rings
        home = reach * np.hstack([288 * np.cos(turn), 215 * np.sin(turn)]) + [0, 12]
        color = np.full(K, plots.PALETTE[0])
        return Places(home, home * [0.5, 0.2] + [0, 104], radius * min(22, 24 / rings), color, np.array([6, 4]))
    home, tray = np.column_stack([596 * x, 96 * x**2 - 118]), np.column_stack([K * pitch * x, np.full(K, 78)])
    color = np.array([plots.style(name, seat)["color"] for seat, name in enumerate(names)])
    return Places(home, tray, radius * min(58, 298 / K - 6), color, np.array([0.95, 0.58]) * pitch)


def boxes(centres, sizes):
    """Rectangles (m, 4, 2) around centres (m, 2)."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    return np.reshape(centres, (-1, 1, 2)) + corners * np.reshape(sizes, (-1, 1, 2))


def bars(centres, size, low, high, least):
    """In each card a bar for each number, from low to high (m, p), where 1 is half a card: (m · p, 4, 2)."""
    (wide, tall), p = 0.9 * np.asarray(size), high.shape[1]
    low, high = (np.clip(np.nan_to_num(end), -1, 1) * tall / 2 for end in (low, high))
    x, height = centres[:, :1] + ((np.arange(p) + 0.5) / p - 0.5) * wide, np.maximum(abs(high - low), least)
    middle = np.stack([x + 0 * low, centres[:, 1:] + (low + high) / 2], -1)
    return boxes(middle, np.stack([np.full_like(height, 0.76 * wide / p), height], -1))


def opened(centres, size, old, new, colors):
    """Letters that can be read on the way: cards, in them black bars for old numbers, and coloured pieces on these."""
    black, pieces = bars(centres, size, 0 * old, old, least=1), bars(centres, size, old, old + new, least=0)
    inks = np.repeat(colors, new.shape[1])
    return [(boxes(centres, size), "white", colors), (black, "black", "none"), (pieces, inks, "none")]


def arrows(start, end, wide):
    """Shafts, then heads (2 m, 4, 2), of arrows from start (m, 2) to end."""
    along = (end - start) / np.maximum(np.linalg.norm(end - start, axis=1, keepdims=True), 1e-9)
    side, neck = along[:, ::-1] * [-wide, wide], end - 2 * wide * along
    shaft = start - side / 4, start + side / 4, neck + side / 4, neck - side / 4
    return np.concatenate([np.stack(shaft, 1), np.stack([neck - side, neck + side, end, end], 1)])


def letters(frame: Frame, at: Places, step, u):
    """The letters at a step of which u (0 … 1) is done: whose (m,), where (m, 2), old and new numbers (m, P)."""
    K, going = len(frame.fate), {SEND: ["silent", *SENT], INVITE: []}.get(step, SENT)
    fate = np.append(frame.fate, np.where(np.isfinite(frame.old).all(1), "waited", ""))  # of the round before
    who, late = np.flatnonzero(np.isin(fate, ["waited", *going])), frame.fate == "late"
    far = np.full(2 * K, {SEND: DOOR * (1 - u), TRAIN: 0.0, RETURN: u}.get(step, 1.0))  # 0: at home, 1: in the tray
    far[:K][late & (step >= RETURN)] = min(far[0], HALFWAY)
    far[K:] = HALFWAY + (1 - HALFWAY) * (u if step == RETURN else step > RETURN)
    spots = at.home[who % K] + far[who, None] * (at.tray - at.home)[who % K] + [[5, -5]] * (who >= K)[:, None]
    new = np.where(late[:, None] | (step < AVERAGE), frame.sent, frame.came) * {SEND: 0, TRAIN: u}.get(step, 1)
    old = np.outer(np.repeat([step in (SEND, TRAIN), 0], K), frame.theta)
    return who % K, spots, old[who], np.vstack([new, frame.old])[who]


def travelling(frame: Frame, at: Places, step, u, top, zoom, letter=opened):
    """All that moves on the stage: (quads, fills, edges), the lowest first. At the value top a bar is half a card."""
    few, shapes = len(at.home) <= FEW, [(boxes([[-236, 204 - 17 * step]], [124, 16]), "none", "black")]
    if step in (INVITE, SEND, RETURN):
        way, on = at.tray - at.home, np.isin(frame.fate, SENT if step == RETURN else ["silent", *SENT])
        gate = at.home + way * ((at.radius + 4) / np.linalg.norm(way, axis=1))[:, None]
        door = at.tray - way * (at.tray - FLOOR)[:, 1:] / way[:, 1:]
        start, end = (gate, door) if step == RETURN else (door, door + (u if step == INVITE else 1) * (gate - door))
        ink = np.tile(at.color[on], 2) if step == RETURN else "black"
        shapes += [(arrows(start[on], end[on], 6 if few else 2), ink, "none")]
    who, spots, old, new = letters(frame, at, step, u)
    old, new, ink = old / top, new * zoom / top, np.where(new.any(1), at.color[who], "black")
    shapes += letter(spots, at.card, old, new, ink) if few else [(boxes(spots, at.card), ink, "none")]
    theta, after, change = (value[None] / top for value in (frame.theta, frame.after, frame.average * zoom))
    change = change * {AVERAGE: u, UPDATE: 1 - u}.get(step, 0)
    shapes += opened(MODEL, STRIP, theta, (after - theta) * u * (step == UPDATE), [GREY])[1:]
    return shapes + opened(CHANGE, STRIP, 0 * change, change, [GREY])[1:]


def scenery(ax, film: Film, at: Places):
    """What stays: the server, words, and a dot for every patient, the ill ones filled and in the middle."""
    (names, sizes), few = (film.hospitals.names, film.hospitals.sizes), len(at.home) <= FEW
    ill = (film.hospitals.y * film.hospitals.w).sum(-1)
    ax.set(xlim=(-300, 300), ylim=(-220, 220))
    ax.axis("off")
    ax.add_patch(Rectangle((-162, FLOOR), 324, 172, facecolor="white", edgecolor="black"))
    for i, step in enumerate(STEPS):
        ax.text(-294, 204 - 17 * i, f"{i + 1} {step}", **SMALL)
    key = "a dot is a patient,\nfilled: ill" if few else "a disc is a hospital,\ndark part: the ill"
    words = [(-294, 74, key), (-132, 203, "the server’s model"), (30, 203, "average change"), (168, 204, "round")]
    words += [(226, 204, f"of {len(film.frames)}"), (168, 168, "changes are drawn at"), (208, 154, "times the scale")]
    words += [(168, 140, "of the model"), (168, 114, "what the server sees,\nsent so far:")]
    words += [(226, 88 - 14 * i, word) for i, word in enumerate(("letters", "numbers", "patient", "records"))]
    for x, y, word in words:
        ax.text(x, y, word, **SMALL)
    if not few:
        for part, face in ((1, "white"), (ill, at.color)):
            ax.scatter(*at.home.T, s=part * (1.44 * at.radius) ** 2, facecolor=face, edgecolor=at.color, linewidth=0.7)
        return
    ax.add_collection(PolyCollection(boxes(at.tray, at.card), facecolor="none", edgecolor=GREY, linestyle=":"))
    for name, n, share, centre, radius, color in zip(names, sizes, ill, at.home, at.radius, at.color, strict=True):
        ax.add_patch(Circle(centre, radius + 2, facecolor="white", edgecolor=color))
        i = np.arange(n)[:, None]
        pitch, turn = (radius - 2) / n**0.5, 2.39996 * i  # the golden angle, as in a sunflower
        spot = centre + pitch * (i + 0.5) ** 0.5 * np.hstack([np.cos(turn), np.sin(turn)])
        face = np.where(i[:, 0] < round(share * n), color, "white")
        ax.scatter(*spot.T, s=(0.95 * pitch) ** 2, facecolor=face, edgecolor=color, linewidth=0.7)
        told = f"{name}\n{n}{' patients' * (len(sizes) < 5)}, {share:.0%} ill"
        ax.text(centre[0], centre[1] - radius - 8, told, **SMALL | {"va": "top"}, ha="center")


def beside(curve, diary, film: Film, colors):
    """The loss and the diary of the letters; the dot and the frame that say which round it is are returned."""
    names, few, fates = film.hospitals.names, len(colors) <= FEW, np.array([frame.fate for frame in film.frames])
    size = np.clip(120 / len(fates), 3, 6)
    for ax in (curve, diary):
        ax.spines[["top", "right"]].set_visible(False)
        ax.set(xlim=(-0.02 * len(fates), 1.02 * len(fates) + 0.5), xlabel="round")
        ax.xaxis.get_major_locator().set_params(integer=True)
    curve.plot(film.losses, color="black", linewidth=1)
    curve.set_ylabel("average training loss")
    diary.set_title("■ heard   ▶ late   ○ silent   × refused", fontsize=8.5)
    rows = {"ylim": (len(names) - 0.4, -0.6), "yticks": range(len(names)), "yticklabels": names}
    diary.set(**rows if few else {"ylim": (-0.03 * len(names), 1.03 * len(names)), "ylabel": "hospitals"})
    diary.tick_params(axis="y", labelsize=8.5)
    for fate, mark in MARKS.items():
        rows = (fates == fate).T if few else (fates == fate).sum(1)[None]
        for k, (row, ink) in enumerate(zip(rows, colors if few else ["black"], strict=True)):
            when, face = np.flatnonzero(row), "none" if fate == "silent" else ink
            diary.plot(when + 1, when * 0 + k if few else row[when], mark, color=ink, mfc=face, ms=size)
    (dot,) = curve.plot([], [], "o", color="black", markersize=8)
    low, high = diary.get_ylim()
    return dot, diary.add_patch(Rectangle((0, low), 1, high - low, facecolor="none", edgecolor="black"))


def listed(names, which):
    """Up to four names in words, or how many there are."""
    found = [name for name, one in zip(names, which, strict=True) if one]
    few = " and ".join(filter(None, [", ".join(found[:-1]), *found[-1:]]))
    return few if 0 < len(found) < 5 else f"{len(found) or 'no'} hospitals"


def counted(film: Film, r, step):
    """Letters, numbers and bytes that went up so far, as the records of the rounds say."""
    gone = [frame.record for frame in film.frames[: r + (step >= RETURN)]]
    sent = sum(record["bytes_up"] for record in gone)
    return sum(len(record["who"].present) for record in gone), sent // film.frames[0].sent.itemsize, sent


def sentence(film: Film, r, step):
    """A position of the sliders in words."""
    fate, names = film.frames[r].fate, film.hospitals.names
    waited, sent = np.isfinite(film.frames[r].old).all(1), np.isin(fate, SENT)
    whose = {"asked": fate != "not invited", "sent": sent, "used": waited | (fate == "heard")}
    name, words = list(STEPS.items())[step]
    told = [words.format(**{which: listed(names, rows) for which, rows in whose.items()})]
    known = [word for word, since in FATES.items() if step >= since and word in fate]
    told += [f"{word}: {listed(names, fate == word)}" for word in known]
    told += [f"late since the round before: {listed(names, waited)}"] * int(waited.any() and step >= RETURN)
    return (
        f"Round {r + 1} of {len(film.frames)}, step {step + 1} of 6, {name}. {'; '.join(told)}. "
        f"Loss {film.losses[r + (step == UPDATE)]:.3f}. What the server sees, sent so far: "
        "{:,} letters, {:,} numbers ({:,} bytes), 0 patient records.".format(*counted(film, r, step))
    )


def spread(ink, count):
    """One colour for each of so many shapes, from one for all or one each."""
    return np.resize(np.array(ink, object), count)


def magnified(frame: Frame, top):
    """How much larger than the model changes are drawn, to fill a card: 1, 1.5, 2, 3, 4, 6, 8 …"""
    found = np.concatenate([x.ravel() for x in (frame.sent, frame.came, frame.old, frame.average)])
    room = top / np.abs(found[np.isfinite(found)]).max(initial=1e-9)
    two = 2 ** np.floor(np.log2(room))
    return 1.5 * two if 1.5 * two <= room else two


def federation(film: Film, *, letter=opened, at=(2, 4.25), dpi=100):
    """A playground of a film: the slider *step* explains a round, the slider *round* explains learning.

    letter   how letters are drawn: (centres, size, old, new, colours) -> [(quads, fills, edges)]
    at       the round and step to begin with; step 4.25 is in the middle of step 4
    dpi      100 for a laptop; 180 fills a projector of 1920 pixels
    """
    fig = Figure(figsize=(9.8, 4.5), dpi=dpi)
    FigureCanvasAgg(fig)
    stage, curve, diary = map(fig.add_axes, ((0, 0.01, 0.612, 0.98), (0.71, 0.6, 0.28, 0.38), (0.71, 0.11, 0.28, 0.3)))
    names, sizes, frames = film.hospitals.names, film.hospitals.sizes, film.frames
    where, top = places(names, sizes), max(1e-9, *(np.abs(frame.after).max() for frame in frames))
    scenery(stage, film, where)
    dot, now = beside(curve, diary, film, where.color)
    shapes = stage.add_collection(PolyCollection([], zorder=4))
    spots = (222, 204), (204, 154), (222, 88), (222, 74), (222, 60)
    digits = [stage.text(*spot, "", **SMALL, ha="right") for spot in spots]
    notes = [stage.text(0, 0, "", **SMALL, ha="center") for _ in names if len(names) <= FEW]

    def move(round, step):
        r, s, frame = round - 1, int(step) - 1, frames[round - 1]
        u, zoom, (number, sent, _) = step % 1 / 0.75, magnified(frame, top), counted(film, r, s)
        quads, *inks = zip(*travelling(frame, where, s, u, top, zoom, letter), strict=True)
        face, edge = (np.concatenate(list(map(spread, ink, map(len, quads)))) for ink in inks)
        shapes.set(verts=np.concatenate(quads), facecolor=face, edgecolor=edge, linewidth=1.2 * (edge != "none"))
        when = r + u * (s == UPDATE)
        dot.set_data([when], [np.interp(when, range(len(film.losses)), film.losses)])
        now.set_x(r + 0.5)
        for text, said in zip(digits, (round, zoom, number, sent, 0), strict=True):
            text.set_text(f"{said:,}" if text is not digits[1] else f"{said:g}")
        for k, note in enumerate(notes):
            far, fate = {"heard": 1, "refused": 1, "late": HALFWAY}.get(frame.fate[k], 0), frame.fate[k]
            x, y = where.home[k] + far * (where.tray - where.home)[k]
            word = f"{sizes[k]} patients" if fate == "heard" else fate
            note.set_text(word if s >= FATES.get(fate, AVERAGE) else "")
            note.set_position((x, y + 10 + (where.card[1] / 2 if far else where.radius[k])))
        return sentence(film, r, s)

    alt = (
        f"A server above {listed(names, [True] * len(names))}, where a dot is a patient and no dot moves. Cards with "
        "bars travel: the model down, changes up. Beside it the loss by round, and a diary of whose letters came."
    )
    steps = slider(float(at[1]), 1.0, 6.75, 0.25, "step")
    steps.layout.width = "36em"
    artists = [shapes, *digits, *notes, dot, now]
    return LivePanel(fig, artists, move, alt=alt, step=steps, round=slider(at[0], 1, len(frames), 1, "round"))
