"""Records in, hospitals out: read, clean, combine, split, stack, standardise.

The door of the kit: everything that can be wrong with a file or a table is said here, in a sentence with the
place and the mend, and never with a patient's values in it. Derived in notebook 04.
"""

import csv
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .checks import meant, number, whole

FOLDER = Path(__file__).resolve().parent.parent / "data"
MISSING = ("", "?", "-", "na", "n/a", "nan", "none", "null", "missing", "unknown")  # compared in lower case


class Hospitals(NamedTuple):
    """K hospitals stacked: X (K, n, d), y (K, n), w (K, n) row weights 1/nₖ (0 on padding), names (K,)."""

    X: np.ndarray
    y: np.ndarray
    w: np.ndarray
    names: tuple

    @property
    def sizes(self):
        """Number of records of each hospital, nₖ: (K,)."""
        return (self.w > 0).sum(-1)

    def one(self, k):
        """The records of hospital k (a number or a name), without padding: X (nₖ, d), y (nₖ,)."""
        if isinstance(k, str):
            if k not in self.names:
                raise KeyError(f"there is no hospital {k!r}. {meant(k, self.names)}")
            k = self.names.index(k)
        seen = self.w[k] > 0
        return self.X[k][seen], self.y[k][seen]

    def pooled(self):
        """All records in one hospital: what nobody in a federation ever sees, and the yardstick for it."""
        seen = self.w > 0
        return stack(self.X[seen], self.y[seen], np.full(seen.sum(), "pooled"))


# ---------------------------------------------------------------- files


def read(path, *, sep=",", encoding="utf-8-sig", target=None):
    """A table of text, exactly as the file has it: leading zeros stay, and 'NA' stays 'NA'. `clean` comes next.

    Refused in words: a missing or empty file, another separator or encoding, rows of the wrong length, a column
    name that stands twice, a web page or a git-LFS pointer in the data's place, and a target that is not there.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        found = sorted(f.name for f in path.parent.glob("*.csv")) if path.parent.is_dir() else []
        near = meant(path.name, found) if found else f"The folder {path.parent} has no CSV file."
        raise FileNotFoundError(f"{path} is {'a folder, not a file' if path.is_dir() else 'not there'}. {near}")
    raw = path.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") and "16" not in encoding:
        raise ValueError(f"{path.name} is written in UTF-16. Read it with encoding='utf-16'.")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path.name}, line {line}, is not written in {encoding}. "
            "Files from Windows or older systems often need encoding='latin-1'."
        ) from error
    for sign, what in (
        ("\0", "binary data"),
        ("version https://git-lfs", "a git-LFS pointer: run 'git lfs pull'"),
        ("<", "a web page"),
    ):
        if text[:200].lstrip().lower().startswith(sign) or (sign == "\0" and sign in text):
            raise ValueError(f"{path.name} holds {what}, not a table. Get the file again from its source.")
    try:
        rows = [row for row in csv.reader(text.splitlines(keepends=True), delimiter=sep, strict=True) if row]
    except csv.Error as error:
        raise ValueError(f"{path.name} is damaged: {error} (a quote that is never closed, or a cut file).") from error
    if len(rows) < 2:
        raise ValueError(f"{path.name} has {'only a header and no rows' if rows else 'nothing in it'}.")
    header = [name.strip() for name in rows[0]]
    if len(header) == 1 and any(other in header[0] for other in ";\t|,"):
        other = next(other for other in ";\t|," if other in header[0])
        raise ValueError(f"{path.name} has one column when split at {sep!r}. It looks separated by sep={other!r}.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{path.name} has the column {twice[0]!r} twice. Rename one of them in the file.")
    for number_, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise ValueError(f"{path.name}, record {number_}, has {len(row)} cells, but the header has {len(header)}.")
    if target is not None and target not in header:
        raise ValueError(f"{path.name} has no column {target!r}. {meant(target, header)}")
    return pd.DataFrame(rows[1:], columns=header, dtype=str)


def load(name, raw=False):
    """A data set of the kit as a table. `data/<name>/README.md` is its card: source, licence, columns, quirks.

    load("heart") is ready for use: `target` is 1 with heart disease, impossible zeros are missing, repeated rows
    are dropped. load("heart", raw=True) is the file as it stands, 920 patients. Notebook 04 takes the same steps
    one by one.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no data set {name!r}. {meant(name, RECIPES)}")
    if not FOLDER.is_dir():
        raise FileNotFoundError(
            "the data folder is not beside the package. Install the kit from its own folder: pip install -e ."
        )
    table, _ = clean(read(FOLDER / name / f"{name}.csv"), text=("hospital", "id"))
    return table if raw else RECIPES[name](table)


