"""A wrong answer that nobody foresaw gets the sentence that fits it; a student's code never stops the check."""

import re

import numpy as np
import pytest

from fedlearn_mini.classroom import exercises, guard
from fedlearn_mini.privacy import clip

A = np.array
WEIGHTED = A([4.2, 2.0])  # what 03.2 gives for its first trial

UNFORESEEN = [  # exercise, an answer that the bank does not list, and words of the sentence that it must get
    ("00.1", "400000", "This is a text"),
    ("00.1", "400.000", "This is a text"),
    ("00.1", 400001, "one too many"),
    ("00.1", 399999, "one too few"),
    ("00.1", 390.625, "KiB"),
    ("00.1", 4_000_000, "count zeros"),
    ("00.1", 3_200_000, "eight times"),
    ("00.1", 200_000, "half the right one"),
    ("00.1", [80000] * 5, "add them up"),
    ("00.1", True, "True or False"),
    ("00.1", 123, "Yours is too small"),
    ("01.1", 0.105, "too few numbers"),
    ("01.1", A([[0.105], [0.105]]), "their shape is not"),
    ("01.1", A([-0.105, -0.105]), "its sign is not"),
    ("01.1", A([0.105, -0.105]), "some of the signs"),
    ("01.1", (0.105, 0.2), "Right: 1 of 2 numbers. Not right: number 1"),
    ("01.1", A([1.05, 1.05]), "decimal point is not"),
    ("01.1", np.ma.array([0.105, 0.105], mask=[0, 1]), "masked"),
    ("01.2", [0.075375, 0.05025], "add them up"),
    ("01.2", 12.5625, "per cent"),
    ("01.2", "0,125625", "This is a text"),
    ("01.2", 1 / 0.125625, "upside down"),
    ("02.1", A([[-8.5, 171.0]]), "their shape is not"),
    ("02.1", A([-17.0, 342.0]), "twice the right one"),
    ("02.1", A([-8.5, 161.0]), "Right: 1 of 2"),
    ("02.2", 0.006, "already diverges"),
    ("02.2", 175.322, "upside down"),
    ("03.1", [0.2, 0.4, 3.6], "add them up"),
    ("03.1", 4.3, "Yours is too large"),
    ("07.1", [2.461538, 2.461538], "several times over"),
    ("09.1", 7.0, "ratio of the two"),
    ("03.1", 420, "hundred times"),
    ("03.1", 2.1, "half the right one"),
    ("03.1", 17.64, "square of the right one"),
    ("03.1", [210, 50], "two parts of a division"),
    ("04.2", 13.2, "rounded too far"),
    ("04.2", 2.5824, "logarithm of the right one"),
    ("05.1", [896, 4160, 65], "add them up"),
    ("05.1", 40968, "eight times"),
    ("06.1", 33.6, "decimal point is not"),
    ("07.1", 2.5, "rounded too far"),
    ("07.1", [2, 0.8125], "division"),
    ("07.1", 1.23077, "half the right one"),
    ("08.1", [-3, -3], "some of the signs"),
    ("08.1", [0.3, -0.3], "decimal point is not"),
    ("08.1", 3, "2 numbers are asked, and yours is one"),
    ("09.1", 87.5, "per cent|hundred"),
    ("09.1", 0.88, "rounded too far"),
    ("10.1", [0.3, 0.475, 0.425, 0.35], "half the right one"),
    ("10.1", [0.6, 0.95, 0.85, 0.3], "Right: 3 of 4"),
    ("11.1", [69, -117], "some of the signs"),
    ("12.1", 0.005, "upside down"),
    ("12.1", 2000, "decimal point is not"),
    ("13.2", [9, 18], "among yours"),
    ("13.2", [7, 18, 1], "One number is asked, and yours are 3"),
    ("03.2", lambda updates, sizes: updates @ sizes, "do not fit"),
    ("03.2", lambda updates, sizes: updates * sizes, "do not fit"),
    ("03.2", lambda updates, sizes: sizes[:, None] * updates / sizes.sum(), "sum over axis 0"),
    ("03.2", lambda updates, sizes: (sizes @ updates / sizes.sum())[None], "their shape is not"),
    ("03.2", lambda updates, sizes: -(sizes @ updates) / sizes.sum(), "its sign is not"),
    ("03.2", lambda updates, sizes: sizes @ updates / sizes.sum() ** 2, "multiplied by the sum of sizes"),
    ("03.2", lambda updates, sizes: (sizes @ updates / sizes.sum()).round(), "rounded too far"),
    ("03.2", lambda updates, sizes: np.median(updates, axis=0), r"updates = .* it gives \[2\., 2\.\] instead of"),
    ("03.2", lambda updates, sizes: sum(sizes[k] * updates[k] for k in range(3)), "array does not have"),
    ("03.2", lambda updates: updates, "It is called with updates, sizes"),
    ("03.2", lambda updates, sizes: undefined, "is not known"),  # noqa: F821
    ("03.2", lambda updates, sizes: "4.2", "This is a text"),
    ("03.2", lambda updates, sizes: [0.0, 0.0][2], "array does not have|IndexError"),
    ("03.2", lambda updates, sizes: np.exp(1e9) * updates[0], "NaN or an infinity"),
    ("03.3", lambda theta, thetas, sizes: sizes @ thetas, "divided by the sum of sizes"),
    ("03.3", lambda theta, thetas, sizes: 7, "it gives 7|shape"),
    ("04.1", lambda value, unit: str(value), "This is a text"),
    ("04.1", lambda value, unit: value / 38.67 if unit == "mg/dL" else None, "nothing back .* value = 5.0?, unit = "),
    (
        "04.1",
        lambda value, unit: 38.67 / value if unit == "mg/dL" else value,
        "Right for value = 5.* but not for value",
    ),
    ("05.2", lambda y, p, threshold: p[y == 1] > threshold, "take their mean"),
    ("05.2", lambda y, p, threshold: 100 * (p[y == 1] > threshold).mean(), "hundred times"),
    ("05.2", lambda y, p, threshold: ((p > threshold) and (y == 1)).mean(), "if, and, or, min and max"),
    ("06.2", lambda u, C: u * min(1, C / np.linalg.norm(u, axis=-1, keepdims=True)), "if, and, or, min and max"),
    ("06.2", lambda u, C: clip(u, C).T, "transposed"),
    ("06.2", lambda u, C: clip(u, C)[:, ::-1], "opposite order"),
    ("06.2", lambda u, C: 3 * clip(u, C), "3 times the right ones"),
    ("08.2", lambda u, n, t: (n @ t) / n.sum() * (n @ (u / t[:, None])), "divided by the sum of sizes"),
    ("08.2", lambda u, n, t: (n @ t) / n.sum() * (n @ (u / t)) / n.sum(), "do not fit"),
    ("09.2", lambda sizes, answered: sizes / answered.mean(axis=1), "do not fit"),
    ("10.2", lambda y, p, w: w * (p - y), "sum over axis 1"),
    ("12.2", lambda answers, p: 1 - (answers.mean() - (1 - p)) / (2 * p - 1), "add up to 1"),
    ("13.1", lambda g, C, s, e, n: (clip(g, C).sum(0) + s * C * n) / e * C, "it must still be divided by C"),
]


