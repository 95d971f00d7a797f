"""Files in, one table out: read, clean, combine.

The door of the kit: everything that can be wrong with a file or a table is said here, in a sentence with the
place and the mend, and never with a patient's values in it. Derived in notebook 04.
"""

import codecs
import csv
import io
import re
import unicodedata
import warnings
from pathlib import Path

import numpy as np

from .checks import NUMERAL, meant, number
from .folders import DATA

FOLDER = DATA
NO_TABLE = {  # how files of other kinds begin, whatever their names say
    b"PK": "an Excel workbook or a zip archive. Save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook. Save the sheet as CSV",
    b"\x1f\x8b": "packed by gzip. Unpack it first",
    b"%PDF": "a PDF. Ask for the table itself, as CSV",
    b"PAR1": "a Parquet file. Write it as CSV, with pandas.read_parquet and to_csv",
    b"SQLite format": "a database. Export the table as CSV",
    b"\x89PNG": "a picture. Ask for the table itself, as CSV",
}
WHOLE = r"^([-+]?\d+)\.0+$"  # a whole number written with a point
MISSING = ("", "?", "-", "na", "n/a", "nan", "none", "null", "missing", "unknown")  # in any case


def written(name):
    """A hospital's name as text: a whole number without a point, bytes as what they say.

    >>> written(1.0), written(b"Basel"), written(2.5)
    ('1', 'Basel', '2.5')
    """
    if isinstance(name, bytes):
        return name.decode(errors="backslashreplace")
    if isinstance(name, (float, np.floating)) and name.is_integer():
        return str(int(name))
    return str(name)


