"""`python -m fedlearn_mini`: is everything here, and does the main thing work? In words, in a few seconds."""

import importlib.metadata
import sys
from pathlib import Path

NEEDED = {
    "numpy": (2, 2),
    "pandas": (2, 2),
    "matplotlib": (3, 8),
    "pillow": (10, 0),
    "ipywidgets": (8, 1),
    "jupyterlab": (4, 2),
    "tqdm": (4, 66),
}


def environment():
    """A line per package that the kit needs: 'ok  numpy 2.4.6', or what is wrong and how to mend it."""
    lines = [f"ok  Python {sys.version.split()[0]}"]
    for name, least in NEEDED.items():
        wanted = ".".join(map(str, least))
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            lines.append(f'no  {name} is missing. Install it with: pip install "{name}>={wanted}"')
            continue
        new_enough = tuple(int(part) for part in found.split(".")[:2]) >= least
        lines.append(
            f"ok  {name} {found}"
            if new_enough
            else f'no  {name} {found} is too old. Update it with: pip install --upgrade "{name}>={wanted}"'
        )
    here = (Path(__file__).resolve().parent.parent / "data" / "heart" / "heart.csv").is_file()
    lines.append(
        "ok  the hospitals' data" if here else "no  the data folder is missing. Install with: pip install -e ."
    )
    return lines


def two_devices():
    """The round of notebook 01: two devices step, the server averages."""
    import numpy as np

    from .aggregate import mean

    theta, gradient, alpha = np.array([[0.1, 0.1], [0.2, 0.2]]), np.array([[-0.05, -0.05], [-0.1, -0.1]]), 0.01
    new = theta - alpha * gradient
    return new, mean(new)


def four_hospitals():
    """The federation of notebook 03: AUC per hospital, alone, federated and pooled."""
    import numpy as np

    from . import data, models
    from .evaluate import auc, per_hospital, scoreboard
    from .federation import Plan, alone, fit

    train, test = data.prepare(data.load("heart"), rng=np.random.default_rng(0))
    model, plan = models.logistic(d=13), Plan(lr=0.3, steps=5)
    thetas = {
        "alone": alone(model, train, plan, rounds=50),
        "federated": fit(model, train, plan, rounds=50)[0].theta,
        "pooled": fit(model, train.pooled(), plan, rounds=50)[0].theta,
    }
    return scoreboard({name: per_hospital(auc, model, theta, test) for name, theta in thetas.items()}, test.names)


def main():
    """Print the check, then the two federations; 0 if all is well."""
    lines = environment()
    print("\n".join(lines))
    if any(line.startswith("no") for line in lines):
        return 1
    (a, b), average = two_devices()
    print(f"\nTwo devices (notebook 01): A {a.round(4)}, B {b.round(4)}, average {average.round(5)}")
    print(f"\nFour hospitals (notebook 03), AUC on held-out patients, 50 rounds:\n{four_hospitals()}")
    print("\nNext: jupyter lab notebooks/00_start_here.ipynb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
