"""The .pyi stub says what the module holds: every public name, class member and argument name, and nothing else."""

import ast
import re
from pathlib import Path

import pytest

import bytegolf
from bytegolf import _bytegolf

STUB = Path(bytegolf.__file__).with_name("_bytegolf.pyi")
ADVICE = "after a change of the bindings run: .venv/bin/python scripts/make_stub.py"


def stub_tree():
    return ast.parse(STUB.read_text(encoding="utf-8"))


def declared(body):
    """name -> list of argument-name lists (functions; several for overloads), None (attributes) or body (classes)."""
    found = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            arguments = [a.arg for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
            rest = [a.arg for a in (node.args.vararg, node.args.kwarg) if a]
            is_property = any(
                ast.unparse(d) == "property" or ast.unparse(d).endswith(".setter") for d in node.decorator_list
            )
            if is_property:
                found[node.name] = None
            else:
                found.setdefault(node.name, []).append([*arguments, *rest])
        elif isinstance(node, ast.ClassDef):
            found[node.name] = node.body
        elif isinstance(node, ast.AnnAssign):
            found[node.target.id] = None
        elif isinstance(node, ast.Assign):
            found.update((target.id, None) for target in node.targets)
    return found


def public(names):
    kept = {"__init__", "__len__", "__eq__", "__version__"}
    return {n for n in names if not n.startswith("_") or n in kept}


def signatures(thing):
    """Argument names of a bound function's overloads, from the signatures that pybind11 puts into its docstring."""
    name = thing.__name__
    found = []
    for line in (thing.__doc__ or "").splitlines():
        match = re.match(rf"(?:\d+\. )?{re.escape(name)}\((.*)\) -> .+$", line)
        if match and "*args, **kwargs" not in match[1]:
            found.append([word for word in arguments(match[1]) if word not in ("*", "/")])
    return found


def arguments(text):
    """Names in `a: list[int, ...] = [1, 2], b: str`: commas inside brackets, quotes and defaults do not count."""
    names, depth, start, quote = [], 0, 0, ""
    for i, c in enumerate(text + ","):
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c in "[({<":
            depth += 1
        elif c in "])}>" and not (c == ">" and text[i - 1] == "-"):
            depth -= 1
        elif c == "," and depth == 0:
            if part := text[start:i].strip():
                names.append(re.split(r"[:=]", part, maxsplit=1)[0].strip())
            start = i + 1
    return names


def members(kind):
    """Own public names of a bound class; a constructor only where it can be called."""
    names = public(vars(kind))
    # A class that Python cannot make has an __init__ that only throws, without a signature.
    if "__init__" in names and not signatures(kind.__init__):
        names.discard("__init__")
    return names - ({"__eq__"} if kind.__eq__ is object.__eq__ else set())


def test_every_public_name_of_the_module_is_declared():
    names = {n for n in public(vars(_bytegolf)) if n != "__init__"}
    assert names == public(declared(stub_tree().body)), ADVICE


FUNCTIONS = sorted(
    n for n, v in vars(_bytegolf).items() if not n.startswith("_") and not isinstance(v, type) and callable(v)
)
CLASSES = sorted(n for n, v in vars(_bytegolf).items() if isinstance(v, type))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_declared_arguments(name):
    assert declared(stub_tree().body)[name] == signatures(getattr(_bytegolf, name)), ADVICE


@pytest.mark.parametrize("name", CLASSES)
def test_classes_have_the_declared_members_and_arguments(name):
    kind = getattr(_bytegolf, name)
    in_stub = declared(declared(stub_tree().body)[name])
    if issubclass(kind, BaseException):
        assert not public(in_stub)
        return
    assert members(kind) == public(in_stub), ADVICE
    for member, known in in_stub.items():
        bound = getattr(kind, member)
        if known is None or not public([member]) or member == "__eq__":
            continue
        assert signatures(bound), f"{name}.{member} has no signature"
        assert known == signatures(bound), f"{name}.{member}: {ADVICE}"
