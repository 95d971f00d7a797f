"""Hospitals from records: load, stack, split, standardise, and make up.

Reading, cleaning and combining files is in `tables`. Derived in notebooks 04 (real files), 06 and 07 (made-up
hospitals).
"""

import numbers
from typing import NamedTuple

import numpy as np

from .checks import in_order, meant, number, whole
from .tables import FOLDER, clean, read, written

MOST_PADDING = 4 * 10**9  # bytes that a stack may fill with nothing


def load(name, raw=False):
    """A data set of the kit as a table, ready for use. `data/<name>/README.md` is its card.

    name   "heart": `target` is 1 with heart disease, impossible zeros are missing, repeated rows are dropped.
    raw    True: the file as it stands, with all 920 patients.

    >>> load("heart").shape, load("heart", raw=True).shape
    ((918, 15), (920, 16))

    Notebook 04 takes the same steps one by one.
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
    """K hospitals stacked, each filled up with empty rows to the length n of the largest.

    X      (K, n, d)  features
    y      (K, n)     labels
    w      (K, n)     row weights: 1/nₖ for a record, 0 for padding
    names  (K,)       text
    """

    X: np.ndarray
    y: np.ndarray
    w: np.ndarray
    names: tuple

    @property
    def sizes(self):
        """Number of records of each hospital, nₖ: (K,)."""
        return (self.w > 0).sum(-1)

    def one(self, k):
        """The records of one hospital, without padding: X (nₖ, d), y (nₖ,).

        k    text is a name; a whole number is a row, counted from 0.

        >>> stack([[50.0], [60.0], [70.0]], [0, 1, 1], ["Basel", "Chur", "Chur"]).one("Chur")
        (array([[60.],
               [70.]]), array([1., 1.]))

        Where names are numbers, a row number that is the name of *another* row is refused: it can be meant in two ways.
        """
        k = row_of(k, self.names)
        seen = self.w[k] > 0
        return self.X[k][seen], self.y[k][seen]

    def pooled(self):
        """All records in one hospital: what nobody in a federation ever sees, and the yardstick for it."""
        seen = self.w > 0
        return stack(self.X[seen], self.y[seen], np.full(seen.sum(), "pooled"))


def row_of(k, names):
    """The row of the hospital that a person asks for, by name (text) or by row (a whole number)."""
    if isinstance(k, str):
        if k not in names:
            raise KeyError(f"there is no hospital {k!r}. {meant(k, names)}")
        return names.index(k)
    if not isinstance(k, numbers.Integral) or isinstance(k, bool):
        raise TypeError(f"one() needs a hospital's name, in quotes, or the whole number of its row, not {k!r}.")
    row = names[k] if -len(names) <= k < len(names) else None
    if row != str(k) and str(k) in names:
        one = f"one({k}) is unclear: row {k} is hospital {row!r}, and" if row else f"there is no row {k}, but"
        ask = f" or one({row!r})" if row else ""
        raise ValueError(f"{one} hospital '{k}' is row {names.index(str(k))}. Ask by name: one('{k}'){ask}.")
    if row is None:
        raise IndexError(f"there is no row {k}: the rows of {len(names)} hospitals are 0 to {len(names) - 1}.")
    return k


def stack(X, y, groups, *, most_padding=MOST_PADDING):
    """Records of many hospitals -> Hospitals, in the order of their names.

    X             (N, d)  features, an array or a table; float16 becomes float32. NaN may stay until `standardise`
    y             (N,)    labels, none missing
    groups        (N,)    the hospital of each record; names that are all numbers are in the order of the numbers
    most_padding  bytes   the most that padding may take; None: no limit

    >>> many = stack([[50.0], [60.0], [70.0]], [0, 1, 1], [10, 2, 10])
    >>> many.names, many.sizes, many.X.shape
    (('2', '10'), array([1, 2]), (2, 2, 1))

    Every hospital is padded to the largest, so 200,000 records beside 2,000 hospitals of one would fill 39 GiB with
    nothing. That is refused in words and not stored as records with offsets: offsets would save the memory, but every
    formula of a hospital would need a second, ragged form that students would have to read. Hospitals of one
    size have no padding, and are never refused.
    """
    X, y, groups = checked(X, y, groups)
    names, hospital = whose_record(groups)
    sizes = np.bincount(hospital)
    if most_padding is not None:
        affordable(names, sizes, (X.shape[1] + 2) * X.itemsize, number("most_padding", most_padding, least=0))
    order = np.argsort(hospital, kind="stable")
    k = hospital[order]
    seat = np.arange(len(k)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    K, n = len(names), sizes.max()
    stacked = Hospitals(
        np.zeros((K, X.shape[1], n), X.dtype).mT,  # a feature lies together in memory: products run along records
        np.zeros((K, n), X.dtype),
        np.zeros((K, n), X.dtype),
        names,
    )
    stacked.X[k, seat], stacked.y[k, seat], stacked.w[k, seat] = X[order], y[order], 1 / sizes[k]
    return stacked


def checked(X, y, groups):
    """Records, labels and hospitals as arrays of one length, or a sentence about what is wrong with them."""
    columns = list(getattr(X, "columns", range(np.ndim(X) and np.shape(X)[-1])))
    kinds = list(getattr(X, "dtypes", []))
    for column, kind in zip(columns, kinds, strict=False):
        if getattr(kind, "kind", "O") not in "fiub":
            raise ValueError(f"column {column!r} is not a number. Give its codes to clean(), or leave the column out.")
    if np.ma.is_masked(X) or np.ma.is_masked(y):
        raise ValueError(
            "some cells are masked, and NumPy would use what is below: X = np.ma.filled(X.astype(float), np.nan)."
        )
    X, y, groups = plain(X), plain(y), as_they_are(groups)
    if X.ndim != 2 or len(X) == 0:
        raise ValueError(f"X must be a table of at least one record, (N, d), but its shape is {X.shape}.")
    if y.ndim != 1 or groups.ndim != 1:
        raise ValueError(f"y and groups must have one entry per record, (N,), but have {y.shape} and {groups.shape}.")
    if not len(X) == len(y) == len(groups):
        raise ValueError(f"X, y and groups must be as long as each other, but have {len(X)}, {len(y)}, {len(groups)}.")
    if X.dtype.kind not in "fiub" or y.dtype.kind not in "fiub":
        raise ValueError("X and y must be numbers. Turn text into numbers with clean(table, codes=…) first.")
    X = X.astype(np.result_type(X, np.float32) if X.dtype.kind == "f" else float, copy=False)
    y = y.astype(X.dtype)
    if not np.isfinite(y).all():
        raise ValueError(f"the label is missing in {np.sum(~np.isfinite(y))} record(s). Drop those records.")
    if np.isinf(X).any():
        raise ValueError(f"column {columns[np.argwhere(np.isinf(X))[0, 1]]!r} has an infinite value. Correct it first.")
    if np.isnan(X).all(0).any():
        raise ValueError(f"column {columns[np.argmax(np.isnan(X).all(0))]!r} is missing in every record. Drop it.")
    return X, y, groups


def affordable(names, sizes, record, most):
    """Refuse, before anything is allocated, a stack of which more than `most` bytes are padding; record: its bytes."""
    K, n = len(sizes), int(sizes.max())
    padding = (K * n - int(sizes.sum())) * record
    if padding > most:
        raise ValueError(
            f"stacked, these {K:,} hospitals take {K * n * record:,} bytes, and {padding:,} of them are padding, more "
            f"than most_padding = {most:,.0f}: all are filled up to hospital {names[sizes.argmax()]!r} with its {n:,} "
            f"records, and half of them have {np.median(sizes):,.0f} or fewer. Merge the small hospitals, keep fewer "
            "records of the large one or deal them to several, or allow more: most_padding=…"
        )


def plain(values):
    """A NumPy array: of floats, with NaN where it is missing, for a table or column of pandas' own number types."""
    array = np.asarray(values)
    kinds = {getattr(kind, "kind", "O") for kind in np.ravel(getattr(values, "dtypes", "O"))}
    numeric = kinds <= set("fiub")
    return values.to_numpy(float, na_value=np.nan) if array.dtype == object and numeric else array


