"""`python -m fedlearn_mini`: is everything here, and does the main thing work? In words, in a few seconds.

`python -m fedlearn_mini copy [folder]` copies the notebooks into a folder, this one by default, and overwrites nothing.
`python -m fedlearn_mini train A.csv B.csv …` trains on your own hospitals, a file each: train --help says how.
"""

import argparse
import importlib.metadata
import os
import sys

from .folders import DATA, NOTEBOOKS

NEEDED = {
    "numpy": (2, 2),
    "pandas": (2, 2),
    "matplotlib": (3, 8),
    "pillow": (10, 0),
    "ipywidgets": (8, 1),
    "anywidget": (0, 9),
    "tqdm": (4, 66),
    "cryptography": (43,),
    "safetensors": (0, 5),
}
OPTIONAL = {"jupyterlab": (4, 2)}  # not where the notebooks open in something else: Colab, a hub, an editor


def environment():
    """A line per package that the kit needs: 'ok  numpy 2.4.6', or what is wrong and how to mend it."""
    lines = [f"ok  Python {sys.version.split()[0]}"]
    lines += [package(name, least) for name, least in NEEDED.items()]
    lines += [optional(name, least) for name, least in OPTIONAL.items()]
    here = (DATA / "heart" / "heart.csv").is_file()
    lines.append("ok  the hospitals' data" if here else "no  the data folder is missing. Install the kit again.")
    return lines


def package(name, least):
    """The line of one package: found, too old or missing."""
    wanted = ".".join(map(str, least))
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f'no  {name} is missing. Install it with: pip install "{name}>={wanted}"'
    if tuple(int(part) for part in found.split(".")[:2]) < least:
        return f'no  {name} {found} is too old. Update it with: pip install --upgrade "{name}>={wanted}"'
    return f"ok  {name} {found}"


def optional(name, least):
    """The line of a package that the kit can do without: a missing or an old one is no error."""
    line = package(name, least)
    return line if line.startswith("ok") else f"ok  optional, to open the notebooks with it: {line[4:]}"


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
    from .federation import alone, fit
    from .plan import Plan

    train, test = data.prepare(data.load("heart"), rng=np.random.default_rng(0))
    model, plan = models.logistic(d=13), Plan(lr=0.3, steps=5)
    thetas = {
        "alone": alone(model, train, plan, rounds=50),
        "federated": fit(model, train, plan, rounds=50)[0].theta,
        "pooled": fit(model, train.pooled(), plan, rounds=50)[0].theta,
    }
    return scoreboard({name: per_hospital(auc, model, theta, test) for name, theta in thetas.items()}, test.names)


def check():
    """Print the check, then the two federations; 0 if all is well."""
    lines = environment()
    print("\n".join(lines))
    if any(line.startswith("no") for line in lines):
        return 1
    (a, b), average = two_devices()
    print(f"\nTwo devices (notebook 01): A {a.round(4)}, B {b.round(4)}, average {average.round(5)}")
    print(f"\nFour hospitals (notebook 03), AUC on held-out patients, 50 rounds:\n{four_hospitals()}")
    print(f"\nNext: {way_in()}")
    return 0


def way_in():
    """How to open the first notebook; who installed a wheel works in copies, which an update does not touch."""
    if NOTEBOOKS.parent.name == "shipped":
        return "python -m fedlearn_mini copy (puts the notebooks into this folder), jupyter lab 00_start_here.ipynb"
    return f"jupyter lab notebooks/00_start_here.ipynb (in {NOTEBOOKS.parent})"


def copy(target="."):
    """Copy the notebooks and say how to open them; 0 if all is well."""
    from .classroom import course

    try:
        copied, kept = course.copy(target)
    except OSError as error:
        print(f"no  the notebooks could not be copied to {target}: {error.strerror}. Name another folder.")
        return 1
    print(f"ok  {copied} notebooks copied, {kept} that were there already kept")
    first = os.path.join(target, "00_start_here.ipynb")
    print(f'Next: jupyter lab "{first}"')
    return 0


def train(arguments):
    """Train on files of the reader's own, and say in words what was done and what it is worth: the exit code."""
    from tqdm import tqdm

    from . import own

    asked = train_options().parse_args(arguments)
    try:
        gathered = own.gather(asked.files, asked.target)
        print("\n".join(gathered.notes), end="\n\n")
        compared = own.compare(gathered, asked.model, asked.rounds, asked.splits, lambda s: tqdm(list(s), "splits"))
        print(f"AUC on held-out patients, median (range) of {asked.splits} splits, at most {asked.rounds} rounds:")
        print(own.report(compared), end="\n\n")
        state, going = own.train(
            gathered, asked.model, asked.rounds, asked.save, lambda r: tqdm(r, "rounds", asked.rounds)
        )
    except (ValueError, OSError) as error:
        print(f"no  {error}")
        return 1
    print(f"{'Went on to' if going else 'Trained'} round {state.round} on all patients.", end=" ")
    print(
        f"Saved in {asked.save}: the same command goes on from there." if asked.save else "Not saved: --save run.npz."
    )
    print(own.TOLD.format(up=compared.up, down=compared.down, rounds=asked.rounds))
    return 0


def train_options():
    """The options of `train`."""
    options = argparse.ArgumentParser("python -m fedlearn_mini train", description="One CSV file for each hospital.")
    options.add_argument(
        "files", nargs="+", help="a CSV file for each hospital; rules.toml beside them says what differs"
    )
    options.add_argument("--target", default="target", help="the column to predict, 0 or 1 (target)")
    options.add_argument(
        "--model", default="network", choices=["network", "logistic"], help="64-64-1, or one layer (network)"
    )
    options.add_argument("--rounds", type=int, default=10, help="rounds of training (10)")
    options.add_argument("--splits", type=int, default=5, help="into training, validation and test patients (5)")
    options.add_argument("--save", help="a file .npz for the state; if it is there, the run goes on from it")
    return options


def main(arguments=()):
    """Check, copy or train; the exit code."""
    if not arguments:
        return check()
    if arguments[0] == "train":
        return train(arguments[1:])
    if arguments[0] == "copy" and len(arguments) <= 2:
        return copy(*arguments[1:])
    print(__doc__)
    return 2


def quietly(task):
    """The exit code of a task that prints; a reader who has gone, such as `| head -1`, ends it without a word."""
    try:
        code = task()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        return 0


if __name__ == "__main__":
    sys.exit(quietly(lambda: main(sys.argv[1:])))
