"""A federation in a file: whole or not at all, and never a pickle. Notebooks 06 and 09."""

import os
import zipfile

import numpy as np

from .plan import State


def save(path, state, history=None):
    """Write state and history to one .npz file, whole or not at all: an older file survives a full disk."""
    held = {"round": state.round, "theta": state.theta}
    held |= {f"{part}/{name}": v for part in ("memory", "kept") for name, v in getattr(state, part).items()}
    if history is not None:
        held |= {f"history/{name}": column.to_numpy() for name, column in history.reset_index().items()}
        held = {name: np.asarray(v, dtype=str) if np.asarray(v).dtype == object else v for name, v in held.items()}
    draft = f"{os.fspath(path)}.{os.getpid()}.draft"
    try:
        with open(draft, "xb") as file:
            np.savez(file, **held)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        if os.path.exists(draft):
            os.unlink(draft)


def load(path, model=None, *, most_bytes=10**9):
    """State and history (or None) from a file that `save` wrote: they resume as if never interrupted.

    A file that is damaged, of another model, far too large, or a pickle is refused in words; pickles are never
    opened, because opening one runs whatever its author wrote in it.
    """
    import pandas as pd

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > most_bytes:
            raise ValueError(f"it would unpack to {size:.2g} bytes, more than most_bytes = {most_bytes:.2g}")
        with np.load(path, allow_pickle=False) as held:
            held = {name: held[name] for name in held.files}
        state = State(int(held["round"]), held["theta"], within(held, "memory"), within(held, "kept"))
        sound = state.theta.ndim == 1 and state.theta.dtype.kind == "f" and np.isfinite(state.theta).all()
        if not sound or state.round < 0:
            raise ValueError("its theta is not a vector of finite numbers, or its round is negative")
        columns = within(held, "history")
        history = pd.DataFrame(columns).set_index("round") if columns else None
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged archive can fail in any way, and the reader needs one sentence
        raise ValueError(f"{os.fspath(path)!r} is not a state that save() wrote, or it is damaged: {error}.") from error
    if model is not None and state.theta.shape != (model.P,):
        raise ValueError(
            f"{os.fspath(path)!r} holds {state.theta.size} parameters, but this model has {model.P}: "
            "it was saved with another model."
        )
    return state, history


def within(held, part):
    """The arrays of one part of a saved file, {"memory/m": …} -> {"m": …}."""
    return {name.removeprefix(f"{part}/"): value for name, value in held.items() if name.startswith(f"{part}/")}
