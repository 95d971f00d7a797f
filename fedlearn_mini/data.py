"""Hospitals from records: load, stack, split, standardise, and make up.

Reading, cleaning and combining files is in `tables`. Derived in notebooks 04 (real files), 06 and 07 (made-up
hospitals).
"""

from typing import NamedTuple

import numpy as np

from .checks import meant, number, whole
from .tables import FOLDER, clean, read


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


def stack(X, y, groups):
    """Records (N, d), labels (N,) and the hospital of each (N,) -> Hospitals, in the order of their names.

    Missing features (NaN) may stay until `standardise`; a label may not be missing, and nothing may be infinite.
    """
    columns = list(getattr(X, "columns", range(np.ndim(X) and np.shape(X)[-1])))
    kinds = list(getattr(X, "dtypes", []))
    for column, kind in zip(columns, kinds, strict=False):
        if getattr(kind, "kind", "O") not in "fiub":
            raise ValueError(f"column {column!r} is not a number. Give its codes to clean(), or leave the column out.")
    X, y, groups = plain(X), plain(y), whose_record(groups)
    if X.ndim != 2 or len(X) == 0:
        raise ValueError(f"X must be a table of at least one record, (N, d), but its shape is {X.shape}.")
    if y.ndim != 1 or groups.ndim != 1:
        raise ValueError(f"y and groups must have one entry per record, (N,), but have {y.shape} and {groups.shape}.")
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
        np.zeros((K, X.shape[1], n), X.dtype).mT,  # a feature lies together in memory: products run along records
        np.zeros((K, n), X.dtype),
        np.zeros((K, n), X.dtype),
        tuple(map(str, names)),
    )
    stacked.X[k, seat], stacked.y[k, seat], stacked.w[k, seat] = X[order], y[order], 1 / sizes[k]
    return stacked


def plain(values):
    """A NumPy array: of floats, with NaN where it is missing, for a table or column of pandas' own number types."""
    array, kinds = np.asarray(values), {getattr(kind, "kind", "O") for kind in np.ravel(getattr(values, "dtypes", "O"))}
    return values.to_numpy(float, na_value=np.nan) if array.dtype == object and kinds <= set("fiub") else array


def whose_record(groups):
    """The hospital of each record, as text or whole numbers: (N,). A record of nobody's is refused."""
    import pandas as pd

    if pd.isna(groups).any():
        raise ValueError("a record has no hospital. Name it, or drop the record.")
    groups = np.asarray(groups)
    groups = np.asarray(groups.tolist()) if groups.dtype == object else groups  # pandas keeps whole numbers as objects
    return groups if groups.dtype.kind in "iu" else groups.astype(str)


def train_test(hospitals, share=0.3, *, rng):
    """Hold out a share of every hospital's records, of each class alike: -> train, test (both Hospitals)."""
    number("share", share, above=0, below=1, hint="share=0.3 holds out 30 % of each hospital.")
    rng = np.random.default_rng(rng)
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
    halves = [stack(X[half], y[half], k[half]) for half in (~held, held)]
    return tuple(half._replace(names=hospitals.names) for half in halves)


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
    rounding = count * np.finfo(hospitals.X.dtype).eps * np.abs(mean)
    return mean.astype(hospitals.X.dtype), np.where(std > rounding, std, 1).astype(hospitals.X.dtype)


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
    if len(values) == 2 and set(values) != {0, 1}:
        raise ValueError(f"the target {target!r} has two values, but they are not 0 and 1. Give its codes to clean().")
    train, test = train_test(
        stack(table.drop(columns=[target, hospital]), table[target], table[hospital]), share, rng=rng
    )
    moments = pooled_moments(train)
    return standardise(train, *moments), standardise(test, *moments)


def enough(n, K):
    """Refuse to deal n records to K hospitals if somebody would get none."""
    if whole("K", K) > n:
        raise ValueError(f"{n} records cannot be dealt to {K} hospitals: each needs at least one.")


def split_evenly(n, K, rng):
    """The hospital (0 … K−1) of each of n records, by chance, sizes equal to within one: (n,)."""
    enough(n, K)
    return np.random.default_rng(rng).permutation(np.arange(n) % K)


def split_by_size(n, K, skew, rng):
    """The hospital of each of n records, by chance, sizes like (k+1)^−skew and at least 1: (n,)."""
    enough(n, K)
    number("skew", skew, least=0, hint="skew=0: all of one size.")
    share = np.arange(1, K + 1) ** -float(skew)
    bounds = np.round(np.cumsum(share / share.sum()) * (n - K)).astype(int)
    sizes = np.diff(bounds, prepend=0) + 1
    return np.random.default_rng(rng).permutation(np.repeat(np.arange(K), sizes))