def as_they_are(groups):
    """An array or a column as it is, and of a list its values: NumPy alone would make 1.0 beside "b" the text 1.0."""
    return groups if hasattr(groups, "ndim") else np.array(groups, dtype=object)


def whose_record(groups):
    """Names of the hospitals in their order, (K,), and the place among them of each record's, (N,).

    Refused: a record of nobody's, and a category of a pandas column that has no record: its hospital would vanish.
    """
    import pandas as pd

    groups = as_they_are(groups)
    if groups.ndim != 1:
        raise ValueError(f"every record needs one hospital, (N,), but the shape is {groups.shape}.")
    column = pd.Series(groups)
    values = column.to_numpy()
    if values.dtype.kind not in "iuf":
        values = np.array(["" if gone else written(value) for value, gone in zip(values, column.isna(), strict=True)])
    found, hospital = np.unique(values, return_inverse=True)
    names = [written(value) for value in found]
    if column.isna().any() or not all(name.strip() for name in names):
        raise ValueError("a record has no hospital. Name it, or drop the record.")
    if isinstance(column.dtype, pd.CategoricalDtype):
        empty = [name for name in map(written, column.cat.categories) if name not in names]
        if empty:
            raise ValueError(
                f"hospital {empty[0]!r} is a category of this column, but has no record. Look for what took its "
                "records, or let it go with remove_unused_categories()."
            )
    order = in_order(names)  # as text 10 would come before 2
    names, hospital = [names[k] for k in order], np.argsort(order)[hospital]
    return tuple(names), hospital