def heart(table):
    """From the published file to a table that can be trained on (notebook 04, step by step)."""
    table = table.drop_duplicates(subset=[c for c in table if c != "id"])
    table = table.mask(table[["chol", "trestbps"]].eq(0).reindex(columns=table.columns, fill_value=False))
    return table.assign(target=(table["num"] > 0).astype(float)).drop(columns=["num", "id"]).reset_index(drop=True)


RECIPES = {"heart": heart}


# ---------------------------------------------------------------- cleaning


def clean(
    table,
    *,
    rename=None,
    missing=MISSING,
    decimal=".",
    codes=None,
    scale=None,
    dates=None,
    limits=None,
    text=(),
    id=None,
):
    """Text to numbers, one rule at a time: -> table, notes (a sentence for everything that was changed).

    rename {old: new} · missing, words that mean "not known" · decimal "." or "," · codes {column: {"yes": 1}} ·
    scale {column: factor} to another unit · dates {column: format} · limits {column: (low, high)}, values outside
    become missing · text, columns left as text · id, the column that names a patient: the same patient twice with
    the same record is kept once, with different records it is an error. The table that came in is unchanged.
    """
    import pandas as pd

    codes, scale, dates, limits, notes = codes or {}, scale or {}, dates or {}, limits or {}, []
    table = table.rename(columns=rename or {})
    for option, columns in {"codes": codes, "scale": scale, "dates": dates, "limits": limits, "text": text}.items():
        for column in columns:
            if column not in table:
                raise ValueError(f"{option}: there is no column {column!r}. {meant(column, table.columns)}")
    cells = table.astype(str).apply(lambda column: column.str.strip())
    unknown = cells.apply(lambda column: column.str.lower()).isin(missing)
    table = cells.mask(unknown)
    note(notes, unknown.sum(), "marked as missing")
    for column in table.columns:
        if column in codes:
            coded = table[column].map(codes[column])
            refuse(column, table[column].notna() & coded.isna(), f"is none of {', '.join(map(repr, codes[column]))}")
            table[column] = coded.astype(float)
        elif column in dates:
            parsed = pd.to_datetime(table[column], format=dates[column], errors="coerce")
            refuse(column, table[column].notna() & parsed.isna(), f"is not a date written as {dates[column]}")
            table[column] = parsed
        elif column not in text and column != id:
            table[column] = numbers_in(table[column], decimal) * scale.get(column, 1)
    for column, (low, high) in limits.items():
        outside = (table[column] < low) | (table[column] > high)
        table[column] = table[column].mask(outside)
        note(notes, pd.Series({column: outside.sum()}), f"outside {low}–{high}, marked as missing")
    if id is not None:
        again = table.duplicated()
        note(notes, pd.Series({id: again.sum()}), "repeated records dropped")
        table = table[~again].reset_index(drop=True)
        twice = table.duplicated(subset=id, keep=False)
        if twice.any():
            first = ", ".join(str(row + 1) for row in np.flatnonzero(twice)[:4])
            raise ValueError(f"column {id!r}: one patient has different records (rows {first} after cleaning).")
    return table, notes


def note(notes, counts, what):
    """Add '12 cells in chol, 3 in age: <what>' where anything was counted."""
    found = [f"{n} in {column}" for column, n in counts.items() if n]
    if found:
        notes.append(f"{what}: {', '.join(found)}")


def numbers_in(column, decimal):
    """The column as floats; a cell that is not a number, or not finite, is refused by row, never by value."""
    import pandas as pd

    as_text = column.str.replace(decimal, ".", regex=False) if decimal != "." else column
    values = pd.to_numeric(as_text, errors="coerce")
    bad = column.notna() & values.isna()
    if bad.any() and decimal == "." and column[bad].str.fullmatch(r"[-+]?\d+,\d+").all():
        raise ValueError(f"column {column.name!r} has decimal commas (as in 1,5). Clean it with decimal=','.")
    refuse(column.name, bad, "is not a number. If it is a category, give its codes; if it stays text, name it in text")
    refuse(column.name, np.isinf(values), "is infinite. Correct it, or give limits so that it counts as missing")
    return values.astype(float)


