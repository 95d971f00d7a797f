"""Your own hospitals: one CSV file each, one target. `python -m fedlearn_mini train A.csv B.csv C.csv`.

What can be seen from a file (its separator, encoding, decimal comma, two words for yes and no) is seen, and said. What
cannot be seen, such as another name or unit for the same thing, stands in a file `rules.toml` beside the files: a
section for each of them, with the options of `tables.read` and `tables.clean`. Notebook more/04_your_own_hospitals.
"""

import re
import tomllib
import warnings
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import data, federation, store, tables
from .checks import meant, whole
from .desk import Desk
from .evaluate import auc, average_loss, per_hospital
from .federation import path, path_alone
from .models import Model, logistic, mlp
from .plan import Plan

RULES = "rules.toml"
READING, CLEANING = (
    ("sep", "encoding"),
    ("rename", "missing", "decimal", "thousands", "codes", "scale", "dates", "limits", "id"),
)
PAIRS = ({"no", "yes"}, {"n", "y"}, {"false", "true"}, {"f", "m"}, {"female", "male"}, {"negative", "positive"})
PAIRS = {frozenset(pair): min(pair) for pair in (*PAIRS, {"nein", "ja"}, {"non", "oui"}, {"w", "m"})}
ZERO = {"no", "n", "false", "f", "female", "negative", "nein", "non", "w"}  # the word of a pair that is 0
TOLD = """
In {rounds} rounds the hospitals send {up:,} bytes up, and get {down:,} down: models and changes, and before them the
sums that put all on one scale (notebook 04). No record is among them, and nothing of it is protected: whoever reads
the letters can compute things about patients (notebook 11). All files lie here, so this is a rehearsal."""
FEW = 10  # with fewer patients a hospital cannot be judged
PLANS = {"network": Plan(lr=0.1, epochs=1, batch=32), "logistic": Plan(lr=0.3, steps=5)}


class Gathered(NamedTuple):
    """One clean table of all hospitals, its target, and what was done and left out, in sentences."""

    table: object
    target: str
    notes: list


def gather(files, target="target", rules=None) -> Gathered:
    """One table from a file for each hospital.

    files    paths of CSV files; a hospital is called what its file is called, or `name` in the rules
    target   the column to predict, 0 or 1
    rules    {file's name without .csv: {option: …}}; None: rules.toml beside the first file, where there is one

    A hospital without the target, or with a column that cannot be what the others have, is refused in words. Columns
    that not all have are left out, and named.
    """
    files, notes = [Path(file).expanduser() for file in files], []
    if len(files) < 2:
        raise ValueError("a federation needs two hospitals at least: give a file for each.")
    if rules is None:
        rules = found_rules(files[0].parent / RULES, notes)
    strange = set(rules) - {file.stem for file in files}
    if strange:
        name = min(strange)
        raise ValueError(
            f"the rules speak of {name!r}, and no file is called so. {meant(name, [f.stem for f in files])}"
        )
    found = {}
    for file in files:
        options = dict(rules.get(file.stem, {}))
        name = options.pop("name", file.stem)
        if name in found:
            raise ValueError(f"two hospitals are called {name!r}. Give one of them a `name` in {RULES}.")
        found[name] = one_file(file, options, target, notes)
    shared = common(found, target, notes)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        table = tables.combine({name: part[shared] for name, part in found.items()})
    notes += [f"look at this: {warning.message}" for warning in seen]
    judged(table, target, notes)
    return Gathered(table, target, notes)


def found_rules(file, notes):
    """The rules of a file, or none where there is no file."""
    if not file.is_file():
        return {}
    notes.append(f"rules: {file.name}")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file.name} is not TOML: {error}.") from error


def one_file(file, options, target, notes):
    """A clean table from a file: what its rules say, and where they say nothing, what can be seen."""
    unknown = set(options) - {*READING, *CLEANING}
    if unknown:
        word = min(unknown)
        raise ValueError(f"the rules of {file.name} have no option {word!r}. {meant(word, (*READING, *CLEANING))}")
    reading = {name: options.pop(name) for name in READING if name in options}
    raw = tables.read(file, **(seen_reading(file, notes) | reading if file.is_file() else reading))
    names = {old: new for old, new in options.get("rename", {}).items()}
    options = seen_cleaning(raw.rename(columns=names), options, file, notes)
    unread = sorted(options.pop("unread"))
    try:
        table, changed = tables.clean(raw, **options, text=unread)
    except ValueError as error:
        raise ValueError(f"{file.name}: {error} Options go into {RULES}, section [{file.stem}].") from error
    notes += [f"{file.name}: {what}" for what in changed]
    away = [*unread, *options.get("dates", ()), *filter(None, [options.get("id")])]
    if unread:
        notes.append(f"{file.name}: left out, because it is no number and has no codes: {', '.join(unread)}")
    if target in away:
        raise ValueError(f"{file.name}: the target {target!r} is neither 0 nor 1. Give its codes in {RULES}.")
    return table.drop(columns=away)