def train_test(hospitals, share=0.3, *, rng):
    """Hold out a share of every hospital's records, of each class alike: -> train, test (both Hospitals).

    share    between 0 and 1: 0.3 holds out 30 % of each hospital
    rng      a seed or a generator

    >>> train, test = train_test(make_hospitals(2, 50, rng=0), 0.3, rng=1)
    >>> train.sizes, test.sizes
    (array([35, 35]), array([15, 15]))
    """
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
    here = set(hospitals.names)
    lost = sorted(here - set(names[held])) or sorted(here - set(names[~held]))
    if lost:
        raise ValueError(f"hospital {lost[0]!r} is too small to split with share = {share}: one side has no record.")
    halves = [stack(X[half], y[half], k[half], most_padding=None) for half in (~held, held)]  # padded before already
    return tuple(half._replace(names=hospitals.names) for half in halves)


def pooled_moments(hospitals):
    """Mean μ (d,) and standard deviation (d,) of all records together, from sums only: two messages a hospital.

    First every hospital sends its count and Σx; then, knowing μ, its Σ(x − μ)². Missing values do not count. A
    feature that never varies gets 1, so that dividing by it is safe. No record leaves; the sums do, and a sum over few
    patients says something about them. Sums are float64 whatever the table is: 2,000 blood pressures overflow float16,
    and float32 cannot see years vary around 2020.

    >>> mean, std = pooled_moments(stack([[1.0], [3.0], [5.0]], [0, 1, 1], ["A", "A", "B"]))
    >>> mean, std.round(3)
    (array([3.]), array([1.633]))

    Notebook 04.
    """
    known = (hospitals.w[..., None] > 0) & ~np.isnan(hospitals.X)
    count = known.sum(1).sum(0)  # the inner sum is a hospital's message, the outer one is the server's
    if (count == 0).any():
        raise ValueError(f"feature {np.argmin(count)} is missing in every record of every hospital. Leave it out.")
    wide = np.result_type(hospitals.X, np.float64)
    mean = np.where(known, hospitals.X, 0).sum(1, dtype=wide).sum(0) / count
    squares = np.where(known, (hospitals.X - mean) ** 2, 0).sum(1).sum(0)
    std = np.sqrt(squares / count).astype(hospitals.X.dtype)  # the table's type holds it: it is at most half the range
    rounding = count * np.finfo(wide).eps * np.abs(mean)
    return mean.astype(hospitals.X.dtype), np.where(std > rounding, std, 1).astype(hospitals.X.dtype)