def refuse(column, bad, why):
    """A ValueError that names the first rows in which the column is bad."""
    rows = np.flatnonzero(bad)
    if rows.size:
        some = ", ".join(str(r + 1) for r in rows[:4]) + (" …" if rows.size > 4 else "")
        raise ValueError(f"column {column!r}, row {some}: {rows.size} cell(s) whose content {why}.")


def combine(tables, *, id=None):
    """One table from {hospital: table}: columns matched by name, whatever their order, plus a column `hospital`.

    Refused: a column that one hospital lacks, or a patient who stands in two hospitals. A warning names a column
    whose median differs more than fivefold between hospitals: most often that is a unit (mg/dL and mmol/L).
    """
    import pandas as pd

    first, columns = next((name, list(table.columns)) for name, table in tables.items())
    for name, table in tables.items():
        for lacking in set(columns) - set(table.columns):
            raise ValueError(
                f"hospital {name!r} has no column {lacking!r}, which {first!r} has. {meant(lacking, table.columns)}"
            )
        for extra in set(table.columns) - set(columns):
            raise ValueError(
                f"hospital {name!r} has a column {extra!r}, which {first!r} lacks. Drop it, or add it there."
            )
    medians = pd.DataFrame({name: t.median(numeric_only=True) for name, t in tables.items()})
    for column, row in medians.iterrows():
        row = row[row > 0]  # a column of mostly zeros says nothing about units
        if len(row) > 1 and row.max() > 5 * row.min():
            low, high = row.idxmin(), row.idxmax()
            warnings.warn(
                f"column {column!r}: the median is {row[low]:g} in {low!r} and {row[high]:g} in {high!r}. "
                "Is it the same unit?",
                stacklevel=2,
            )
    table = pd.concat({name: t[columns] for name, t in tables.items()}, names=["hospital"])
    table = table.reset_index("hospital").reset_index(drop=True)
    if id is not None and table.duplicated(subset=id).any():
        names = sorted(set(table.loc[table.duplicated(subset=id, keep=False), "hospital"]))
        raise ValueError(
            f"column {id!r}: the same patient stands in more than one hospital ({', '.join(names)}). Keep one of the "
            "records: otherwise it can be trained on here and tested on there."
        )
    return table


# ---------------------------------------------------------------- hospitals


