"""What is wrong with an answer that nobody foresaw: a sentence, found by comparing it with the right one.

A wrong number is seldom any number. It is the right one with another sign, upside down, in per cent, not divided; a
wrong array is the right one transposed, sorted, or in parts. A function that is wrong shows on which input.
"""

import re

import numpy as np

from . import guard

EXAMPLE = "It is not right"
POWERS = (-9, -6, -5, -4, -3, -1, 1, 3, 4, 5, 6, 9)
RELATIONS = (  # what the right value becomes, and what is said if yours is that
    (lambda e: -e, "Its size is right, its sign is not: what is subtracted from what?"),
    (lambda e: 100 * e, "Yours is a hundred times the right one: per cent, where a share is asked?"),
    (lambda e: e / 100, "Yours is a hundredth of the right one: a share, where per cent is asked?"),
    (lambda e: 2 * e, "Yours is twice the right one: is something counted twice, or a ½ missing?"),
    (lambda e: e / 2, "Yours is half the right one: is something counted only once, or a ½ too much?"),
    (lambda e: 1 - e, "Yours and the right one add up to 1: is it the share of the others?"),
    (lambda e: e**2, "Yours is the square of the right one: a root is missing, or a square is too much."),
    (np.sqrt, "Yours is the root of the right one: a square is missing, or a root is too much."),
    (lambda e: 1 / e, "Yours is upside down: what is divided by what?"),
    (lambda e: -1 / e, "Yours is upside down, and its sign is another: what is divided by what?"),
    (np.exp, "Yours is e to the power of the right one: a logarithm is missing."),
    (np.log, "Yours is the logarithm of the right one."),
    (lambda e: e + 1, "Yours is one too many: count again where you begin and where you end."),
    (lambda e: e - 1, "Yours is one too few: count again where you begin and where you end."),
    (
        lambda e: bytes_of(e) * 8,
        "Yours is eight times the right one: bits, where bytes are asked? Bytes, where numbers are?",
    ),
    (
        lambda e: bytes_of(e) / 8,
        "Yours is an eighth of the right one: how many bytes has a number, how many bits a byte?",
    ),
    (lambda e: e / 1024, "Yours counts 1,024 as one (KiB): look at the unit that is asked."),
    (lambda e: e / 1024**2, "Yours counts 1,048,576 as one (MiB): look at the unit that is asked."),
    *((lambda e, k=k: e * 10.0**k, "The digits are right, the decimal point is not: count zeros.") for k in POWERS),
)


def bytes_of(e):
    """The right value if it can be a number of bytes, else NaN, which nothing equals."""
    return e if (e == np.round(e)).all() and np.abs(e).min() >= 64 else np.nan * e


SHAPES = (  # what your array becomes, and what is said if that is right
    (lambda a, e: a.T, "The numbers are right, and transposed: rows and columns are exchanged."),
    (lambda a, e: a.reshape(e.shape), "The numbers are right, their shape is not: {wanted} is asked."),
    (lambda a, e: a.flat[0] if np.ptp(a) == 0 else a, "Right, several times over: one number is asked."),
    (lambda a, e: a.sum(), "These are the parts: add them up."),
    (lambda a, e: a.mean(), "These are the parts: take their mean."),
    *((lambda a, e, i=i: a.sum(i), f"There is an axis too many: sum over axis {i}.") for i in range(3)),
    *((lambda a, e, i=i: a.mean(i), f"There is an axis too many: take the mean over axis {i}.") for i in range(3)),
    (lambda a, e: a[0] / a[1], "These are the two parts of a division: carry it out."),
    (lambda a, e: a + 0 * e, "Yours has too few numbers: {wanted} is asked, one answer each."),
    (lambda a, e: a[..., ::-1], "The right numbers, in the opposite order: which comes first?"),
    (
        lambda a, e: a.flat[np.abs(a - e).argmin()] if e.ndim == 0 else a,
        "The right number is among yours: give it alone.",
    ),
    (lambda a, e: order(a, e), "The right numbers, in another order."),
)


