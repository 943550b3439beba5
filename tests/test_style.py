"""Alarms on the structure of the package: small files, small functions, one place for each thing, nothing dangerous."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import polopt_jax as po

PACKAGE = Path(po.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]
OBJECTIVES = sorted((PACKAGE / "objectives").glob("*.py"))

MAX_FILE, MAX_BODY = 320, 60
PICKLES = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__"}
# Public functions that have no example yet. A name that gets one must leave the list.
WITHOUT_EXAMPLE: set[str] = set()

each_file = pytest.mark.parametrize("path", FILES, ids=NAMES)


def tree(path):
    return ast.parse(path.read_text())


def functions(path):
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def imports(path):
    """The modules that a file imports, wherever in the file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "."
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(path):
    """The last name of everything that a file calls, with whether it is a plain name."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "attr", getattr(node.func, "id", "")), isinstance(node.func, ast.Name), node


def code(path):
    """The file without its docstrings and comments."""
    return ast.unparse(_WithoutDocstrings().visit(tree(path)))


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node):
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


def body_lines(function):
    """Lines of a function after its signature and docstring."""
    statements = function.body
    if ast.get_docstring(function) is not None:
        statements = statements[1:]
    return statements[-1].end_lineno - statements[0].lineno + 1 if statements else 0


def test_the_alarms_see_something():
    assert len(FILES) > 25
    assert len(OBJECTIVES) >= 8
    assert sum(len(functions(path)) for path in FILES) > 150
    assert max(body_lines(f) for path in FILES for f in functions(path)) > 20
    assert "apply_updates" in {name for name, _, _ in calls(PACKAGE / "steps.py")}
    assert "jnp.where" in code(PACKAGE / "masking.py")


@each_file
def test_files_and_functions_are_small(path):
    assert len(path.read_text().splitlines()) <= MAX_FILE
    long = {f.name: body_lines(f) for f in functions(path) if body_lines(f) > MAX_BODY}
    assert not long


@each_file
def test_modules_are_named_after_what_they_own(path):
    parts = {part.removesuffix(".py").strip("_") for part in path.relative_to(PACKAGE).parts}
    assert not parts & {"utils", "util", "common", "helpers", "helper", "misc", "tools", "core"}


@each_file
def test_nothing_dangerous(path):
    roots = {name.partition(".")[0] for name in imports(path)}
    assert not roots & PICKLES
    for name, plain, node in calls(path):
        assert not (plain and name in CALLS), f"{name}() in line {node.lineno}"
        assert name != "system", f"line {node.lineno}"
        keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        assert keywords.get("shell") is not True
        if name == "load" and ast.unparse(node.func) in ("np.load", "numpy.load"):
            assert keywords.get("allow_pickle") is False, f"np.load in line {node.lineno} without allow_pickle=False"
        assert keywords.get("allow_pickle") is not True


@each_file
def test_no_assert_checks_an_argument(path):
    assert not [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)]


@each_file
def test_gradient_steps_are_taken_in_one_place(path):
    """`apply_updates` belongs to steps, and to the candidates of the line search."""
    allowed = {"steps.py", "solvers/_trust_region.py"}
    if "apply_updates" in {name for name, _, _ in calls(path)}:
        assert path.relative_to(PACKAGE).as_posix() in allowed


@pytest.mark.parametrize("path", OBJECTIVES, ids=[path.name for path in OBJECTIVES])
def test_objectives_reduce_through_masking_and_know_nothing_else(path):
    text = code(path)
    assert not re.search(r"\*\s*(batch\.)?mask\b|\bmask\s*\*[^*]|\bmask\.astype\(.*\)\s*\*", text)
    assert not re.search(r"jnp\.(nan)?(mean|sum|std|var)\b|\.mean\(|\.std\(", text)
    forbidden = (
        "polopt_jax.envs",
        "polopt_jax.networks",
        "polopt_jax.steps",
        "polopt_jax.training",
        "polopt_jax.rollout",
        "flax",
        "brax",
    )
    for name in imports(path):
        assert not name.startswith(forbidden), name
    assert "random" not in text, "an objective takes no key"


@each_file
def test_the_library_neither_jits_nor_prints(path):
    relative = path.relative_to(PACKAGE).as_posix()
    for name, plain, node in calls(path):
        if not relative.startswith(("cli", "driver", "outcomes/_report")):
            assert not (plain and name == "print"), f"line {node.lineno}"
        if relative.startswith(("objectives/", "solvers/")) or relative in (
            "masking.py",
            "advantages.py",
            "training.py",
        ):
            assert name not in ("jit", "pmap"), f"line {node.lineno}"


def public_functions():
    return {name: getattr(po, name) for name in po.__all__ if inspect.isfunction(getattr(po, name))}


@pytest.mark.parametrize("name", sorted(public_functions()))
def test_public_functions_are_documented_with_an_example(name):
    function = public_functions()[name]
    assert function.__doc__
    assert function.__doc__.splitlines()[0].strip()
    has_example = ">>>" in function.__doc__
    if name in WITHOUT_EXAMPLE:
        assert not has_example, f"{name} has an example now: take it off WITHOUT_EXAMPLE"
    else:
        assert has_example, f"{name} has no example"


@pytest.mark.parametrize("name", sorted(public_functions()))
def test_public_signatures(name):
    """No boolean and no string modes; a number is a keyword; nothing takes `*args`."""
    for parameter in inspect.signature(public_functions()[name]).parameters.values():
        assert not isinstance(parameter.default, bool), f"{parameter.name} is a boolean mode"
        assert not isinstance(parameter.default, str), f"{parameter.name} is a string mode"
        if isinstance(parameter.default, int | float):
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, parameter.name


def test_public_classes_are_documented():
    from polopt_jax import types

    for name in po.__all__:
        if inspect.isclass(getattr(po, name)):
            assert getattr(po, name).__doc__
    # Every field of a record says its shape or kind in a string below it.
    source = inspect.getsource(types)
    for record in ("Outputs", "Counts", "Batch", "Rollout"):
        body = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == record).body
        for field, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(following, ast.Expr), f"{record}.{field.target.id} is not documented"


def test_all_is_sorted_and_complete():
    assert po.__all__ == sorted(po.__all__)
    public = {name for name in vars(po) if not name.startswith("_") and not inspect.ismodule(getattr(po, name))}
    assert public == set(po.__all__)