def stack(X, y, groups):
    """Records (N, d), labels (N,) and the hospital of each (N,) -> Hospitals, in the order of their names.

    Missing features (NaN) may stay until `standardise`; a label may not be missing, and nothing may be infinite.
    """
    columns = list(getattr(X, "columns", range(np.ndim(X) and np.shape(X)[-1])))
    X, y, groups = np.asarray(X), np.asarray(y), np.asarray(groups).astype(str)
    if X.ndim != 2 or len(X) == 0:
        raise ValueError(f"X must be a table of at least one record, (N, d), but its shape is {X.shape}.")
    if not len(X) == len(y) == len(groups):
        raise ValueError(f"X, y and groups must be as long as each other, but have {len(X)}, {len(y)}, {len(groups)}.")
    if X.dtype.kind not in "fiub" or y.dtype.kind not in "fiub":
        raise ValueError("X and y must be numbers. Turn text into numbers with clean(table, codes=…) first.")
    X = X if X.dtype.kind == "f" else X.astype(float)
    y = y.astype(X.dtype)
    if not np.isfinite(y).all():
        raise ValueError(f"the label is missing in {np.sum(~np.isfinite(y))} record(s). Drop those records.")
    if np.isinf(X).any():
        raise ValueError(f"column {columns[np.argwhere(np.isinf(X))[0, 1]]!r} has an infinite value. Correct it first.")
    if np.isnan(X).all(0).any():
        raise ValueError(f"column {columns[np.argmax(np.isnan(X).all(0))]!r} is missing in every record. Drop it.")
    names, hospital, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(hospital, kind="stable")
    k = hospital[order]
    seat = np.arange(len(k)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    K, n = len(names), sizes.max()
    stacked = Hospitals(
        np.zeros((K, n, X.shape[1]), X.dtype),
        np.zeros((K, n), X.dtype),
        np.zeros((K, n), X.dtype),
        tuple(map(str, names)),
    )
    stacked.X[k, seat], stacked.y[k, seat], stacked.w[k, seat] = X[order], y[order], 1 / sizes[k]
    return stacked


def train_test(hospitals, share=0.3, *, rng):
    """Hold out a share of every hospital's records, of each class alike: -> train, test (both Hospitals)."""
    number("share", share, above=0, below=1, hint="share=0.3 holds out 30 % of each hospital.")
    k, seat = np.nonzero(hospitals.w > 0)
    X, y, names = hospitals.X[k, seat], hospitals.y[k, seat], np.array(hospitals.names)[k]
    label = y if set(np.unique(y)) <= {0, 1} else np.zeros_like(y)
    _, group, sizes = np.unique(2 * k + label, return_inverse=True, return_counts=True)  # a hospital's class
    shuffled = np.lexsort((rng.random(k.size), group))
    rank = np.empty(k.size, int)
    rank[shuffled] = np.arange(k.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    held = rank < np.round(share * sizes)[group]
    lost = sorted(set(hospitals.names) - set(names[held])) or sorted(set(hospitals.names) - set(names[~held]))
    if lost:
        raise ValueError(f"hospital {lost[0]!r} is too small to split with share = {share}: one side has no record.")
    return stack(X[~held], y[~held], names[~held]), stack(X[held], y[held], names[held])


def pooled_moments(hospitals):
    """Mean (d,) and standard deviation (d,) of all records together, from sums only: two messages a hospital.

    First every hospital sends its count and Σx; then, knowing the mean μ, its Σ(x − μ)². Missing values do not
    count. A feature that never varies gets 1, so that dividing by it is safe. No record leaves; the sums do, and a
    sum over few patients says something about them. Notebook 04.
    """
    known = (hospitals.w[..., None] > 0) & ~np.isnan(hospitals.X)
    count = known.sum(1).sum(0)  # the inner sum is a hospital's message, the outer one is the server's
    if (count == 0).any():
        raise ValueError(f"feature {np.argmin(count)} is missing in every record of every hospital. Leave it out.")
    total = np.where(known, hospitals.X, 0).sum(1).sum(0)
    mean = total / count
    squares = np.where(known, (hospitals.X - mean) ** 2, 0).sum(1).sum(0)
    std = np.sqrt(squares / count)
    return mean.astype(hospitals.X.dtype), np.where(std > 0, std, 1).astype(hospitals.X.dtype)


def standardise(hospitals, mean, std):
    """x ← (x − mean)/std, and 0 (which is the mean) where x is missing. Padding stays 0."""
    z = (hospitals.X - mean) / std
    return hospitals._replace(X=np.where((hospitals.w[..., None] > 0) & ~np.isnan(z), z, 0).astype(hospitals.X.dtype))


def prepare(table, *, rng, target="target", hospital="hospital", share=0.3):
    """From a clean table to (train, test), both Hospitals: stack, hold out, standardise with the *training* sums.

    Every column other than `target` and `hospital` is a feature. Notebook 04 takes these steps one at a time.
    """
    for column in (target, hospital):
        if column not in table:
            raise ValueError(f"the table has no column {column!r}. {meant(column, table.columns)}")
    values = table[target].unique()
    if len(values) < 2:
        raise ValueError(f"the target {target!r} is the same in every record: there is nothing to predict.")
    train, test = train_test(
        stack(table.drop(columns=[target, hospital]), table[target], table[hospital]), share, rng=rng
    )
    moments = pooled_moments(train)
    return standardise(train, *moments), standardise(test, *moments)


def split_evenly(n, K, rng):
    """The hospital (0 … K−1) of each of n records, by chance, sizes equal to within one: (n,)."""
    return rng.permutation(np.arange(n) % K)


def split_by_size(n, K, skew, rng):
    """The hospital of each of n records, by chance, sizes like (k+1)^−skew and at least 1: (n,)."""
    share = np.arange(1, K + 1) ** -float(skew)
    bounds = np.round(np.cumsum(share / share.sum()) * (n - K)).astype(int)
    sizes = np.diff(bounds, prepend=0) + 1
    return rng.permutation(np.repeat(np.arange(K), sizes))


def split_by_label(y, K, alpha, rng):
    """The hospital of each record, equal sizes, each hospital with class shares drawn from Dirichlet(α · prior): (n,).

    α → ∞: everywhere the same mixture; α → 0: one class per hospital, while it lasts. Hsu et al. 2019,
    arXiv:1909.06335. Notebook 07.
    """
    number("alpha", alpha, above=0, hint="alpha=100 is nearly even, alpha=0.1 nearly one class per hospital.")
    label = np.unique(y, return_inverse=True)[1]
    pools = [rng.permutation(np.flatnonzero(label == c)) for c in range(label.max() + 1)]
    prior, groups = np.bincount(label) / len(label), np.empty(len(label), int)
    for k, seats in enumerate(np.array_split(groups, K)):
        left = np.array([len(pool) for pool in pools])
        take = np.minimum(np.round(rng.dirichlet(alpha * prior) * seats.size).astype(int), left)
        while take.sum() > seats.size:
            take[np.argmax(take)] -= 1
        while take.sum() < seats.size:  # a class has run out: fill up from the one with most left
            take[np.argmax(left - take)] += 1
        for c, pool in enumerate(pools):
            groups[pool[: take[c]]] = k
            pools[c] = pool[take[c] :]
    return groups


def split_by_column(values):
    """The hospital of each record by what stands in a column (a region, a scanner, an age band): (n,) of text."""
    return np.asarray(values).astype(str)


def shift_features(hospitals, amount, rng):
    """Another instrument in every hospital: x ← x · exp(amount · sₖ) + amount · mₖ, with sₖ, mₖ ~ N(0, I)."""
    s, m = rng.normal(size=(2, len(hospitals.names), 1, hospitals.X.shape[-1]))
    shifted = hospitals.X * np.exp(amount * s) + amount * m
    return hospitals._replace(X=np.where(hospitals.w[..., None] > 0, shifted, 0).astype(hospitals.X.dtype))


def synthetic(K, alpha, beta, *, d=60, rng):
    """FedProx's synthetic(α, β) with two classes: α says how the hospitals' models differ, β how their patients do.

    uₖ ~ N(0, α), (βₖ, bₖ) ~ N(uₖ, 1); Bₖ ~ N(0, β), vₖ ~ N(Bₖ, 1), x ~ N(vₖ, diag(j^−1.2)); y = [xβₖ + bₖ > 0];
    sizes ⌊LogNormal(4, 2)⌋ + 50, at most 2,000. Li et al. 2020, arXiv:1812.06127 (there ten classes). Notebook 08.
    """
    sizes = np.minimum(np.floor(rng.lognormal(4, 2, K)) + 50, 2000).astype(int)
    u, B = rng.normal(0, np.sqrt(alpha), (K, 1)), rng.normal(0, np.sqrt(beta), (K, 1))
    weights, v = rng.normal(u, 1, (K, d + 1)), rng.normal(B, 1, (K, d))
    k = np.repeat(np.arange(K), sizes)
    X = rng.normal(v[k], np.arange(1, d + 1) ** -0.6)
    y = (X * weights[k, :-1]).sum(-1) + weights[k, -1] > 0
    return stack(X, y.astype(float), np.array([f"H{i + 1:03d}" for i in range(K)])[k])


def make_hospitals(K, n, *, d=8, skew=0.0, difference=0.0, rng):
    """K made-up hospitals of n records on average, for the simulator: Hospitals with labels 0 and 1.

    Sizes follow (k+1)^−skew (0: all equal), at least 4 each. Labels follow p = σ(x·βₖ), βₖ = β + difference·zₖ with
    z ~ N(0, I); hospital k's patients are shifted by ½·difference·N(0, I). At difference 0 all are alike. Notebook 06.
    """
    whole("K", K)
    whole("n", n, least=4)
    number("skew", skew, least=0)
    number("difference", difference, least=0)
    sizes = np.arange(1, K + 1) ** -float(skew)
    sizes = np.maximum(4, np.round(sizes / sizes.mean() * n)).astype(int)
    beta = rng.normal(0, 1, d)
    betas = beta + difference * rng.normal(0, 1, (K, d))
    shifts = 0.5 * difference * rng.normal(0, 1, (K, d))
    k = np.repeat(np.arange(K), sizes)
    X = rng.normal(0, 1, (k.size, d)) + shifts[k]
    y = rng.random(k.size) < 1 / (1 + np.exp(-(X * betas[k]).sum(-1)))
    return stack(X, y.astype(float), np.array([f"H{i + 1:03d}" for i in range(K)])[k])