def of(theirs, right, tolerance, trials=(), names=()):
    """A sentence on what is wrong with numbers, or "".

    theirs     answers, as a list: one, or what a function gave back for each trial
    right      the right answers
    tolerance  relative
    trials     the arguments of each trial, where a function is asked
    names      and what they are called
    """
    pairs = [(np.asarray(a, float), np.asarray(e, float)) for a, e in zip(theirs, right, strict=True)]
    trials = [dict(zip(names, trial, strict=False)) for trial in trials]
    with np.errstate(all="ignore"):
        return next(filter(None, (look(pairs, tolerance, trials) for look in LOOKS)), "")


def agree(a, e, tolerance):
    """Is one array the other, to the tolerance?"""
    return np.shape(a) == e.shape and np.allclose(a, e, rtol=tolerance, atol=tolerance * 1e-3)


def order(a, e):
    """The numbers of an array in the order of another's."""
    return np.sort(a.ravel())[np.argsort(np.argsort(e.ravel()))].reshape(e.shape)


def become(change, pairs, tolerance):
    """Is (yours, right) a pair of equals once both are changed? What is impossible for their shapes is not."""
    try:
        return all(agree(*change(a, e), tolerance) for a, e in pairs)
    except (ValueError, IndexError):
        return False


def rounded(pairs, tolerance, trials):
    """Right, with too few digits."""
    for places in range(-4, 9):
        unit = 10.0**-places
        if all(a.shape == e.shape and a.any() and near(a, e, unit) for a, e in pairs):
            return f"Right, but rounded too far: give {round(1 - np.log10(tolerance))} digits, or all that Python says."
    return ""


def near(a, e, unit):
    """Is a made of whole units, and half a unit from e at most?"""
    return (np.abs(a - unit * np.round(a / unit)) < 1e-9 * unit).all() and (
        np.abs(a - e) <= np.minimum(0.500001 * unit, np.abs(e) / 6)
    ).all()


def shaped(pairs, tolerance, trials):
    """The right numbers in another shape or order, or in parts."""
    for change, sentence in SHAPES:
        if become(lambda a, e, change=change: (change(a, e), e), pairs, tolerance):
            return sentence.format(wanted=f"the shape {pairs[0][1].shape}")
    return ""


def related(pairs, tolerance, trials):
    """The right number with another sign, in another unit, and the like."""
    for change, sentence in RELATIONS:
        if become(lambda a, e, change=change: (a, np.asarray(change(e))), pairs, tolerance):
            return sentence
    if become(lambda a, e: (abs(a), abs(e)), pairs, tolerance):
        return "The sizes are right, some of the signs are not."
    return ""


def amounts(trial):
    """What a function may have forgotten to divide by: {what it is: how much}."""
    for name, argument in trial.items():
        array = np.asarray(argument)
        if array.dtype.kind in "fiub" and array.ndim:
            yield from {f"the sum of {name}": array.sum(), f"the length of {name}": len(array)}.items()
            yield f"the number of columns of {name}", array.shape[-1]
        elif array.dtype.kind in "fiu":
            yield from {name: array, f"{name}²": array**2.0, f"√{name}": array**0.5}.items()


def factor(pairs, tolerance, trials):
    """Right but for a factor that all numbers of an answer have."""
    ratios = [(a / e)[e != 0] if a.shape == e.shape else np.zeros(0) for a, e in pairs]
    if not all(ratio.size and np.allclose(ratio, ratio[0], rtol=tolerance) for ratio in ratios):
        return ""
    found, known = np.array([ratio[0] for ratio in ratios]), [dict(amounts(trial)) for trial in trials]
    for name in known[0] if known else ():
        much = np.array([one.get(name, np.nan) for one in known], float)
        for power, words in ((1, "divided by"), (-1, "multiplied by")):
            if np.allclose(found, much**power, rtol=tolerance):
                return f"Right but for a factor: it must still be {words} {name}."
    if found.min() > 0 and max(ratio.size for ratio in ratios) > 1:
        return f"All your numbers are {found[0]:.3g} times the right ones: what is not divided, or divided twice?"
    return ""


