"""Instant answers to the notebooks' exercises and quizzes: check, hint, solution.

The exercises themselves are text, in a file per notebook: bank/03.toml has "03.1", "03.q1" and the others of
notebook 03. Tests hold that every solution passes and that every wrong answer gets its own hint. An entry has

solution   a line of Python whose value is right
also       other answers that are right, too
praise     what a right answer teaches
wrong      common wrong answers, each with the hint that fits it
hint       the nudge for everything else, after what `diagnosis` finds
trials     for exercises that ask for a function: the arguments of each trial call
tolerance  relative (default 0.001)
"""

import copy
import json
import re
import textwrap
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import aggregate, attacks, evaluate, hospital, models, privacy
from ..checks import meant
from ..folders import NOTEBOOKS
from . import diagnosis, guard

FOLDER = Path(__file__).with_name("bank")


class Verdict(NamedTuple):
    """ok is True, False, or None for a blank; a notebook shows the text, in lines that end between words."""

    ok: bool | None
    text: str

    def __repr__(self):
        return "\n".join(textwrap.fill(line, 80, break_long_words=False) for line in self.text.splitlines())


@cache
def bank(notebook):
    """The exercises of one notebook, by number: bank("03") reads 03.toml. A notebook without a file has none."""
    file = FOLDER / f"{notebook}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def everything():
    """The exercises of all notebooks, by number, in the order of the course."""
    return {number: this for file in sorted(FOLDER.glob("*.toml")) for number, this in bank(file.stem).items()}


def named(number):
    """The number of an exercise as the bank writes it: 3.1, "3.1" and "03.1 " are "03.1"."""
    found = re.fullmatch(r"\s*(\d{1,2})\.(q?\d)\s*", str(number))
    return f"{int(found[1]):02d}.{found[2]}" if found else str(number)


def exercise(number):
    """The entry of the bank with this number; only its own notebook's file is read."""
    found = bank(number[:2])
    if number not in found:
        raise KeyError(f"there is no exercise {number!r}. {meant(number, found or everything())}")
    return found[number]


@cache
def options(number):
    """The choices of a question as its notebook prints them, {letter: text}; {} where there are none."""
    page = next(NOTEBOOKS.glob(f"{number[:2]}_*.ipynb"), None)
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"] if page else []
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    asked = re.search(rf"\*\*{re.escape(number)}\b(.*?)(?=\*\*\d\d\.|\n## |\Z)", text, re.DOTALL)
    found = re.findall(
        r"(?:^|[\s,;(-])([a-e])\) (.*?)(?=[,;.]?\s+-? ?[a-e]\) |\Z)", asked[1] if asked else "", re.DOTALL
    )
    return {letter: plain(words) for letter, words in found}


def plain(words):
    """Words without what surrounds them: case, markup, punctuation at the ends."""
    return " ".join(re.sub(r"[*`$\\]", "", words).lower().split()).strip(" .,;:()'\"")


def value(source):
    """The value of an answer that the bank gives as a line of Python."""
    tools = (np, aggregate, attacks, evaluate, hospital, models, privacy)
    return eval(source, {tool.__name__.split(".")[-1].replace("numpy", "np"): tool for tool in tools})


def check(number, answer):
    """Is the answer right? A blank is "not yet", a right one says so, a wrong one gets its hint: Verdict."""
    number = named(number)
    this = exercise(number)
    if answer is ...:
        return Verdict(None, f"{number}: not yet. Put your answer in place of the three dots.")
    if isinstance(answer, str):
        answer = letter(number, answer)
    theirs, right = [], results(this, value(this["solution"]))
    try:
        theirs = results(this, answer)
        if any(blank(result) for result in theirs):  # a blank that was returned, or that stopped the function
            return Verdict(None, f"{number}: not yet. There is still a blank inside.")
        for wrong in this["wrong"]:
            if alike(theirs, this, wrong["answer"]):
                return Verdict(False, f"{number}: not quite. {wrong['hint']}")
        agrees = any(alike(theirs, this, other) for other in this.get("also", ()))
        if agrees or all(same(a, e, this.get("tolerance", 1e-3)) for a, e in zip(theirs, right, strict=True)):
            return Verdict(True, f"{number}: right. {this.get('praise', '')}".strip())
        why = ""
    except Unfit as reason:
        why = str(reason)
    found = diagnosed(this, theirs, right) or why
    enough = "trials" in this and found and not found.startswith(diagnosis.EXAMPLE)
    return Verdict(False, " ".join(filter(None, [f"{number}: not quite.", found, "" if enough else this["hint"]])))


def letter(number, answer):
    """The letter of a choice that was given as "c)", "c) feature shift" or "feature shift", or the answer itself."""
    known, said = options(number), plain(answer)
    if known and re.match(r"[a-e]\b", said) and (len(said) == 1 or said[1] in ").:" or said[2:] in known.values()):
        return said[0]
    return next((letter for letter, words in known.items() if words == said), answer)