def read(path, *, sep=None, encoding="utf-8", target=None, most_bytes=10**9, most_columns=10_000):
    """A table of text, exactly as the file has it: leading zeros stay, and 'NA' stays 'NA'. `clean` comes next.

    path            of a CSV file; empty lines are skipped
    sep             the one sign between the cells; None: a comma, or what a first line "sep=;" of the file says
    encoding        how letters are stored; Excel often writes "cp1252"
    target          a column that must be there; None: any will do
    most_bytes      of the file; a larger one is refused
    most_columns    of the table; a wider one is refused

    >>> read(FOLDER / "messy" / "hospital_A.csv")["patient_id"].head(2).tolist()
    ['0001', '0002']

    Refused in words: a missing, empty or far too large file, another separator or encoding, rows of the wrong length,
    a column name that stands twice, a file of another kind in the table's place, a target that is not there. Letters
    with accents come in one form (Unicode NFC), however the file composes them.
    """
    import pandas as pd

    path = Path(path).expanduser()
    if sep is not None and (not isinstance(sep, str) or len(sep) != 1):
        raise ValueError(f"sep must be one sign, such as ',' or ';' or '\\t', not {sep!r}.")
    if not path.is_file():
        found = sorted(f.name for f in path.parent.glob("*.csv")) if path.parent.is_dir() else []
        near = meant(path.name, found) if found else f"The folder {path.parent} has no CSV file."
        raise FileNotFoundError(f"{path} is {'a folder, not a file' if path.is_dir() else 'not there'}. {near}")
    if path.stat().st_size > most_bytes:
        raise ValueError(
            f"{path.name} has {path.stat().st_size:,} bytes, more than most_bytes = {most_bytes:,}: this kit keeps "
            "tables in memory. Take fewer rows or columns, or allow more if your machine has several times as much."
        )
    raw = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    for sign, what in NO_TABLE.items():
        if raw.startswith(sign):
            raise ValueError(f"{path.name} is {what}.")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") and "16" not in encoding:
        raise ValueError(f"{path.name} is written in UTF-16. Read it with encoding='utf-16'.")
    try:
        text = unicodedata.normalize("NFC", raw.decode(encoding))
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path.name}, line {line}, is not written in {encoding}. "
            "Files from Windows or older systems often need encoding='cp1252' or 'latin-1'."
        ) from error
    for sign, what in (
        (r"[^\0]*\0", "binary data"),
        (r"\s*version https://git-lfs", "a git-LFS pointer: run 'git lfs pull'"),
        (r"\s*<(!doctype|html|head|body|\?xml)", "a web page"),  # and not a column called <60
    ):
        if re.match(sign, text, re.IGNORECASE):
            raise ValueError(f"{path.name} holds {what}, not a table. Get the file again from its source.")
    told = re.match(r"sep=(.)\r?\n", text)  # Excel writes such a line
    text, sep = text[told.end() :] if told else text, sep or (told[1] if told else ",")
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=sep, strict=True) if row]
    except csv.Error as error:
        raise ValueError(f"{path.name} is damaged: {error} (a quote that is never closed, or a cut file).") from error
    if len(rows) < 2:
        raise ValueError(f"{path.name} has {'only a header and no rows' if rows else 'nothing in it'}.")
    header = [name.strip() for name in rows[0]]
    if len(header) > most_columns:
        raise ValueError(
            f"{path.name} has {len(header):,} columns, more than most_columns = {most_columns:,}. Is it turned on its "
            "side, a patient per column? Otherwise choose the columns that you need."
        )
    other = next((other for other in ";\t|," if any(other in name for name in header)), None)
    if other and (len(header) == 1 or other in ";\t"):
        found = "one column" if len(header) == 1 else "that sign inside a column name"
        raise ValueError(f"{path.name} looks separated by sep={other!r}: split at {sep!r}, it has {found}.")
    if "" in header:
        raise ValueError(
            f"{path.name} has no name for column {header.index('') + 1}. Name it in the file, or remove it."
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{path.name} has the column {twice[0]!r} twice. Rename one of them in the file.")
    for number_, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise ValueError(f"{path.name}, record {number_}, has {len(row)} cells, but the header has {len(header)}.")
    if target is not None and composed(target) not in header:
        raise ValueError(f"{path.name} has no column {target!r}. {meant(target, header)}")
    return pd.DataFrame(rows[1:], columns=header, dtype=str)


def clean(
    table,
    *,
    rename=None,
    missing=MISSING,
    decimal=".",
    thousands=None,
    codes=None,
    scale=None,
    dates=None,
    limits=None,
    text=(),
    id=None,
):
    """Text to numbers, one rule at a time: -> table, notes (a sentence for everything that was changed).

    rename     {old: new}               columns get other names; the options below use the new ones. None: none
    missing    words or numbers         cells that mean "not known", in any case. (): none; default: MISSING
    decimal    "." or ","               the sign before the fraction
    thousands  "." or "," or " "        the sign between groups of three digits. None: there is none
    codes      {column: {"yes": 1}}     the number that a word (or a number) stands for, also if the word is one of
                                        `missing`. None: no words
    scale      {column: factor}         numbers are multiplied, to another unit. None: stay as they are
    dates      {column: "%Y-%m-%d"}     the format of a date. None: no dates
    limits     {column: (low, high)}    values outside become missing; None for an end: open. None: all stay
    text       columns                  left as text. (): all others are numbers
    id         column                   names a patient: the same one with the same record is kept once, with
                                        different records refused. None: nobody is looked for

    >>> import pandas as pd
    >>> raw = pd.DataFrame({"age": ["50", "?"], "ill": ["yes", "no"]})
    >>> table, notes = clean(raw, codes={"ill": {"yes": 1, "no": 0}})
    >>> table["ill"].tolist(), notes
    ([1.0, 0.0], ['marked as missing: 1 in age'])

    The table that came in is unchanged.
    """
    import pandas as pd

    rename, codes, scale, dates, limits = (
        {composed(column): what for column, what in (option or {}).items()}
        for option in (rename, codes, scale, dates, limits)
    )
    table, id, notes = table.rename(columns=composed), composed(id), []
    missing, text = [(words,) if np.ndim(words) == 0 else tuple(words) for words in (missing, text)]
    signs(decimal, thousands)
    limits = {column: opened(column, ends) for column, ends in limits.items()}
    text = [composed(column) for column in text]
    known(table, {"rename": rename})
    table = table.rename(columns=rename)
    options = {"codes": codes, "scale": scale, "dates": dates, "limits": limits, "text": text}
    known(table, options | {"id": [id] if id else []})
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise ValueError(f"rename gives the name {twice[0]!r} to two columns. Choose another for one of them.")
    sensible(scale, limits, {*codes, *dates, *text, id})
    gone, codes = table.isna(), {column: {spelled(word): n for word, n in codes[column].items()} for column in codes}
    missing = {spelled(word).lower() for word in missing}
    cells = table.astype(str).apply(lambda column: column.str.normalize("NFC").str.strip())
    compared = cells.apply(lambda column: column.str.replace(WHOLE, r"\1", regex=True))
    unknown = gone | compared.apply(lambda column: column.str.lower()).isin(missing)
    for column, words in codes.items():  # who gives a code to "-" does not mean "not known" by it
        unknown[column] &= gone[column] | ~compared[column].isin(words)
    table = cells.mask(unknown)
    note(notes, unknown.sum(), "marked as missing")
    for column in table.columns:
        if column in codes:
            coded = compared[column].mask(unknown[column]).map(codes[column])
            words = ", ".join(map(repr, codes[column]))
            refuse(column, table[column].notna() & coded.isna(), f"is none of {words}, which have codes")
            table[column] = coded.astype(float)
        elif column in dates:
            parsed = pd.to_datetime(table[column], format=dates[column], errors="coerce")
            refuse(column, table[column].notna() & parsed.isna(), f"is not a date written as {dates[column]}")
            table[column] = parsed
        elif column not in text and column != id:
            table[column] = numbers_in(table[column], decimal, thousands) * scale.get(column, 1)
    for column, (low, high) in limits.items():
        outside = (table[column] < low) | (table[column] > high)
        table[column] = table[column].mask(outside)
        note(notes, pd.Series({column: outside.sum()}), f"outside {low}–{high}, marked as missing")
    return (table if id is None else once(table, id, notes)), notes


def composed(name):
    """A name in one Unicode form, ä as one letter; what is no text stays as it is."""
    return unicodedata.normalize("NFC", name) if isinstance(name, str) else name


def spelled(word):
    """A cell or a word as it is compared: without blanks around it, in one Unicode form, 1 for 1.0 and -9 for -9.0."""
    return re.sub(WHOLE, r"\1", unicodedata.normalize("NFC", str(word)).strip())


def signs(decimal, thousands):
    """Refuse signs in numbers that cannot be meant."""
    if decimal not in (".", ","):
        raise ValueError(f"decimal must be '.' or ',', not {decimal!r}.")
    if thousands not in (None, ".", ",", " ", "'") or thousands == decimal:
        raise ValueError(
            f"thousands must be one of '.', ',', ' ' and \"'\", or None, and not decimal, not {thousands!r}."
        )


def opened(column, ends):
    """Limits as two numbers, None as an end that is open."""
    if not isinstance(ends, tuple | list) or len(ends) != 2:
        raise ValueError(f"limits of {column!r} must be two, (low, high), such as (0, 120) or (0, None), not {ends!r}.")
    low, high = (open if end is None else end for end, open in zip(ends, (-np.inf, np.inf), strict=True))
    for end in (low, high):
        if not isinstance(end, int | float | np.number) or np.isnan(end):
            raise ValueError(f"limits of {column!r} must be numbers or None, not {ends!r}.")
    return low, high


def sensible(scale, limits, others):
    """Refuse a scale or limits that cannot be meant; others: columns that are not read as numbers."""
    for column, factor in scale.items():
        number(f"the scale of {column!r}", factor, above=0)
    for option, columns in {"scale": scale, "limits": limits}.items():
        for column in set(columns) & others:
            raise ValueError(f"{option}: column {column!r} is not read as a number here. Leave it out of {option}.")
    for column, (low, high) in limits.items():
        if not low < high:
            raise ValueError(f"limits of {column!r}: the lower limit must be below the upper one, not {(low, high)}.")


def once(table, id, notes):
    """Every patient once: repeated records are dropped, different records of one patient are refused."""
    import pandas as pd

    refuse(id, table[id].isna(), "is missing, so that repeated patients cannot be found. Give every row an id")
    again = table.duplicated()
    note(notes, pd.Series({id: again.sum()}), "repeated records dropped")
    table = table[~again].reset_index(drop=True)
    twice = table.duplicated(subset=id, keep=False)
    if twice.any():
        first = ", ".join(str(row + 1) for row in np.flatnonzero(twice)[:4])
        raise ValueError(f"column {id!r}: one patient has different records (rows {first} after cleaning).")
    return table


def known(table, options):
    """A ValueError with the nearest name, where an option names a column that the table has not."""
    for option, columns in options.items():
        for column in columns:
            if column not in table:
                raise ValueError(f"{option}: there is no column {column!r}. {meant(column, table.columns)}")


def note(notes, counts, what):
    """Add '12 cells in chol, 3 in age: <what>' where anything was counted."""
    found = [f"{n} in {column}" for column, n in counts.items() if n]
    if found:
        notes.append(f"{what}: {', '.join(found)}")


def numbers_in(column, decimal, thousands=None):
    """The column as floats; a cell that is not a number, or not finite, is refused by row, never by value."""
    import pandas as pd

    as_text = column.astype(object)
    if thousands is not None:
        point, group = re.escape(decimal), re.escape(thousands)
        grouped = as_text.str.fullmatch(rf"[-+]?(\d+|\d{{1,3}}({group}\d{{3}})+)({point}\d*)?", na=True)
        refuse(column.name, ~grouped.astype(bool), f"is not a number whose thousands are parted by {thousands!r}")
        as_text = as_text.str.replace(thousands, "", regex=False)
    elif decimal == ",":
        refuse(
            column.name,
            as_text.str.contains(".", regex=False, na=False).astype(bool),
            "has a point, although decimal=','. Do points part thousands (250.000)? Say thousands='.'. Else correct it",
        )
    as_text = as_text.str.replace(decimal, ".", regex=False) if decimal != "." else as_text
    values = pd.to_numeric(as_text, errors="coerce")
    huge = values.isna() & as_text.str.fullmatch(NUMERAL, na=False).astype(bool)  # older pandas: 1e999 is no number
    values = values.mask(huge, np.inf)
    bad = column.notna() & values.isna()
    if bad.any() and decimal == "." and column[bad].str.fullmatch(r"[-+]?\d+,\d+").all():
        raise ValueError(
            f"column {column.name!r} has commas in its numbers. Decimal commas (1,5 for one and a half): clean it with "
            "decimal=','. Commas that part thousands (1,500): clean it with thousands=','."
        )
    refuse(column.name, bad, "is not a number. If it is a category, give its codes; if it stays text, name it in text")
    refuse(column.name, np.isinf(values), "is infinite. Correct it, or add 'inf' to missing")
    return values.astype(float)


def refuse(column, bad, why):
    """A ValueError that names the first rows in which the column is bad."""
    rows = np.flatnonzero(bad)
    if rows.size:
        some = ", ".join(str(r + 1) for r in rows[:4]) + (" …" if rows.size > 4 else "")
        raise ValueError(f"column {column!r}, row {some}: {rows.size} cell(s) whose content {why}.")


def combine(tables, *, id=None):
    """One table from {hospital: table}: columns matched by name, whatever their order, plus a column `hospital`.

    tables    {hospital: table}, each with at least one record
    id        the column that names a patient: who stands in two hospitals is refused, also as 1, "1" and " 1"; so is
              a record without an id. None: nobody is looked for

    >>> import pandas as pd
    >>> combine({"A": pd.DataFrame({"age": [50]}), "B": pd.DataFrame({"age": [60]})})["hospital"].tolist()
    ['A', 'B']

    Refused as well: a hospital without a record, two names that are written alike, a column that one hospital lacks.
    A warning names a column whose median differs more than fivefold between hospitals: most often that is a unit
    (mg/dL and mmol/L).
    """
    import pandas as pd

    if not tables:
        raise ValueError("there is no table to combine: give {hospital: table}, at least one.")
    names = [written(name) for name in tables]
    alike = sorted({name for name in names if names.count(name) > 1})
    if alike:
        raise ValueError(f"two hospitals are written {alike[0]!r}, as 1 and '1' are. Give one of them another name.")
    for name, table in tables.items():
        known(table, {f"hospital {name!r}, id": [id] if id else []})
        if "hospital" in table:
            raise ValueError(f"hospital {name!r} already has a column 'hospital'. Rename it: this name is needed here.")
        if len(table) == 0:
            raise ValueError(
                f"hospital {name!r} has no record, and would vanish here. Leave it out, or look for what emptied it."
            )
    columns = same_columns(tables)
    warn_of_units(tables)
    table = pd.concat({name: t[columns] for name, t in tables.items()}, names=["hospital"])
    table = table.reset_index("hospital").reset_index(drop=True)
    if id is None:
        return table
    refuse(id, table[id].isna(), "is missing, so that a patient of two hospitals cannot be found. Give every row an id")
    patients = table[id].map(lambda one: spelled(written(one)))
    if patients.duplicated().any():
        both = sorted(set(map(written, table.loc[patients.duplicated(keep=False), "hospital"])))
        raise ValueError(
            f"column {id!r}: the same patient stands in more than one hospital ({', '.join(both)}). Keep one of the "
            "records: otherwise it can be trained on here and tested on there."
        )
    return table


def same_columns(tables):
    """The columns of the first hospital, or a ValueError where another has one less or one more."""
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
    return columns


def warn_of_units(tables):
    """A warning for each column whose median differs more than fivefold between hospitals."""
    import pandas as pd

    medians = pd.DataFrame({name: t.median(numeric_only=True).astype(float) for name, t in tables.items()})
    for column, row in medians.iterrows():
        row = row[row > 0]  # a column of mostly zeros says nothing about units
        if len(row) > 1 and row.max() > 5 * row.min():
            low, high = row.idxmin(), row.idxmax()
            warnings.warn(
                f"column {column!r}: the median is {row[low]:g} in {low!r} and {row[high]:g} in {high!r}. "
                "Is it the same unit?",
                stacklevel=3,
            )
