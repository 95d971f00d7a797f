"""The page recipe, held for every notebook. (That their outputs are right is what nbval tests.)"""

import re
from pathlib import Path

import nbformat
import pytest

from fedlearn_mini.classroom import exercises

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sorted(FOLDER.glob("*.ipynb"))}
pytestmark = pytest.mark.parametrize("name", NOTEBOOKS)


def code(name):
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]


def prose(name):
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "markdown"]


def test_it_opens_and_closes_as_every_page_does(name):
    cells = NOTEBOOKS[name].cells
    for words in ("**You will do**", "**You will learn**", "**You need**", "minutes"):
        assert words in cells[0].source
    text = "\n".join(cell.source for cell in prose(name))
    for heading in ("## What a hospital should remember", "## Further reading", "## Quiz", "**Spot the bug", "Predict"):
        assert heading in text or heading.replace("**Spot", "Spot") in text, heading


def test_it_was_run_in_order_from_a_clean_kernel_without_errors(name):
    assert [cell.execution_count for cell in code(name)] == list(range(1, len(code(name)) + 1))
    for cell in code(name):
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", cell.id


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


def test_every_picture_has_a_text(name):
    for cell in code(name):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert len(output.metadata["image/png"]["alt"]) > 40, cell.id


def test_cells_are_short_and_have_names(name):
    for cell in NOTEBOOKS[name].cells:
        assert re.fullmatch(rf"{name[:2]}-[A-Za-z0-9-]+", cell.id), cell.id
    assert max(len(cell.source.splitlines()) for cell in code(name)) <= 20
    assert len(prose(name)) >= len(code(name)) * 0.9
    assert sum(len(c.source) for c in prose(name)) >= sum(len(c.source) for c in code(name))


def test_its_exercises_are_asked_and_left_blank(name):
    asked = set(re.findall(r'"(\d\d\.q?\d)"', "\n".join(cell.source for cell in code(name))))
    assert asked == {number for number in exercises.everything() if number.startswith(name[:2])}
    answers = "".join(
        o.get("text", "") + str(o.get("data", {}).get("text/plain", "")) for c in code(name) for o in c.outputs
    )
    assert answers.count("not yet") == len(asked)


def test_links_lead_somewhere(name):
    for cell in prose(name):
        for target in re.findall(r"\]\(([^)#:]+)\)", cell.source):
            assert (FOLDER / target).exists(), target