def split_by_label(y, K, alpha, rng):
    """The hospital of each record, equal sizes, each hospital with class shares drawn from Dirichlet(α · prior): (n,).

    α → ∞: everywhere the same mixture; α → 0: one class per hospital, while it lasts. Hospitals are dealt in order,
    and the last ones take what is left, which may differ more than α says. Hsu et al. 2019, arXiv:1909.06335.
    Notebook 07.
    """
    number("alpha", alpha, above=0, hint="alpha=100 is nearly even, alpha=0.1 nearly one class per hospital.")
    enough(len(y), K)
    label, rng = np.unique(y, return_inverse=True)[1], np.random.default_rng(rng)
    pools = [rng.permutation(np.flatnonzero(label == c)) for c in range(label.max() + 1)]
    prior, groups, owed = np.bincount(label) / len(label), np.empty(len(label), int), 0.0
    for k, seats in enumerate(np.array_split(groups, K)):
        left = np.array([len(pool) for pool in pools])
        due = rng.dirichlet(alpha * prior) * seats.size + owed
        take = np.clip(np.round(due), 0, left).astype(int)
        while take.sum() > seats.size:
            take[np.argmax(take)] -= 1
        while take.sum() < seats.size:  # a class has run out: fill up from the one with most left
            take[np.argmax(left - take)] += 1
        owed = np.clip(due - take, -1, 1)  # what rounding took from a class here, the next hospital gets
        for c, pool in enumerate(pools):
            groups[pool[: take[c]]] = k
            pools[c] = pool[take[c] :]
    return groups


def split_by_column(values):
    """The hospital of each record by what stands in a column (a region, a scanner, an age band): (n,) of text."""
    return whose_record(values).astype(str)


def shift_features(hospitals, amount, rng):
    """Another instrument in every hospital: x ← x · exp(amount · sₖ) + amount · mₖ, with sₖ, mₖ ~ N(0, I).

    The patients and their labels stay, what is read off them changes. Notebook 07.
    """
    s, m = np.random.default_rng(rng).normal(size=(2, len(hospitals.names), 1, hospitals.X.shape[-1]))
    shifted = hospitals.X * np.exp(amount * s) + amount * m
    return hospitals._replace(X=np.where(hospitals.w[..., None] > 0, shifted, 0).astype(hospitals.X.dtype))


def numbered(K):
    """H001, H002, …: names that are sorted as their numbers are: (K,)."""
    return np.array([f"H{i + 1:0{max(3, len(str(K)))}d}" for i in range(K)])


def synthetic(K, alpha, beta, *, d=60, rng):
    """FedProx's synthetic(α, β) with two classes: α says how the hospitals' models differ, β how their patients do.

    uₖ ~ N(0, α), (βₖ, bₖ) ~ N(uₖ, 1); Bₖ ~ N(0, β), vₖ ~ N(Bₖ, 1), x ~ N(vₖ, diag(j^−1.2)); y = [xβₖ + bₖ > 0];
    sizes ⌊LogNormal(4, 2)⌋ + 50. Li et al. 2020, arXiv:1812.06127, with two classes for ten and sizes up to 2,000;
    α and β are variances as in the paper's text (in its program they are standard deviations). Notebook 08.
    """
    whole("K", K)
    number("alpha", alpha, least=0, hint="alpha=0: the hospitals' models differ least.")
    number("beta", beta, least=0, hint="beta=0: the hospitals' patients differ least.")
    rng = np.random.default_rng(rng)
    sizes = np.minimum(np.floor(rng.lognormal(4, 2, K)) + 50, 2000).astype(int)
    u, B = rng.normal(0, np.sqrt(alpha), (K, 1)), rng.normal(0, np.sqrt(beta), (K, 1))
    weights, v = rng.normal(u, 1, (K, d + 1)), rng.normal(B, 1, (K, d))
    k = np.repeat(np.arange(K), sizes)
    X = rng.normal(v[k], np.arange(1, d + 1) ** -0.6)
    y = (X * weights[k, :-1]).sum(-1) + weights[k, -1] > 0
    return stack(X, y.astype(float), numbered(K)[k])


def make_hospitals(K, n, *, d=8, skew=0.0, difference=0.0, rng):
    """K made-up hospitals of n records on average, for the simulator: Hospitals with labels 0 and 1.

    Sizes follow (k+1)^−skew (0: all equal), at least 4 each. Labels follow p = σ(x·βₖ), βₖ = β + difference·zₖ with
    z ~ N(0, I); hospital k's patients are shifted by ½·difference·N(0, I). At difference 0 all are alike. Notebook 06.
    """
    whole("K", K)
    whole("n", n, least=4)
    number("skew", skew, least=0)
    number("difference", difference, least=0)
    rng = np.random.default_rng(rng)
    sizes = np.arange(1, K + 1) ** -float(skew)
    sizes = np.maximum(4, np.round(sizes / sizes.mean() * n)).astype(int)
    beta = rng.normal(0, 1, d)
    betas = beta + difference * rng.normal(0, 1, (K, d))
    shifts = 0.5 * difference * rng.normal(0, 1, (K, d))
    k = np.repeat(np.arange(K), sizes)
    X = rng.normal(0, 1, (k.size, d)) + shifts[k]
    y = rng.random(k.size) < 1 / (1 + np.exp(-(X * betas[k]).sum(-1)))
    return stack(X, y.astype(float), numbered(K)[k])
