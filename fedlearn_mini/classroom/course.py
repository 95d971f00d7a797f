"""The course as files: copies of the notebooks to work in."""

from pathlib import Path

from ..folders import NOTEBOOKS


def copy(target="."):
    """Copy the notebooks into a folder, which is made if need be: how many were copied, how many were kept.

    A notebook that is there already may hold answers: it is kept as it is.
    """
    pages = sorted(page for page in NOTEBOOKS.rglob("*.ipynb") if ".ipynb_checkpoints" not in page.parts)
    new = [write_new(Path(target).expanduser() / page.relative_to(NOTEBOOKS), page.read_bytes()) for page in pages]
    return sum(new), len(new) - sum(new)


def write_new(path, content):
    """Write a file unless there is one: True if it was written. A file that could not be finished is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "xb") as file:  # x: fails where a file exists, also one made a moment ago
            file.write(content)
    except FileExistsError:
        return False
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True
