"""The files around the package say the same thing as each other."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest

import fedlearn_mini
from fedlearn_mini import __main__, data

ROOT = data.FOLDER.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = {path.stem: path for path in (ROOT / "fedlearn_mini").glob("*.py")}


def requirements(lines):
    return {re.match(r"[\w-]+", line).group(): line for line in lines}


def test_environment_yml_names_every_dependency_with_the_same_bounds():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    listed = [line.strip()[2:].strip().strip('"') for line in text.splitlines() if line.strip().startswith("- ")]
    for name, line in requirements(PROJECT["project"]["dependencies"]).items():
        assert line in listed, name
    assert f"python{PROJECT['project']['requires-python']}" in listed
    assert "-e ." in listed and "conda-forge" in listed
    extra = set(requirements(line for line in listed if line != "-e .")) - set(
        requirements(PROJECT["project"]["dependencies"])
    )
    assert extra == {"python", "pip", "conda-forge"}


def test_the_environment_check_knows_the_same_bounds():
    needed = {name: ".".join(map(str, least)) for name, least in __main__.NEEDED.items()}
    bounds = {name: line.split(">=")[1] for name, line in requirements(PROJECT["project"]["dependencies"]).items()}
    assert needed == bounds


def allowed(module):
    """Imports run one way: which modules of the package a module may import."""
    return {
        "checks": set(),
        "models": set(),
        "local": {"models", "privacy"},
        "aggregate": set(),
        "server": {"checks"},
        "evaluate": {"checks"},
        "tables": {"checks"},
        "data": {"checks", "tables"},
        "accountant": {"checks"},
        "privacy": {"accountant", "checks"},
        "attacks": {"accountant", "checks", "models"},
        "ledger": {"accountant", "checks", "privacy"},
        "plan": {"aggregate", "checks", "ledger", "privacy", "server"},
        "store": {"plan"},
        "federation": {"checks", "ledger", "local", "plan", "store"},
        "plots": set(),
        "widgets": set(),
        "exercises": {"aggregate", "attacks", "checks", "evaluate", "local", "models", "privacy"},
        "__init__": set(),
        "__main__": set(MODULES),
    }[module]


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = {node.module} if node.module else {alias.name for alias in node.names}
            assert names <= allowed(module), f"{module} imports {names - allowed(module)}"
        if isinstance(node, ast.Import | ast.ImportFrom) and module != "widgets":
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not any(name.split(".")[0] in ("ipywidgets", "PIL") for name in names), module


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys, fedlearn_mini; from fedlearn_mini import data, evaluate, exercises, federation, models, privacy;"
        "print([m for m in ('pandas', 'matplotlib', 'ipywidgets', 'IPython') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", [m for m in MODULES if m != "__init__"])
def test_every_public_function_says_what_it_does(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and len(node.body) > 4:
            assert ast.get_docstring(node), f"{module}.{node.name}"


def test_the_readme_names_every_notebook_and_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{path.name}" in text
    assert text.count("<!-- command:") == 2
    for picture in re.findall(r"!\[[^\]]{20,}\]\(([^)]+)\)", text):
        assert (ROOT / picture).exists()


def test_the_readme_quotes_the_measured_latencies():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = (ROOT / "tests" / "benchmarks" / "latency.csv").read_text(encoding="utf-8").split()[1:]
    assert len(rows) == len(list((ROOT / "notebooks").glob("*.ipynb")))
    for notebook, moves, median, p95 in (row.split(",") for row in rows):
        assert f"| {notebook[:2]} | {moves} | {median} ms | {p95} ms |" in text


def test_the_command_line_runs_the_two_federations():
    done = subprocess.run([sys.executable, "-m", "fedlearn_mini"], capture_output=True, text=True, check=True)
    assert "ok  numpy" in done.stdout and "average [0.15075 0.15075]" in done.stdout
    for hospital in ("Cleveland", "Hungary", "Switzerland", "VA Long Beach"):
        assert re.search(rf"{hospital}( +0\.\d\d\d){{3}}", done.stdout)
    assert not done.stderr


def test_without_numpy_it_says_so_instead_of_failing(tmp_path):
    (tmp_path / "fedlearn_mini").mkdir()
    for name in ("__init__.py", "__main__.py"):
        (tmp_path / "fedlearn_mini" / name).write_bytes(MODULES[name[:-3]].read_bytes())
    done = subprocess.run([sys.executable, "-S", "-m", "fedlearn_mini"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and not done.stderr
    assert "no  numpy is missing. Install it with: pip install" in done.stdout
    assert "no  the data folder is missing" in done.stdout


def test_a_missing_package_is_said_with_its_mend(monkeypatch, capsys):
    monkeypatch.setitem(__main__.NEEDED, "numpy", (99, 0))
    monkeypatch.setitem(__main__.NEEDED, "no-such-package", (1, 0))
    assert __main__.main() == 1
    said = capsys.readouterr().out
    assert re.search(r'no  numpy \S+ is too old. Update it with: pip install --upgrade "numpy>=99.0"', said)
    assert 'no  no-such-package is missing. Install it with: pip install "no-such-package>=1.0"' in said


def test_the_version_is_one():
    assert re.fullmatch(r"\d+\.\d+\.\d+", fedlearn_mini.__version__)