def diagnosed(this, theirs, right):
    """What is wrong with an answer that is not in the bank, in words, or ""."""
    if isinstance(right[0], str) or len(theirs) != len(right):
        return ""
    try:
        theirs = [numeric(one, truths="trials" in this) for one in theirs]
    except Unfit:
        return ""
    trials = [value(trial) for trial in this.get("trials", ())]
    return diagnosis.of(theirs, right, this.get("tolerance", 1e-3), trials, names_of(this) if trials else ())


def hint(number):
    """A nudge in the right direction, without the answer."""
    number = named(number)
    return Verdict(None, f"{number}: {exercise(number)['hint']}")


def solution(number):
    """The answer, as a line of Python, with its reason where there is one."""
    this = exercise(named(number))
    return Verdict(None, "\n".join([this["solution"].strip(), this.get("praise", "")]).strip())


class Unfit(Exception):
    """The answer cannot be compared; the text says why."""


def blank(answer):
    """Are there still three dots in it, however deep?"""
    if isinstance(answer, np.ndarray) and answer.dtype == object:
        answer = answer.tolist()
    return answer is ... or isinstance(answer, list | tuple) and any(map(blank, answer))


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
    return [tried(answer, value(trial), this) for trial in this["trials"]]


def tried(function, arguments, this):
    """What a function returns; whatever it does instead is said in words."""
    before = copy.deepcopy(arguments)
    try:
        with guard.no_exit(), np.errstate(all="ignore"):
            found = function(*arguments)
    except guard.ANYTHING as error:
        if "ellipsis" in guard.words(error):
            return ...
        raise Unfit(diagnosis.stopped(error, names_of(this))) from None
    for name, now, then in zip(names_of(this), arguments, before, strict=True):
        if not np.array_equal(now, then):
            raise Unfit(
                f"Your function changes {name} while it computes. Leave its arguments alone: x = x + 1, not x += 1."
            )
    if found is None:
        inputs = diagnosis.given(dict(zip(names_of(this), arguments, strict=True)))
        raise Unfit(f"Your function gave nothing back (None) {inputs}. End every branch with return, not with print.")
    return found


@cache
def parameters(source):
    """The names of the arguments of a function that the bank writes as `source`."""
    code = value(source).__code__
    return code.co_varnames[: code.co_argcount]


def names_of(this):
    """What the arguments of an exercise's function are called."""
    return parameters(this["solution"])


def alike(theirs, this, source):
    """Does the answer agree with the one that the bank writes as `source`?"""
    try:
        pairs = zip(theirs, results(this, value(source)), strict=True)
        return all(same(a, b, this.get("tolerance", 1e-3)) for a, b in pairs)
    except Unfit:
        return False


def same(answer, expected, tolerance):
    """Texts in any case, numbers to the tolerance; what cannot be compared is Unfit."""
    if isinstance(expected, str):
        if not isinstance(answer, str):
            raise Unfit("The answer is to be a text such as 'a', in quotes.")
        return answer.strip(" ().'\"").lower() == expected.lower()
    answer = numeric(answer, np.asarray(expected).dtype.kind == "b")
    if answer.size == 1 == np.size(expected):
        answer = answer.reshape(np.shape(expected))  # [4.2] is as good as 4.2
    if answer.shape != np.shape(expected):
        raise Unfit(misshapen(answer.shape, np.shape(expected)))
    return np.allclose(answer, expected, rtol=tolerance, atol=tolerance * 1e-3)


def misshapen(found, asked):
    """Another shape than the right one, in words."""
    if not asked:
        return f"One number is asked, and yours are {' × '.join(map(str, found))}."
    if not found:
        return f"{' × '.join(map(str, asked))} numbers are asked, and yours is one."
    return f"The answer is to have the shape {asked}, but yours has {found}."


def numeric(answer, truths=False):
    """An answer as an array of floats, or why it is none."""
    if np.ma.is_masked(answer):
        raise Unfit("Some numbers in your answer are masked: there is nothing to compare.")
    if isinstance(answer, str):
        number = re.fullmatch(r"\s*[-+]?\d+([.,]\d+)?\s*", answer)
        raise Unfit(
            "This is a text. Give the number itself, without quotes, with a point before the decimals."
            if number
            else "The answer is to be a number or an array of numbers, not a text."
        )
    try:
        found = np.asarray(answer)
        if found.dtype.kind in "OUS" and any(isinstance(one, str) for one in found.ravel()):
            raise Unfit("There are texts in your answer. Give numbers, without quotes.")
        if found.dtype.kind == "b" and not truths:
            raise Unfit(
                "Your answer is True or False, and a number is asked: what is to be counted or computed from it?"
            )
        found = found.astype(float, casting="same_kind" if found.dtype.kind == "c" else "unsafe")
    except (TypeError, ValueError, OverflowError):
        raise Unfit("The answer is to be a number or an array of numbers.") from None
    if not np.isfinite(found).all():
        raise Unfit("There is a NaN or an infinity in your answer.")
    return found
