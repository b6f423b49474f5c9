"""Rooms import only lower rooms, and files and functions are short."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A room may import itself and rooms of earlier lines.
LINES = [
    ["diffguard.errors"],
    [
        "diffguard.images",
        "diffguard.batching",
        "diffguard.failures",
        "diffguard.printing",
        "diffguard.randomness",
        "diffguard.storage",
    ],
    [
        "diffguard.inputs",
        "diffguard.processes",
        "diffguard.pretrained",
        "diffguard.diffusion",
        "diffguard.classifiers",
        "diffguard.scores",
        "diffguard.score_table",
    ],
    ["diffguard.engine", "diffguard.denoisers", "diffguard.report"],
    ["diffguard.settings"],
    ["diffguard.methods", "diffguard.checkpoint", "diffguard.training", "diffguard.augment"],
    ["diffguard.hub"],
    ["diffguard.detector"],
    ["diffguard.cost", "diffguard.adapters", "diffguard"],
    ["lightning_modules", "datamodules"],
    ["diffguard_cli"],
    ["train", "evaluate", "benchmarks"],
]
# Heavy libraries, and the only rooms that may import them. Benchmarks also draw figures and
# build networks.
ONLY = {
    "lightning": {"lightning_modules", "datamodules", "diffguard_cli"},
    "diffusers": {
        "diffguard.denoisers",
        "diffguard.training",
        "diffguard.augment",
        "lightning_modules",
        "benchmarks",
    },
    "pytorch_ood": {"diffguard.scores", "diffguard.adapters"},
    "matplotlib": {"diffguard.report", "datamodules", "benchmarks"},
    "jsonargparse": {"diffguard_cli"},
    "plotly": {"diffguard.report.html"},
    "jinja2": {"diffguard.report.html"},
}
LINE_OF = {room: number for number, rooms in enumerate(LINES) for room in rooms}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def source_files():
    tops = {room.split(".")[0] for room in LINE_OF}
    files = [ROOT / f"{top}.py" for top in sorted(tops)]
    for top in sorted(tops):
        files += sorted((ROOT / top).rglob("*.py"))
    return {module_name(path): path for path in files if path.is_file()}


FILES = source_files()


@cache
def nodes(path):
    """The imports and functions of a file, nested and TYPE_CHECKING ones included."""
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def imported_names(path):
    """Dotted names of all imports of a file."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import in line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(name):
    """The module of the project that contains an imported name, or None."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name or None


def room_of(module):
    while module not in LINE_OF:
        module = module.rpartition(".")[0]
    return module


@cache
def imports():
    """Module -> the modules of the project that it imports."""
    return {
        module: {
            target
            for name in imported_names(path)
            if (target := module_of(name)) not in (None, module)
        }
        for module, path in FILES.items()
    }


def test_every_file_is_in_a_room():
    stray = [m for m in FILES if m.startswith("diffguard.") and room_of(m) == "diffguard"]
    assert not stray


def test_every_room_has_a_file():
    assert {room_of(module) for module in FILES} == set(LINE_OF)


@pytest.mark.parametrize("room", LINE_OF)
def test_room_imports_only_lower_rooms(room):
    wrong = [
        f"{module} imports {target}"
        for module in FILES
        if room_of(module) == room
        for target in sorted(imports()[module])
        if room_of(target) != room and LINE_OF[room_of(target)] >= LINE_OF[room]
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_form_no_circle():
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


# Most files of a chain of imports: of the commands, and of the library alone.
LONGEST_CHAIN, LONGEST_CHAIN_OF_LIBRARY = 17, 12


def test_chains_of_imports_are_short():
    chains = {}
    for module in TopologicalSorter(imports()).static_order():
        longest = max((chains[target] for target in imports()[module]), key=len, default=[])
        chains[module] = [module, *longest]
    for chain in chains.values():
        is_library = room_of(chain[0]).startswith("diffguard.") or chain[0] == "diffguard"
        most = LONGEST_CHAIN_OF_LIBRARY if is_library else LONGEST_CHAIN
        assert len(chain) <= most, " > ".join(chain)


@pytest.mark.parametrize("library", ONLY)
def test_heavy_library_stays_in_its_rooms(library):
    wrong = [
        module
        for module, path in FILES.items()
        if any(name.split(".")[0] == library for name in imported_names(path))
        and not any(f"{module}.".startswith(f"{room}.") for room in ONLY[library])
    ]
    assert not wrong


SOURCES = [*FILES.values(), *sorted((ROOT / "tests").rglob("*.py"))]
# Limits of files, and of functions without their docstrings.
CODE_LINES, TEST_LINES, SCRIPT_LINES, FUNCTION_LINES = 260, 320, 100, 60
SCRIPTS = {ROOT / "train.py", ROOT / "evaluate.py"}


def line_limit(path):
    if path in SCRIPTS:
        return SCRIPT_LINES
    return TEST_LINES if path.is_relative_to(ROOT / "tests") else CODE_LINES


def test_tests_import_helpers_and_no_other_tests():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for name in imported_names(path)
        if name.startswith("tests.") and ".test_" in name
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_of_all_names():
    wrong = [path for path in SOURCES for name in imported_names(path) if name.endswith(".*")]
    assert not wrong


def test_files_are_short():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    wrong = [
        f"{path.relative_to(ROOT)} has {lines} lines, expected at most {line_limit(path)}"
        for path, lines in lengths.items()
        if lines > line_limit(path)
    ]
    assert not wrong, "\n".join(wrong)


def length(function):
    """Lines of a function without its docstring."""
    docstring = function.body[0] if ast.get_docstring(function, clean=False) else None
    lines = function.end_lineno - function.lineno + 1
    return lines - (docstring.end_lineno - docstring.lineno + 1 if docstring else 0)


def test_functions_are_short():
    wrong = [
        f"{path.relative_to(ROOT)}: {node.name} has {length(node)} lines"
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef) and length(node) > FUNCTION_LINES
    ]
    assert not wrong, "\n".join(wrong)