@pytest.mark.parametrize(("number", "answer", "words"), UNFORESEEN)
def test_an_answer_that_nobody_listed_gets_the_sentence_that_fits(number, answer, words):
    verdict = exercises.check(number, answer)
    assert verdict.ok is False
    assert re.search(words, verdict.text), verdict.text


def changes_its_input(updates, C):
    updates *= np.minimum(1, C / np.linalg.norm(updates, axis=-1, keepdims=True))
    return updates


def without_end(updates, sizes):
    return without_end(updates, sizes)


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text either")


def raises(error):
    def function(updates, sizes):
        raise error

    return function


@pytest.mark.parametrize(
    ("number", "function", "words"),
    [
        ("06.2", changes_its_input, "changes updates while it computes"),
        ("03.2", without_end, "calls itself without an end"),
        ("03.2", raises(Mute()), "Mute: it has no text"),
        ("03.2", raises(KeyboardInterrupt()), "Does its loop end"),
        ("03.2", raises(SystemExit()), r"exit\(\)"),
        ("03.2", lambda updates, sizes: 1 / 0, "divided by 0"),
        ("03.2", lambda updates, sizes: [1, 2] + sizes @ [[3]], "do not fit"),
        ("03.2", lambda updates, sizes: "a" + 1, "a list is no array"),
        ("03.2", lambda updates, sizes: updates.average, "not of the kind"),
        ("03.2", lambda updates, sizes: float(updates), "wants one number"),
    ],
)
def test_62_whatever_a_function_does_is_said_in_words(number, function, words):
    verdict = exercises.check(number, function)
    assert verdict.ok is False and "Traceback" not in verdict.text
    assert re.search(words, verdict.text), verdict.text