def partly(pairs, tolerance, trials):
    """Some of the numbers are right, or the results of some trials."""
    right = [agree(a, e, tolerance) for a, e in pairs]
    if any(right):
        return f"Right {given(trials[right.index(True)])}, but not {instead(pairs, trials, right.index(False))}"
    (a, e), *_ = pairs
    close = np.isclose(a, e, rtol=tolerance, atol=tolerance * 1e-3) if a.shape == e.shape else np.zeros(0, bool)
    if trials or not close.any():
        return ""
    where = ", ".join(map(str, np.argwhere(~close)[0]))
    return f"Right: {close.sum()} of {close.size} numbers. Not right: number {where}, counted from 0."


def larger(pairs, tolerance, trials):
    """At least the direction."""
    (a, e), *others = pairs
    if trials or a.ndim or e.ndim or a * e <= 0:
        return ""
    return f"Yours is too {'large' if abs(a) > abs(e) else 'small'}."


def example(pairs, tolerance, trials):
    """Where nothing else is known, a function is shown what it did."""
    return f"{EXAMPLE} {instead(pairs, trials, 0)}" if trials else ""


def shown(thing):
    """An argument or a result as a person writes it, on one line, whatever its size."""
    text = np.array2string(np.asarray(thing), precision=4, threshold=12, edgeitems=3, separator=", ")
    return re.sub(r"\s+", " ", text)


def given(trial):
    """The arguments of a trial in words."""
    return "for " + ", ".join(f"{name} = {shown(value)}" for name, value in trial.items())


def instead(pairs, trials, k):
    """What a function gave, and what it should have given."""
    return f"{given(trials[k])}: there it gives {shown(pairs[k][0])} instead of {shown(pairs[k][1])}."


LOOKS = (rounded, shaped, related, factor, partly, larger, example)


# ------------------------------------------------------------------------------------- a function that did not get far

STOPPED = (  # a part of Python's or NumPy's message, and what it means
    (
        "truth value of an array",
        "Python's if, and, or, min and max want one truth, and here are many: use np.where, &, |, "
        "np.minimum or np.maximum.",
    ),
    (
        "only length-1 arrays|only 0-dimensional arrays|only integer scalar",
        "Something that wants one number got an array: use NumPy's function instead of float(…), int(…) or math.…",
    ),
    (
        "could not be broadcast|matmul|gufunc|shapes .* not aligned|dimension mismatch",
        "Two arrays do not fit each other: "
        "print their shapes. A missing axis is added by [:, None], a row is one number for each column.",
    ),
    ("out of bounds|too many indices", "An index or an axis is asked that the array does not have: print its shape."),
    ("positional argument|unexpected keyword", "It is called with {arguments}: take these, in this order."),
    ("is not defined", "A name in it is not known: define it in the function, or run the cell that does."),
    (
        "unsupported operand|can't multiply|must be str|can only concatenate",
        "Two things of a kind that cannot be combined: a list is no array "
        "(np.array(…) makes one), a text is no number.",
    ),
    ("division by zero", "Something is divided by 0."),
    ("maximum recursion", "It calls itself without an end."),
    ("has no attribute", "Something is not of the kind that you think it is: print its type."),
)


def stopped(error, names):
    """Why a function stopped, in words."""
    said = guard.words(error)
    for part, words in STOPPED:
        if re.search(part, said):
            return f"Your function stopped. {words.format(arguments=', '.join(names))} ({said[:120]})"
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return "Your function was ended before it gave a result. Does its loop end? Does it call exit()?"
    return f"Your function stopped with {said[:200].rstrip('.')}."
