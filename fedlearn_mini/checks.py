"""The doors: a few small functions that turn a wrong setting into a sentence.

They stand where a person's settings and outside data come in. Inside, formulas trust their arguments.
"""

import difflib
import math
import numbers


def number(name, value, *, above=None, least=None, most=None, below=None, hint=""):
    """The value as a float, or a ValueError that says which range it must be in. NaN and ∞ never pass."""
    rules = {"greater than": above, "at least": least, "at most": most, "less than": below}
    said = " and ".join(f"{word} {limit:g}" for word, limit in rules.items() if limit is not None)
    ok = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    ok = ok and (above is None or value > above) and (least is None or value >= least)
    ok = ok and (most is None or value <= most) and (below is None or value < below)
    if not ok:
        raise ValueError(f"{name} must be a finite number {said}, but it is {value!r}. {hint}".strip())
    return float(value)


def whole(name, value, *, least=1, hint=""):
    """The value as an int, or a ValueError. 2.0 and True are refused: a count is written as a whole number."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}, but it is {value!r}. {hint}".strip())
    return int(value)


def shaped(name, array, shape):
    """A ValueError if an array has not the shape that it must have: (1,) or (P, 1) would silently spread out."""
    found = getattr(array, "shape", type(array).__name__)
    if found != shape:
        raise ValueError(f"{name} must have the shape {shape}, but has {found}.")


def title(metric):
    """The name of a metric in tables and warnings: its function's, also where `partial` has filled in an argument."""
    if not callable(metric):
        raise ValueError(
            f"a metric must be a function of labels and predictions, such as evaluate.auc, not {metric!r}."
        )
    return getattr(getattr(metric, "func", metric), "__name__", type(metric).__name__)


def meant(word, known):
    """' Did you mean …?' with the nearest known name, or a list of what there is."""
    known = [str(k) for k in known]
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"There is: {', '.join(known)}."
