"""Instant answers to the notebooks' exercises and quizzes: check, hint, solution.

The exercises themselves are text, in a file per notebook: bank/03.toml has "03.1", "03.q1" and the others of
notebook 03. Tests hold that every solution passes and that every wrong answer gets its own hint. An entry has

solution   a line of Python whose value is right
praise     what a right answer teaches
wrong      common wrong answers, each with the hint that fits it
hint       the nudge for everything else
trials     for exercises that ask for a function: the arguments of each trial call
tolerance  relative (default 0.001)
"""

import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import aggregate, attacks, evaluate, hospital, models, privacy
from ..checks import meant

FOLDER = Path(__file__).with_name("bank")


class Verdict(NamedTuple):
    """ok is True, False, or None for a blank; a notebook shows the text."""

    ok: bool | None
    text: str

    def __repr__(self):
        return self.text


@cache
def bank(notebook):
    """The exercises of one notebook, by number: bank("03") reads 03.toml. A notebook without a file has none."""
    file = FOLDER / f"{notebook}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def everything():
    """The exercises of all notebooks, by number, in the order of the course."""
    return {number: this for file in sorted(FOLDER.glob("*.toml")) for number, this in bank(file.stem).items()}


def exercise(number):
    """The entry of the bank with this number; only its own notebook's file is read."""
    found = bank(str(number)[:2])
    if number not in found:
        raise KeyError(f"there is no exercise {number!r}. {meant(number, found or everything())}")
    return found[number]


def value(source):
    """The value of an answer that the bank gives as a line of Python."""
    tools = (np, aggregate, attacks, evaluate, hospital, models, privacy)
    return eval(source, {tool.__name__.split(".")[-1].replace("numpy", "np"): tool for tool in tools})


def check(number, answer):
    """Is the answer right? A blank is "not yet", a right one says so, a common wrong one gets its hint: Verdict."""
    this = exercise(number)
    if answer is ...:
        return Verdict(None, f"{number}: not yet. Put your answer in place of the three dots.")
    try:
        theirs = results(this, answer)
        if any(blank(result) for result in theirs):  # a blank that was returned, or that stopped the function
            return Verdict(None, f"{number}: not yet. There is still a blank inside.")
        for wrong in this["wrong"]:
            if alike(theirs, this, wrong["answer"]):
                return Verdict(False, f"{number}: not quite. {wrong['hint']}")
        if alike(theirs, this, this["solution"], strict=True):
            return Verdict(True, f"{number}: right. {this.get('praise', '')}".strip())
    except Unfit as reason:
        return Verdict(False, f"{number}: not quite. {reason}")
    return Verdict(False, f"{number}: not quite. {this['hint']}")


def hint(number):
    """A nudge in the right direction, without the answer."""
    return Verdict(None, f"{number}: {exercise(number)['hint']}")


def solution(number):
    """The answer, as a line of Python, with its reason where there is one."""
    this = exercise(number)
    return Verdict(None, "\n".join([this["solution"].strip(), this.get("praise", "")]).strip())


class Unfit(Exception):
    """The answer cannot be compared; the text says why."""


def blank(answer):
    """Are there still three dots in it?"""
    inside = answer if isinstance(answer, list | tuple) else ()
    return answer is ... or any(item is ... for item in inside)


def results(this, answer):
    """The answer as a list: itself, or, if the exercise asks for a function, what it returns for each trial."""
    if "trials" not in this:
        if callable(answer):
            raise Unfit("This is a function. Give the value that it returns.")
        if answer is None:
            raise Unfit("Your answer is None, which is what print(…) gives back. Give the value itself.")
        return [answer]
    if not callable(answer):
        raise Unfit("The answer is to be a function: give its name, without calling it.")
    try:
        found = [answer(*value(trial)) for trial in this["trials"]]
    except (Exception, SystemExit) as error:
        if "ellipsis" in str(error):
            return [...]
        raise Unfit(f"Your function stopped with {type(error).__name__}: {error}.") from error
    if any(result is None for result in found):
        raise Unfit("Your function gave nothing back (None). End it with return, not with print.")
    return found


def alike(theirs, this, source, strict=False):
    """Does the answer agree with the one that the bank writes as `source`? strict: say it where it cannot."""
    pairs = zip(theirs, results(this, value(source)), strict=True)
    try:
        return all(same(a, b, this.get("tolerance", 1e-3)) for a, b in pairs)
    except Unfit:
        if strict:
            raise
        return False


def same(answer, expected, tolerance):
    """Texts in any case, numbers to the tolerance; what cannot be compared is Unfit."""
    if isinstance(expected, str):
        if not isinstance(answer, str):
            raise Unfit("The answer is to be a text such as 'a', in quotes.")
        return answer.strip(" ().'\"").lower() == expected.lower()
    try:
        answer = np.asarray(answer)
        answer = answer.astype(float, casting="same_kind" if answer.dtype.kind == "c" else "unsafe")
    except Exception:
        raise Unfit("The answer is to be a number or an array of numbers.") from None
    if answer.size == 1 == np.size(expected):
        answer = answer.reshape(np.shape(expected))  # [4.2] is as good as 4.2
    if answer.shape != np.shape(expected):
        raise Unfit(f"The answer is to have the shape {np.shape(expected)}, but yours has {answer.shape}.")
    if not np.isfinite(answer).all():
        raise Unfit("There is a NaN or an infinity in your answer.")
    return np.allclose(answer, expected, rtol=tolerance, atol=tolerance * 1e-3)