def seen_reading(file, notes):
    """Separator and encoding of a file, as its first lines show them."""
    raw = file.read_bytes()[: 2**16]
    try:
        raw.decode("utf-8")
        found = {}
    except UnicodeDecodeError as error:
        found = {} if error.start > len(raw) - 4 else {"encoding": "cp1252"}
    head = raw.decode("latin-1").partition("\n")[0]
    counts = {sep: head.count(sep) for sep in (",", ";", "\t", "|")}
    best = max(counts, key=counts.get)
    found |= {"sep": best} if best != "," and not head.startswith("sep=") else {}
    if found:
        notes.append(f"{file.name}: read with {', '.join(f'{name}={value!r}' for name, value in found.items())}")
    return found


def seen_cleaning(table, options, file, notes):
    """The options of `clean` for a table whose columns have their final names; "unread" are columns left as text."""
    options = {"codes": {}, "dates": {}} | options
    options["missing"] = (*tables.MISSING, *options.get("missing", ()))
    missing = {str(word).lower() for word in options["missing"]}
    id = options.get("id") or next((name for name in table if re.fullmatch(r"(?i)(patient)?_?id|patient", name)), None)
    unread, commas, codes = set(), False, dict(options["codes"])
    for column in table.columns.difference([id, *options["dates"], *codes], sort=False):
        cells = table[column].str.strip()
        cells = cells[~cells.str.lower().isin(missing)]
        words = frozenset(cells.str.lower())
        if words in PAIRS:
            codes[column] = {word: int(word.lower() not in ZERO) for word in cells.unique()}
            notes.append(f"{file.name}: {column}: {', '.join(f'{word} is {n}' for word, n in codes[column].items())}")
        elif cells.str.fullmatch(r"[-+]?\d+,\d+").any() and cells.str.fullmatch(r"[-+]?\d+(,\d+)?").all():
            commas = True
        elif not cells.str.fullmatch(r"[-+]?\d+([.,]\d+)?(e[-+]?\d+)?", flags=re.IGNORECASE).mean() > 0.5:
            unread.add(column)
    if commas and "decimal" not in options:
        options["decimal"] = ","
        notes.append(f"{file.name}: decimal=','")
    return options | {"codes": codes, "id": id, "unread": unread}


def common(found, target, notes):
    """The columns that all hospitals have; the others are named."""
    for name, table in found.items():
        if target not in table:
            raise ValueError(
                f"hospital {name!r} has no column {target!r}. {meant(target, table.columns)} If it has another name "
                f'there, say so in {RULES}: [{name}] and rename = {{ "its name" = "{target}" }}.'
            )
    shared = [column for column in next(iter(found.values())) if all(column in table for table in found.values())]
    for column in sorted({column for table in found.values() for column in table} - set(shared)):
        having = [name for name, table in found.items() if column in table]
        notes.append(f"left out, because only {', '.join(having)} has it: {column} (another name? see rename)")
    if len(shared) < 2:
        raise ValueError(
            f"the hospitals have no column in common but {target!r}, so there is nothing to learn from. They have "
            + "; ".join(f"{name}: {', '.join(map(str, table))}" for name, table in found.items())
            + f". Give the same things the same names: rename in {RULES}."
        )
    return shared


def judged(table, target, notes):
    """Name the hospitals that take part and cannot be judged."""
    for name, labels in table.groupby("hospital", sort=False)[target]:
        if len(labels) < FEW:
            notes.append(f"hospital {name!r} has {len(labels)} patients: it trains, but its numbers mean nothing")
        elif labels.nunique() < 2:
            notes.append(f"hospital {name!r} has patients of one class only: it trains, but has no AUC")
    values = sorted(set(table[target].dropna()))
    if not set(values) <= {0, 1}:
        raise ValueError(
            f"the target {target!r} must be 0 or 1, but it takes {len(values)} values. Give its codes in {RULES}."
        )