def test_62_exit_in_a_notebook_does_not_end_the_kernel(monkeypatch):
    asked = []

    class Shell:
        def ask_exit(self):
            asked.append(1)

    shell = Shell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    verdict = exercises.check("03.2", lambda updates, sizes: shell.ask_exit())
    assert "ended before it gave a result" in verdict.text and not asked
    shell.ask_exit()
    assert asked == [1], "outside a check exit() ends the kernel, as it should"


def test_words_of_an_error_are_one_line():
    assert guard.words(ValueError("a\n  b")) == "ValueError: a b"
    assert guard.words(KeyError()) == "KeyError"


@pytest.mark.parametrize("answer", [[[...]], A([..., 1.0], object), (1, [2, [...]])])
def test_90_a_blank_is_found_however_deep_it_lies(answer):
    assert exercises.check("01.1", answer).ok is None


def test_90_a_fully_masked_array_is_not_right():
    assert exercises.check("01.1", np.ma.masked_all(2)).ok is False


@pytest.mark.parametrize(
    "number", [n for n, this in exercises.everything().items() if this["solution"] in ("'a'", "'b'", "'c'", "'d'")]
)
def test_90_the_text_of_an_option_counts_as_its_letter(number):
    options, right = exercises.options(number), exercises.everything()[number]["solution"].strip("'")
    assert list(options) == ["a", "b", "c", "d"] and all(options.values())
    for letter, words in options.items():
        for answer in (words, f"{letter}) {words}", f"{letter})", f"({letter})", words.upper() + "."):
            assert exercises.check(number, answer).ok is (letter == right), answer
            assert exercises.check(number, answer) == exercises.check(number, letter)
    assert exercises.check(number, "a text of my own").ok is False


@pytest.mark.parametrize("number", [3.1, "3.1", " 03.1 ", "03.1"])
def test_90_a_number_of_an_exercise_may_be_written_as_people_do(number):
    assert exercises.hint(number) == exercises.hint("03.1")
    assert exercises.check(number, 4.2).ok is True and "4.2" in exercises.solution(number).text


def test_a_hint_is_wrapped_between_words_and_says_the_same():
    shown = repr(exercises.check("04.2", 187))
    assert max(map(len, shown.splitlines())) <= 80 and len(shown.splitlines()) > 2
    assert " ".join(shown.split()) == exercises.check("04.2", 187).text


def test_a_right_answer_with_both_coordinates_is_right():
    assert exercises.check("01.2", [0.125625, 0.125625]).ok is True


def test_no_hint_is_the_solution():
    for number, this in exercises.everything().items():
        code = "".join(this["solution"].split("lambda")[-1].split(":")[-1].split())
        if "trials" in this:
            assert code not in "".join(this["hint"].split()), number