def standardise(hospitals, mean, std):
    """x ← (x − mean)/std, and 0 (which is the mean) where x is missing. Padding stays 0.

    mean, std    (d,), of the *training* records: `pooled_moments(train)`

    >>> one = stack([[1.0], [np.nan], [5.0]], [0, 1, 1], ["A", "A", "A"])
    >>> standardise(one, mean=3.0, std=2.0).X[0, :, 0]
    array([-1.,  0.,  1.])
    """
    z = (hospitals.X - mean) / std
    known = (hospitals.w[..., None] > 0) & ~np.isnan(z)
    return hospitals._replace(X=np.where(known, z, 0).astype(hospitals.X.dtype))


def prepare(table, *, rng, target="target", hospital="hospital", share=0.3, most_padding=MOST_PADDING):
    """From a clean table to (train, test), both Hospitals: stack, hold out, standardise with the *training* sums.

    table         every column other than the two that follow is a feature
    rng           a seed or a generator: who is held out
    target        the column to predict
    hospital      the column that says whose record it is
    share         held out of each hospital, between 0 and 1
    most_padding  bytes that padding may take, see `stack`; None: no limit

    >>> train, test = prepare(load("heart"), rng=0)
    >>> train.sizes, test.sizes
    (array([212, 205,  87, 140]), array([91, 88, 36, 59]))

    Notebook 04 takes these steps one at a time.
    """
    for column in (target, hospital):
        if column not in table:
            raise ValueError(f"the table has no column {column!r}. {meant(column, table.columns)}")
    if len(table) == 0:
        raise ValueError("the table has no record, so that every hospital is gone. Look for what dropped the rows.")
    values = table[target].dropna().unique()
    if len(values) < len(table[target].unique()):
        raise ValueError(
            f"the target {target!r} is missing in {table[target].isna().sum()} record(s). Drop them: "
            f"table.dropna(subset=[{target!r}])."
        )
    if len(values) < 2:
        raise ValueError(f"the target {target!r} is the same in every record: there is nothing to predict.")
    if len(values) == 2 and set(values) != {0, 1}:
        raise ValueError(f"the target {target!r} has two values, but they are not 0 and 1. Give its codes to clean().")
    features = table.drop(columns=[target, hospital])
    hospitals = stack(features, table[target], table[hospital], most_padding=most_padding)
    train, test = train_test(hospitals, share, rng=rng)
    moments = pooled_moments(train)
    return standardise(train, *moments), standardise(test, *moments)


def splits(table, count=10, *, first=0, **options):
    """The table split again and again, so that no single draw carries a conclusion: [(train, test), …], prepared.

    table     as in `prepare`
    count     how many splits
    first     the seed of the first one; the next has first + 1, …
    options   those of `prepare`, without rng

    Split s is prepare(table, rng=first + s). A list, because a page goes through it more than once.

    >>> halves = splits(load("heart"), 3, share=0.5)
    >>> len(halves), halves[0][1].names
    (3, ('Cleveland', 'Hungary', 'Switzerland', 'VA Long Beach'))
    """
    if "rng" in options:
        raise ValueError("splits makes its own seeds: first, first + 1, …. Give first=… in place of rng.")
    seeds = range(whole("first", first, least=0), first + whole("count", count))
    return [prepare(table, rng=np.random.default_rng(seed), **options) for seed in seeds]