class Compared(NamedTuple):
    """AUC on held-out patients, {way: (splits, K)}, names and held-out sizes (K,), bytes up and down of a run."""

    scores: dict
    names: tuple
    held: np.ndarray
    up: int
    down: int


def a_model(kind, d) -> tuple[Model, Plan]:
    """The model of this kind for d features, and a plan for it."""
    if kind not in PLANS:
        raise ValueError(f"there is no model {kind!r}. {meant(kind, PLANS)}")
    return (mlp(d) if kind == "network" else logistic(d)), PLANS[kind]


def compare(gathered: Gathered, kind="network", rounds=10, count=5, bar=iter) -> Compared:
    """Alone, federated and pooled, each stopped where its own validation patients say, on several splits.

    rounds   at most, for each of the three
    count    how many splits into training (half), validation and test patients (a quarter each)
    bar      what shows progress over an iterable, such as tqdm
    """
    whole("rounds", rounds)
    options = {"target": gathered.target, "share": 0.25}
    scores = {"alone": [], "federated": [], "pooled": []}
    for s in bar(range(whole("splits", count))):
        rest, test = data.prepare(gathered.table, rng=s, **options)
        train, judges = data.train_test(rest, 1 / 3, rng=s)
        model, plan = a_model(kind, train.X.shape[-1])
        for way, found in {
            "alone": best_each(model, path_alone(model, train, plan, rounds), judges),
            "federated": best(model, path(model, train, plan, rounds), judges),
            "pooled": best(model, path(model, train.pooled(), plan, rounds), judges),
        }.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a hospital of one class has been named
                scores[way].append(per_hospital(auc, model, found, test))
    numbers = rounds * len(test.names) * model.P * train.X.itemsize
    return Compared({way: np.array(s) for way, s in scores.items()}, test.names, test.sizes, numbers, numbers)


def best(model, thetas, judges):
    """Of θ after each round, (R, P), the one with the lowest loss on all validation patients."""
    return thetas[np.argmin([average_loss(model, theta, judges) for theta in thetas])]


def best_each(model, thetas, judges):
    """Of every hospital's own θ, (R, K, P), the one with the lowest loss on its own validation patients: (K, P)."""
    losses = np.array([model.loss(theta, judges.X, judges.y, judges.w) for theta in thetas])
    return thetas[losses.argmin(0), np.arange(losses.shape[1])]


def train(gathered: Gathered, kind="network", rounds=10, save=None, bar=iter):
    """The federation trained on all patients, for use elsewhere: State. With a file `save` a run goes on from there.

    save    where the state is kept after the last round; a file that is there is the run to go on with
    """
    hospitals = data.stack(
        gathered.table.drop(columns=[gathered.target, "hospital"]),
        gathered.table[gathered.target],
        gathered.table["hospital"],
    )
    hospitals = data.standardise(hospitals, *data.pooled_moments(hospitals))
    model, plan = a_model(kind, hospitals.X.shape[-1])
    save = save and Path(save).expanduser()
    state, history = store.load(save, model) if save and save.is_file() else (None, None)
    if state is not None and state.names != Desk.of(hospitals).names:
        raise ValueError(
            f"{save.name} is a run of {', '.join(state.names)}, and these files are of {', '.join(hospitals.names)}. "
            "Give --save another name, or the hospitals their names in the rules."
        )
    going, records = state is not None, [] if history is None else history.reset_index().to_dict("records")
    run = federation.rounds(model, hospitals, plan, state)
    for now, record in bar(islice(run, rounds)):
        state, records = now, [*records, {name: value for name, value in record.items() if name != "who"}]
    if save:
        store.save(save, state, federation.table(records))
    return state, going


def report(compared: Compared):
    """A table of text: the median AUC over the splits, and its range, for each hospital and way."""
    import pandas as pd

    def cell(values):
        values = values[~np.isnan(values)]
        return f"{np.median(values):.2f} ({values.min():.2f}–{values.max():.2f})" if values.size else "–"

    columns = {way: [cell(s[:, k]) for k in range(len(compared.names))] for way, s in compared.scores.items()}
    return pd.DataFrame({"held out": compared.held} | columns, index=pd.Index(compared.names, name="hospital"))
