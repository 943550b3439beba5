"""docs/architecture.md against the code: its floors, its walls and its doors are those of the imports."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "polopt_jax"
PAGE = ROOT / "docs" / "architecture.md"
FLOOR = re.compile(r'^ *\w+\["<b>(.*)</b><br/>(.*)"\]$', re.MULTILINE)
HEAVY = {"flax", "brax", "gymnasium", "mujoco", "orbax", "matplotlib", "rich", "tyro"}
FRONT = "polopt_jax"


def floors(page):
    """`(name, rooms from left to right)` of each floor, from the ground up."""
    return [(name, rooms.split(" · ")) for name, rooms in reversed(FLOOR.findall(page))]


def rooms_of(package):
    """The modules and folders at the top of a package, and its front page. `__main__` is the command once more."""
    found = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    return found - {"__init__", "__main__"} | {FRONT}


def room_of(path, package):
    """The room in which a file stands."""
    first = path.relative_to(package).parts[0].removesuffix(".py")
    return FRONT if first == "__init__" else first


def imported_names(text):
    """Dotted names of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def doors(package=PACKAGE):
    """`{room: {room or package from outside that it imports: a file that does}}`."""
    rooms = rooms_of(package)
    found = {room: {} for room in rooms}
    for path in sorted(package.rglob("*.py")):
        room = room_of(path, package)
        if room == "__main__":
            continue
        for name in imported_names(path.read_text()):
            first, _, rest = name.partition(".")
            second = rest.split(".")[0]
            other = first if first != FRONT else second if second in rooms else FRONT
            if other != room:
                found[room][other] = path.relative_to(package).as_posix()
    return found


def upward(order, found):
    """The imports that go up or to the right, or to a room that is not drawn, in words."""
    place = {room: i for i, room in enumerate(order)}
    return [
        f"{file}: {room} imports {other}, which stands above it"
        for room, others in found.items()
        for other, file in others.items()
        if other in found and place[room] <= place[other]
    ]


def known(room, found):
    """Every room that a room imports, itself or through others."""
    seen, new = set(), {room}
    while new:
        seen |= new
        new = {other for one in new for other in found[one] if other in found} - seen
    return seen - {room}


def table(page, head):
    """The rows below the header row that begins with `head`: the names in code of each cell."""
    lines = page.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(head)) + 2
    rows = []
    while lines[start].startswith("|"):
        rows.append([re.findall(r"`([^`]+)`", cell) for cell in lines[start].strip("|").split("|")])
        start += 1
    return rows


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text()


@pytest.fixture(scope="module")
def found():
    return doors()


def test_the_imports_are_seen(found):
    """Edges that are known, also from inside a function, under another name and of the front page."""
    assert {"types", "masking", "reading", "surrogates"} <= found["objectives"].keys()
    assert found["loading"]["runs"] == "loading.py"
    assert found["suite"][FRONT].startswith("suite/")
    assert "rollout" in found[FRONT]
    assert "brax" in found["envs"]
    assert found["types"].keys() <= {"jax", "dataclasses", "typing", "typing_extensions", "collections", "fields"}


def test_every_room_is_drawn_once_and_stands_on_what_it_imports(page, found):
    order = [room for _, rooms in floors(page) for room in rooms]
    assert len(order) == len(set(order)), "a room is drawn twice"
    assert set(order) == set(found), "a room is missing from the page, or is not there any more"
    assert not upward(order, found)


def test_the_floors_stand_on_each_other(page):
    names = re.findall(r'^ *(\w+)\["<b>', page, re.MULTILINE)
    assert len(names) == 10
    assert f"  {' --> '.join(names)}\n" in page


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("from polopt_jax.b import x", "a.py: a imports b, which stands above it"),
        ("def f():\n    import polopt_jax.b as other", "a.py: a imports b, which stands above it"),
        ("def f():\n    from polopt_jax import b", "a.py: a imports b, which stands above it"),
        ("import polopt_jax as po", "a.py: a imports polopt_jax, which stands above it"),
        ("from polopt_jax import __version__", "a.py: a imports polopt_jax, which stands above it"),
        ("from polopt_jax.a import y\nimport jax", None),
    ],
)
def test_an_import_that_goes_up_is_told(text, said, tmp_path):
    package = tmp_path / FRONT
    (package / "b").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "a.py").write_text(text)
    (package / "b" / "__init__.py").write_text("from polopt_jax import a")
    assert upward(["a", "b", FRONT], doors(package)) == ([said] if said else [])


def test_what_is_known_through_others_is_known():
    chain = {"a": {"b": "", "jax": ""}, "b": {"c": ""}, "c": {}, "d": {"a": ""}}
    assert {room: known(room, chain) for room in chain} == {
        "a": {"b", "c"},
        "b": {"c"},
        "c": set(),
        "d": {"a", "b", "c"},
    }


def test_the_walls_stand(page, found):
    walls = table(page, "| room | knows nothing of |")
    assert len(walls) >= 7
    for rooms, others, *_ in walls:
        assert rooms
        assert set(rooms) | set(others) <= set(found)
        for room in rooms:
            assert not known(room, found) & set(others), f"{room} knows {known(room, found) & set(others)}"


def test_tasks_and_models_know_no_particular_world():
    for room in ("tasks", "language"):
        names = {name for path in (PACKAGE / room).glob("*.py") for name in imported_names(path.read_text())}
        assert {name for name in names if name.startswith("polopt_jax.worlds")} == {"polopt_jax.worlds.World"}


def test_heavy_packages_have_the_doors_that_are_drawn(page, found):
    drawn = {package[0]: set(rooms) for package, rooms in table(page, "| package | imported by |")}
    real = {package: {room for room, others in found.items() if package in others} for package in HEAVY}
    assert drawn == {package: rooms for package, rooms in real.items() if rooms}


def test_every_name_on_the_page_is_one_of_the_library(page, found):
    """`po.unroll`, `language.sample_tokens`: names with a room before them, in the text and in the drawings."""
    rooms = "|".join(set(found) - {FRONT})
    names = set(re.findall(rf"\b(po|{rooms})\.(?!py\b)(\w+)", page))
    assert len(names) > 30
    for room, name in names:
        module = importlib.import_module(FRONT if room == "po" else f"{FRONT}.{room}")
        assert hasattr(module, name), f"{room}.{name}"


def test_every_place_on_the_page_is_there(page):
    places = set(re.findall(r"`([\w/]+(?:/|\.py))`", page))
    assert len(places) > 12
    for place in places:
        assert (ROOT / place).exists() or (PACKAGE / place).exists(), place
