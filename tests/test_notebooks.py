"""The page recipe, held for every notebook. (That their outputs are right is what nbval tests.)"""

import re
from pathlib import Path

import nbformat
import pytest

from fedlearn_mini.classroom import exercises

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PATHS = {path.stem: path for path in sorted(FOLDER.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts}
NOTEBOOKS = {name: nbformat.read(path, as_version=4) for name, path in PATHS.items()}
CORE = [name for name, path in PATHS.items() if path.parent == FOLDER]
every_page = pytest.mark.parametrize("name", NOTEBOOKS)  # the companions in notebooks/more/ too
every_core_page = pytest.mark.parametrize("name", CORE)


def code(name):
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]


def prose(name):
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "markdown"]


@every_core_page
def test_it_opens_and_closes_as_every_page_does(name):
    cells = NOTEBOOKS[name].cells
    for words in ("**You will do**", "**You will learn**", "**You need**", "minutes"):
        assert words in cells[0].source
    text = "\n".join(cell.source for cell in prose(name))
    for heading in ("## What a hospital should remember", "## Further reading", "## Quiz", "**Spot the bug", "Predict"):
        assert heading in text or heading.replace("**Spot", "Spot") in text, heading


@every_page
def test_it_was_run_in_order_from_a_clean_kernel_without_errors(name):
    assert [cell.execution_count for cell in code(name)] == list(range(1, len(code(name)) + 1))
    for cell in code(name):
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", cell.id


@every_page
def test_nothing_is_stored_that_should_not_be(name):
    notebook = NOTEBOOKS[name]
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    for cell in notebook.cells:
        assert not cell.metadata, cell.id
        for output in cell.get("outputs", []):
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            shown = str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
            assert not re.search(r"0x[0-9a-f]{6,}|/home/|/tmp/|Users", shown), cell.id


@every_page
def test_every_picture_has_a_text_that_reaches_people(name):
    """As <img alt>: JupyterLab and nbconvert drop the text of an image/png."""
    for cell in code(name):
        for output in cell.outputs:
            data = output.get("data", {})
            assert "image/png" not in data, cell.id
            for alt in re.findall(r'<img alt="([^"]*)"', data.get("text/html", "")):
                assert len(alt) > 40, cell.id
            if "LivePanel: " in data.get("text/plain", ""):
                assert "<figcaption>" in data["text/html"], cell.id


@every_page
def test_cells_are_short_and_have_names(name):
    for cell in NOTEBOOKS[name].cells:
        assert re.fullmatch(rf"{name[:2]}-[A-Za-z0-9-]+", cell.id), cell.id
    assert max(len(cell.source.splitlines()) for cell in code(name)) <= 20
    assert len(prose(name)) >= len(code(name)) * 0.9
    least = 1 if name in CORE else 0.75  # a companion shows more of how it is done
    assert sum(len(c.source) for c in prose(name)) >= least * sum(len(c.source) for c in code(name))


@every_core_page
def test_its_exercises_are_asked_and_left_blank(name):
    asked = set(re.findall(r'"(\d\d\.q?\d)"', "\n".join(cell.source for cell in code(name))))
    assert asked == {number for number in exercises.everything() if number.startswith(name[:2])}
    answers = "".join(
        o.get("text", "") + str(o.get("data", {}).get("text/plain", "")) for c in code(name) for o in c.outputs
    )
    assert answers.count("not yet") == len(asked)


@every_page
def test_links_lead_somewhere(name):
    for cell in prose(name):
        for target in re.findall(r"\]\(([^)#:]+)\)", cell.source):
            assert (PATHS[name].parent / target).exists(), target


def minutes(cells):
    """Minutes to read, run and play alone: words / 180, 10 s for a line of code, 2 for a playground."""
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    lines = sum(bool(line.strip()) for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines())
    return words / 180 + lines / 6 + 2 * sum("LivePanel(" in cell.source for cell in cells)


def promised(name):
    """Minutes in class, alone and for the exercises, as the title cell says them."""
    found = re.search(r"(\d+) minutes in class, (\d+) alone, (\d+) for the exercises", NOTEBOOKS[name].cells[0].source)
    assert found, "the title says: N minutes in class, N alone, N for the exercises"
    return tuple(map(int, found.groups()))


def lesson(name):
    """The cells without exercises, quiz and references."""
    cells = NOTEBOOKS[name].cells
    last = next(i for i, cell in enumerate(cells) if cell.source.startswith(("## Exercises", "## Quiz")))
    return cells[:last] + [cell for cell in cells[last:] if cell.source.startswith("## What a hospital")]


@every_core_page
def test_it_is_one_sitting_and_promises_the_minutes_it_takes(name):
    in_class, alone, _ = promised(name)
    assert len(NOTEBOOKS[name].cells) <= 66
    assert in_class <= 50 and abs(alone - minutes(lesson(name))) <= 5 and alone <= 50


@every_core_page
def test_the_readme_and_the_map_say_the_same_minutes(name):
    said = " / ".join(map(str, promised(name)))
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"\(notebooks/{name}\.ipynb\).* \| {said} \|", readme)
    if not name.startswith("00"):
        the_map = next(cell.source for cell in prose("00_start_here") if cell.id == "00-map")
        assert re.search(rf"\({name}\.ipynb\).* \| {said} \|", the_map)


def test_a_companion_goes_with_its_page():
    for name in NOTEBOOKS.keys() - set(CORE):
        page = next(core for core in CORE if core[:2] == name[:2])
        for words in ("**You will do**", "**You will learn**", "**You need**", "minutes alone"):
            assert words in NOTEBOOKS[name].cells[0].source, name
        assert f"](../{page}.ipynb)" in NOTEBOOKS[name].cells[0].source, name
        assert f"](more/{name}.ipynb)" in "".join(cell.source for cell in prose(page)), name


def test_no_two_cells_of_the_course_have_one_name():
    ids = [cell.id for notebook in NOTEBOOKS.values() for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
