import re
from pathlib import Path

import numpy as np
import pytest

from fedlearn_mini.classroom import exercises

WRONG = [(number, i) for number, this in exercises.everything().items() for i in range(len(this["wrong"]))]


@pytest.mark.parametrize("number", exercises.everything())
def test_the_solution_passes_and_the_blank_is_not_yet(number):
    assert exercises.check(number, exercises.value(exercises.everything()[number]["solution"])).ok is True
    blank = exercises.check(number, ...)
    assert blank.ok is None and "not yet" in blank.text


@pytest.mark.parametrize(("number", "i"), WRONG)
def test_each_common_wrong_answer_gets_its_own_hint(number, i):
    wrong = exercises.everything()[number]["wrong"][i]
    verdict = exercises.check(number, exercises.value(wrong["answer"]))
    assert verdict.ok is False and verdict.text.endswith(wrong["hint"])


def test_a_check_reads_the_file_of_its_own_notebook_and_no_other():
    exercises.bank.cache_clear()
    exercises.check("03.1", ...)
    exercises.hint("03.q2")
    assert exercises.bank.cache_info().currsize == 1


def test_every_file_of_the_bank_has_its_own_numbers():
    for file in exercises.FOLDER.glob("*.toml"):
        assert {number[:3] for number in exercises.bank(file.stem)} == {f"{file.stem}."}


@pytest.mark.parametrize("number", exercises.everything())
def test_hints_differ_from_each_other(number):
    this = exercises.everything()[number]
    hints = [wrong["hint"] for wrong in this["wrong"]] + [this["hint"]]
    assert len(set(hints)) == len(hints) >= 3


def test_the_right_letters_are_spread_evenly():
    """Always b would otherwise pass for knowledge."""
    letters = [this["solution"] for this in exercises.everything().values() if re.fullmatch(r"'.'", this["solution"])]
    counts = [letters.count(f"'{letter}'") for letter in "abcd"]
    assert sum(counts) == len(letters) and max(counts) - min(counts) <= 3


def test_every_notebook_has_its_exercises_and_three_quiz_questions():
    notebooks = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
    assert {n[:2] for n in exercises.everything()} == {path.stem[:2] for path in notebooks}
    for notebook in range(len(notebooks)):
        numbers = [n for n in exercises.everything() if n.startswith(f"{notebook:02d}.")]
        quiz = [n for n in numbers if ".q" in n]
        assert len(quiz) == 3 and 2 <= len(numbers) - len(quiz) <= 3


@pytest.mark.parametrize(
    "answer", ["a text", None, [1, [2]], {"a": 1}, object(), np.nan, np.array([np.nan, 1]), 1j, print]
)
@pytest.mark.parametrize("number", exercises.everything())
def test_any_answer_gets_a_sentence_and_never_a_traceback(number, answer):
    verdict = exercises.check(number, answer)
    assert verdict.ok is False and verdict.text.startswith(f"{number}: not quite. ") and len(verdict.text) > 30


@pytest.mark.parametrize(
    ("number", "answer", "words"),
    [
        ("01.1", np.array([0.105]), r"shape \(2,\) is asked"),
        ("01.1", np.array([[0.1], [0.1]]), r"shape \(2,\), but yours has \(2, 1\)"),
        ("01.1", np.array([np.nan, 0.1]), "NaN or an infinity"),
        ("01.2", "0.12", "not quite"),
        ("01.2", print, "This is a function"),
        ("01.3", 3, "a text such as"),
        ("03.2", 3, "is to be a function"),
        ("03.2", lambda updates: 1, "stopped. It is called with updates, sizes"),
        ("03.2", lambda updates, sizes: ..., "not yet"),
        ("03.2", lambda updates, sizes: print(end=""), "gave nothing back.*return, not with print"),
        ("02.3", lambda beta, b, eta: (..., 1), "not yet"),
        ("03.2", lambda updates, sizes: ... * sizes, "not yet"),
        ("01.2", None, "None, which is what print"),
        ("01.1", [0.105, ...], "not yet"),
        ("00.1", 10**400, "a number or an array"),
        ("00.1", 400300, "not quite"),
        ("01.2", np.complex128(0.125625 + 5j), "not quite"),
    ],
)
def test_answers_of_the_wrong_kind_are_told_so(number, answer, words):
    with np.errstate(all="raise"):
        assert exercises.check(number, answer).ok in (False, None)
    import re

    assert re.search(words, exercises.check(number, answer).text)


@pytest.mark.parametrize(
    ("number", "answer"),
    [("03.1", [4.2]), ("03.1", np.array([[4.2]])), ("01.3", " C) "), ("01.3", "(c)."), ("01.1", (0.105, 0.105))],
)
def test_a_right_answer_in_another_dress_is_right(number, answer):
    assert exercises.check(number, answer).ok is True


def test_hint_and_solution_are_shown_as_text():
    assert repr(exercises.hint("01.1")).startswith("01.1: The new point")
    assert "0.105" in repr(exercises.solution("01.1"))
    with pytest.raises(KeyError, match="There is: |Did you mean"):
        exercises.check("99.1", 1)
