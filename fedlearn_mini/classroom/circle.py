"""Who can read what in a secure sum: the playground of notebook 14, with the real protocol behind it."""

import numpy as np

from ..secure import Circle, Masks, Member, put_together
from . import plots

HIDDEN, READ, LEFT, SIDE = "only in the sum", "can be read alone", "left", "colludes with the server"
LOOKS = {HIDDEN: ("o", "#0072B2"), READ: ("D", "#D55E00"), LEFT: ("x", "#5B5B5B"), SIDE: ("s", "black")}
WHEN = ["after the model was sent", "before the shares were dealt", "while shares are opened"]
SEATS = np.arange(10)
MEMBERS = [Member(int(seat), bytes([100 + seat]) * 32) for seat in SEATS]
KEYS = np.array([one.hello() for one in MEMBERS])


def secrets_of(there, stayed, answering, threshold):
    """Run the protocol among those there: what the server can put together, {row: secret}, or {} if too few are left.

    there, stayed, answering are masks (10,): who dealt shares, whose row came, who answered when they were opened.
    """
    circle = Circle(SEATS[there], KEYS[there], Masks(threshold=threshold))
    us = [MEMBERS[seat]._replace(circle=circle) for seat in SEATS[there]]
    boxes, everybody, here = np.array([one.boxes() for one in us]), np.ones(len(us), bool), stayed[there]
    if here.sum() < max(3, threshold):
        return {}
    shares = [one.answer(everybody, here, boxes) for one in us if answering[one.seat]]
    return put_together(circle, everybody, here, {"seat": SEATS[answering], "shares": shares}) or {}


def who_reads(K, lost, when, threshold, curious):
    """What becomes of each of K hospitals (K,), the last `lost` of whom leave and the first `curious` collude; a sum?

    Colluders who hold a threshold of shares open both secrets of everybody; otherwise they subtract what is theirs.
    """
    here, gone = SEATS < K, SEATS >= K - lost
    there = here & ~(gone & (when == WHEN[1]))
    stayed = there & ~(gone & (when == WHEN[0]))
    done = bool(secrets_of(there, stayed, stayed & ~(gone & (when == WHEN[2])), threshold))
    fate = np.where(SEATS < curious, SIDE, np.where(stayed, HIDDEN, LEFT))[:K]
    others = np.flatnonzero(fate == HIDDEN)
    if curious >= threshold or (done and len(others) == 1):
        fate[others] = READ
    return fate, done


def stage():
    """The figure, its moving artists, and `move` for a LivePanel: (fig, artists, move)."""
    fig, ax = plots.sheet(width=8.4, height=3.7)
    ax.set(xlim=(-1.6, 3.6), ylim=(-1.32, 1.32), xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)
    strings = ax.plot([], [], color="0.45", linewidth=0.9)[0]
    dots = {name: ax.plot([], [], mark, color=ink, markersize=13, label=name)[0] for name, (mark, ink) in LOOKS.items()}
    numbers = [ax.text(0, 0, str(seat + 1), ha="center", va="center", fontsize=12) for seat in SEATS]
    reads = ax.text(0, 0, "", ha="center", va="center", fontsize=12, bbox={"color": "white"})
    ax.legend(loc="center right", frameon=False, fontsize=11)

    def move(K, lost, when, threshold, curious):
        try:
            fate, done = who_reads(K, min(lost, K), when, threshold, min(curious, K))
            said = in_words(fate, done, threshold)
        except ValueError as refusal:  # the members' own sentence: they refuse to deal shares
            fate, done, said = np.full(K, LEFT), False, f"Nobody sends anything: {refusal}"
        angle = np.pi / 2 - 2 * np.pi * np.arange(K) / K
        at = np.column_stack([np.cos(angle), np.sin(angle)])
        pairs = [(i, j) for i in range(K) for j in range(i) if fate[i] == fate[j] == HIDDEN]
        strings.set_data(*np.array([(*at[i], *at[j], np.nan, np.nan) for i, j in pairs]).reshape(-1, 2).T)
        for name, line in dots.items():
            line.set_data(*at[fate == name].T)
        for seat, number in enumerate(numbers):
            number.set_visible(seat < K)
            number.set_position(1.22 * at[min(seat, K - 1)])
        reads.set_text(f"sum of {(fate != LEFT).sum()}" if done else "no sum")
        return said

    return fig, [strings, *dots.values(), *numbers, reads], move


def in_words(fate, done, threshold):
    """What the server and those who collude with it know."""
    first = "Too few are left: no sum, and nothing is opened"
    if done:
        first = f"The server reads the sum of {(fate != LEFT).sum()} hospitals"
    alone, colluders = int((fate == READ).sum()), int((fate == SIDE).sum())
    if not alone:
        return f"{first}; nobody can be read alone."
    why = f"{colluders} colluders hold {threshold} shares of every secret"
    if colluders < threshold:
        why = f"{colluders} colluders subtract what they sent themselves"
    return f"{first}; {alone} can be read alone: {why}."
