"""Where the data and the notebooks are: beside the package in a copy of the project, inside it after `pip install .`.

A wheel carries both folders in `fedlearn_mini/shipped/`. A copy of the project has no such folder, so that `pip
install -e .` and a plain copy use what lies beside the package, which is what you edit.
"""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def folder(name, package=PACKAGE):
    """The folder `name`: the shipped one in an installed wheel, otherwise the one beside the package.

    The shipped one comes first: beside an installed package lie the packages of others, and one may be called data.
    """
    shipped = package / "shipped" / name
    return shipped if shipped.is_dir() else package.parent / name


DATA = folder("data")
NOTEBOOKS = folder("notebooks")