def enough(n, K):
    """Refuse to deal n records to K hospitals if somebody would get none."""
    if whole("K", K) > n:
        raise ValueError(f"{n} records cannot be dealt to {K} hospitals: each needs at least one.")


def split_evenly(n, K, rng):
    """The hospital (0 … K−1) of each of n records, by chance, sizes equal to within one: (n,).

    >>> np.bincount(split_evenly(10, 3, rng=0))
    array([4, 3, 3])
    """
    enough(n, K)
    return np.random.default_rng(rng).permutation(np.arange(n) % K)


def split_by_size(n, K, skew, rng):
    """The hospital of each of n records, by chance, sizes like (k+1)^−skew and at least 1: (n,).

    skew    0: all of one size; 1: the second has half as many records as the first, the third a third

    >>> np.bincount(split_by_size(100, 4, 1.0, rng=0))
    array([47, 24, 16, 13])
    """
    enough(n, K)
    number("skew", skew, least=0, hint="skew=0: all of one size.")
    share = np.arange(1, K + 1) ** -float(skew)
    bounds = np.round(np.cumsum(share / share.sum()) * (n - K)).astype(int)
    sizes = np.diff(bounds, prepend=0) + 1
    return np.random.default_rng(rng).permutation(np.repeat(np.arange(K), sizes))


def split_by_label(y, K, alpha, rng):
    """The hospital of each record, equal sizes, each hospital with class shares drawn from Dirichlet(α · prior): (n,).

    y        (n,)  the class of each record
    alpha    α → ∞: everywhere the same mixture; α → 0: one class per hospital, while it lasts

    Hospitals are dealt in order, and the last ones take what is left, which may differ more than α says.

    >>> y = np.array([0, 0, 0, 0, 1, 1])
    >>> np.bincount(split_by_label(y, 2, alpha=1e6, rng=0), weights=y)
    array([1., 1.])

    Hsu et al. 2019, arXiv:1909.06335. Notebook 07.
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
    """The hospital of each record by what stands in a column (a region, a scanner, an age band): (n,) of text.

    >>> split_by_column([1.0, 10.0, 2.0]).tolist()
    ['1', '10', '2']
    """
    names, hospital = whose_record(values)
    return np.array(names)[hospital]


def shift_features(hospitals, amount, rng):
    """Another instrument in every hospital: x ← x · exp(amount · sₖ) + amount · mₖ, with sₖ, mₖ ~ N(0, I).

    amount    0: nothing changes

    The patients and their labels stay, what is read off them changes. Notebook 07.
    """
    s, m = np.random.default_rng(rng).normal(size=(2, len(hospitals.names), 1, hospitals.X.shape[-1]))
    shifted = hospitals.X * np.exp(amount * s) + amount * m
    return hospitals._replace(X=np.where(hospitals.w[..., None] > 0, shifted, 0).astype(hospitals.X.dtype))


def numbered(K):
    """H001, H002, …: names that are sorted as their numbers are: (K,).

    >>> numbered(3).tolist()
    ['H001', 'H002', 'H003']
    """
    return np.array([f"H{i + 1:0{max(3, len(str(K)))}d}" for i in range(K)])


def synthetic(K, alpha, beta, *, d=60, rng):
    """FedProx's synthetic(α, β) with two classes, K made-up hospitals of at least 50 records: Hospitals.

    alpha    how much the hospitals' models differ; 0: least
    beta     how much their patients differ; 0: least
    d        number of features

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
    """K made-up hospitals for the simulator: Hospitals with labels 0 and 1.

    n             records of a hospital on average, at least 4 each
    d             number of features
    skew          sizes follow (k+1)^−skew; 0: all equal
    difference    how much hospitals differ; 0: all are alike

    Labels follow p = σ(x·βₖ), βₖ = β + difference·zₖ with z ~ N(0, I); hospital k's patients are shifted by
    ½·difference·N(0, I).

    >>> make_hospitals(3, 20, skew=1.0, rng=0).sizes
    array([33, 16, 11])

    Notebook 06.
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
