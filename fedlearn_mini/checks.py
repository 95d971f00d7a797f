"""The doors: a few small functions that turn a wrong setting into a sentence.

They stand where a person's settings and outside data come in. Inside, formulas trust their arguments.
"""

import difflib
import math
import numbers
import re

import numpy as np


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


NUMERAL = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)


def in_order(names):
    """The places of names (K,) in order: by size where all are numbers (2 before 10, 01 before 1), else as text."""
    size = float if all(map(NUMERAL.fullmatch, names)) else (lambda name: 0)
    return sorted(range(len(names)), key=lambda k: (size(names[k]), names[k]))


def meant(word, known):
    """' Did you mean …?' with the nearest known name, or a list of what there is."""
    known = [str(k) for k in known]
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"There is: {', '.join(known)}."


def trainable(hospitals, model):
    """Refuse what cannot be trained on: gaps, labels that are no chances, features that the model was not made for."""
    if not hasattr(hospitals, "names") or not hasattr(model, "predict"):
        raise ValueError(
            "first the model, then Hospitals, such as data.stack makes (or one of the two that data.prepare returns), "
            f"not {type(model).__name__} and {type(hospitals).__name__}."
        )
    if not np.isfinite(hospitals.y).all():
        raise ValueError("a label is missing or infinite. Drop that record.")
    if not np.isfinite(hospitals.X).all():
        k, _, j = np.argwhere(~np.isfinite(hospitals.X))[0]
        raise ValueError(
            f"hospital {hospitals.names[k]!r} has a missing value in feature {j}. Fill the gaps first, for example "
            "with data.standardise, which puts the average of all hospitals in their place."
        )
    try:
        model.predict(np.zeros(model.P), hospitals.X[:1, :1])
    except ValueError as error:
        d = hospitals.X.shape[-1]
        raise ValueError(f"the hospitals have d = {d} features, but the model was made for another number.") from error
    k, seat = np.nonzero((hospitals.y < 0) | (hospitals.y > 1))
    if k.size and model.chances:
        raise ValueError(
            f"hospital {hospitals.names[k[0]]!r} has the label {hospitals.y[k[0], seat[0]]:g}, but this model predicts "
            "chances: labels must be 0 and 1. Give their codes to tables.clean."
        )
