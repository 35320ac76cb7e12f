"""Who may import whom: the library none of the programs, the programs one another by ``reports.shared`` alone."""

import ast
from pathlib import Path

import pytest

from reports.shared import provenance

ROOT = Path(__file__).parents[2]
PROGRAMS = "reports", "verification", "bench"


def files(package):
    return sorted((ROOT / package).rglob("*.py"))


def module(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(nodes, anywhere):
    """Import statements: ``anywhere``, or those alone that run when the module is imported."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif anywhere:
            yield from statements(ast.iter_child_nodes(node), anywhere)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from statements(node.orelse, anywhere)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from statements(ast.iter_child_nodes(node), anywhere)


def imported(source, anywhere=True):
    """The dotted names that it imports: ``from a import b`` is ``a.b``, whether ``b`` is a module or not."""
    for statement in statements(ast.parse(source).body, anywhere):
        if isinstance(statement, ast.Import):
            yield from (name.name for name in statement.names)
        else:
            assert statement.level == 0, f"relative: {ast.unparse(statement)}"
            yield from (f"{statement.module}.{name.name}" for name in statement.names)


def within(name, package):
    return f"{name}.".startswith(f"{package}.")


def foreign(package, programs, but=()):
    """``(module, name)`` of what ``package`` imports of ``programs``, apart from what it may."""
    return [
        (module(file), name)
        for file in files(package)
        for name in imported(file.read_text())
        if any(within(name, program) for program in programs) and not any(within(name, one) for one in but)
    ]


def circle(imports):
    """A path of modules that ends where it begins; ``None`` where there is none."""
    done = set()

    def search(name, path):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        found = next(filter(None, (search(other, [*path, name]) for other in sorted(imports[name]))), None)
        done.add(name)
        return found

    return next(filter(None, (search(name, []) for name in imports)), None)


def test_the_library_imports_none_of_the_programs():
    assert foreign("gan_influence", PROGRAMS) == []


@pytest.mark.parametrize("program", ["verification", "bench"])
def test_a_program_imports_of_the_reports_only_what_is_shared(program):
    assert foreign(program, ["reports"], but=["reports.shared"]) == []


def test_what_is_shared_imports_no_program():
    assert foreign("reports/shared", PROGRAMS, but=["reports.shared"]) == []


def test_parts_import_no_experiment():
    assert foreign("reports/parts", ["reports.experiments"]) == []


def test_no_module_of_the_library_imports_itself_in_a_circle():
    names = {module(file) for file in files("gan_influence")}
    imports = {
        module(file): {
            next(one for one in (name, name.rpartition(".")[0], "") if one in names or not one)
            for name in imported(file.read_text(), anywhere=False)
            if within(name, "gan_influence")
        }
        for file in files("gan_influence")
    }
    assert sum(map(len, imports.values())) > 50
    assert circle(imports) is None


def test_imports_and_circles_are_found():
    source = (
        "import a.b\nif TYPE_CHECKING:\n    import c\ntry:\n    from d import e\nfinally: pass\ndef f():\n    import g"
    )
    assert list(imported(source)) == ["a.b", "c", "d.e", "g"]
    assert list(imported(source, anywhere=False)) == ["a.b", "d.e"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"d", "b"}, "d": set()}) == ["b", "c", "b"]


def test_the_digest_of_the_code_covers_experiments_and_their_parts(monkeypatch):
    digested = set()
    monkeypatch.setattr(provenance, "_without_docstrings", lambda source: digested.add(source) or source)
    provenance.code.__wrapped__()
    for package in ("gan_influence", "reports/experiments", "reports/parts"):
        assert files(package)
        assert [module(file) for file in files(package) if file.read_text() not in digested] == []
