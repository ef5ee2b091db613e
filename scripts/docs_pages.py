"""What the documentation takes from the code when it is built: a hook of MkDocs, named in notebooks/mkdocs.yml.

- reference/python.md, reference/cli.md and reference/options.md are made from `bytegolf.__all__`, from the commands and from the
  table of options, so that none can be forgotten.
- `<!-- include PATH -->` in a page becomes that file of the repository, `<!-- include PATH # HEADING -->` its section under
  this heading, and `<!-- picture PATH WORDS -->` a picture of the repository.
- notebooks/NN_name.py become pages.
"""

from __future__ import annotations

import importlib
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
log = logging.getLogger("mkdocs.hooks.docs_pages")
# Files of the repository that are pages here, wherever they are linked from.
PAGES = {
    "csrc/codec/FORMAT.md": "reference/format.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reference/security.md",
    "records/NOTES.md": "design/notes.md",
}
PAGES_FOLDER = "notebooks/docs/"  # what lies here is a page of its own
_INCLUDE = re.compile(r"^<!-- include (\S+?)(?: # (.+?))? -->$", re.MULTILINE)
_PICTURE = re.compile(r"^<!-- picture (\S+) (.+?) -->$", re.MULTILINE)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:)([^)#\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the notebooks to the navigation."""
    for section in config.nav or []:
        if isinstance(section, dict) and "Notebooks" in section:
            section["Notebooks"] += [f"notebooks/{path.stem}.md" for path in notebooks()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made here and the pictures that included text shows."""
    made = {"reference/python.md": python_page, "reference/cli.md": cli_page, "reference/options.md": options_page}
    for uri, make in made.items():
        files.append(File.generated(config, uri, content=make()))
    for path in notebooks():
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook_page(path)))
    for page in list(files.documentation_pages()):
        shown = [where for where, _ in _PICTURE.findall(page.content_string)]
        for path, heading in _INCLUDE.findall(page.content_string):
            for mark, _, target in _LINK.findall(section_of(path, heading)):
                if mark:
                    shown.append(posixpath.normpath(posixpath.join(posixpath.dirname(path), target)))
        for where in shown:
            if files.get_file_from_path(f"pictures/{where}") is None:
                files.append(File.generated(config, f"pictures/{where}", abs_src_path=str(ROOT / where)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts included text in place, with links that work from this page."""

    def included(found: re.Match[str]) -> str:
        text = section_of(found[1], found[2] or "")
        return _LINK.sub(lambda link: relinked(link, posixpath.dirname(found[1]), page.file.src_uri), text)

    markdown = _PICTURE.sub(
        lambda found: f"![{found[2]}]({from_page(f'pictures/{found[1]}', page.file.src_uri)})", markdown
    )
    return _INCLUDE.sub(included, markdown)


def section_of(path: str, heading: str) -> str:
    """A file of the repository without its title, or the text under one heading of it; PluginError when it is not there."""
    try:
        text = (ROOT / path).read_text(encoding="utf-8")
    except OSError as error:
        raise PluginError(f"include {path}: {error.strerror}") from error
    text = re.sub(r"^<!-- (?!include).*?-->\n+", "", text, flags=re.MULTILINE)
    if not heading:
        return re.sub(r"\A# .*\n", "", text)
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^\1 |\Z)", text, re.MULTILINE | re.DOTALL)
    if not found:
        raise PluginError(f"include {path}: there is no heading {heading!r}")
    return found[2].strip("\n")


def relinked(link: re.Match[str], folder: str, page: str) -> str:
    """A link of an included file, seen from `page`: to a page or picture here, else only the words and the path."""
    mark, words, target = link.groups()
    where = posixpath.normpath(posixpath.join(folder, target))
    own = where.removeprefix(PAGES_FOLDER) if where.startswith(PAGES_FOLDER) else None
    there = f"pictures/{where}" if mark else own or PAGES.get(where)
    if there is not None:
        return f"{mark}[{words}]({from_page(there, page)})"
    return f"`{where}`" if words in (target, where) else f"{words} (`{where}`)"


def from_page(there: str, page: str) -> str:
    """The path to `there` in a link of `page`."""
    return posixpath.relpath(there, posixpath.dirname(page) or ".")


def python_page() -> str:
    """Every name of bytegolf.__all__: a table, then each with its docstring."""
    package = importlib.import_module("bytegolf")
    names = [name for name in package.__all__ if name != "__version__"]
    kinds: dict[str, list[str]] = {"Classes": [], "Functions": [], "Exceptions": [], "Other names": []}
    for name in names:
        value = getattr(package, name)
        if isinstance(value, type):
            kinds["Exceptions" if issubclass(value, BaseException) else "Classes"].append(name)
        else:
            kinds["Functions" if callable(value) else "Other names"].append(name)
    lines = [
        "# Python",
        "",
        "`import bytegolf` gives these names and no others. Arrays are NumPy's. Letters in shapes: `B` rows, `T` positions, `V` size of",
        "the vocabulary, `M` ids in a stream. Nats are natural logarithms; bits per byte is nats / (ln 2 × bytes).",
        "",
        "| name | what |",
        "|---|---|",
    ]
    for name in names:
        lines.append(f"| [`{name}`](#bytegolf.{name}) | {first_line(getattr(package, name))} |")
    lines.append('| <a id="bytegolf.__version__"></a>`__version__` | Version of the package and its core, as text. |')
    for kind, members in kinds.items():
        if members:
            lines += ["", f"## {kind}"]
        for name in members:
            lines += ["", f"::: bytegolf.{name}"]
            if name == "Config":  # options are attributes, and have a page of their own
                keep = ["replace", "preset", "preset_names", "from_toml", "from_text", "from_published", "to_toml"]
                keep += ["toml", "stored", "of_run", "absent", "differences", "canonical"]
                keep += ["to_dict", "text", "get", "vocab_name", "vocab_size", "byte_offset", "bos_id", "mlp_dim"]
                lines += ["    options:", "      members:", *(f"        - {member}" for member in keep)]
                lines += ["", "Each option is an attribute of its name: [all of them](options.md)."]
            if name == "Trainer":
                lines += ["", "::: bytegolf.trainer.StepResult"]
    return "\n".join(lines) + "\n"


def first_line(value: Any) -> str:
    """The first sentence of a docstring, safe inside a table."""
    text = " ".join((value.__doc__ or "").strip().split("\n\n")[0].split())
    sentence = text.split(". ")[0].removesuffix(".")
    return sentence.replace("|", "\\|").replace("[", "\\[")


def cli_page() -> str:
    """Every verb of the command, from the same functions and docstrings as --help."""
    from bytegolf.cli import app

    text: str = app.generate_docs(output_format="markdown", recursive=True)
    text = text[text.index("\n## ", text.index("## Table of Contents") + 1) :]  # without title, usage and contents
    text = re.sub(r"\n\*\*Commands\*\*:\n(\n\* .*)+", "", text)  # of a verb with verbs: they follow anyway
    text = re.sub(
        r"\*\[choices: (.*?)\]\*", lambda m: "One of " + ", ".join(f"`{w}`" for w in m[1].split(", ") if w), text
    )
    text = re.sub(
        r" ?\*\[default: (.*?)\]\*", lambda m: "" if m[1] in ('""', "()", "False") else f" Default: `{m[1]}`.", text
    )
    text = re.sub(r"(One of `[^*\n]*?`)(?= Default|$|\n)", r"\1.", text)
    text = text.replace(" **[required]**", " **Required.**").replace("**Parameters**:", "**Options**:")
    text = re.sub(r"^\* `(.*?)`: ", r"* `\1` — ", text, flags=re.MULTILINE)
    text = text.replace("```console", "```text")
    before = (
        "# Command line\n\nThe same as `bytegolf VERB --help`. Exit status: 0 done, 1 missed (a check, claim or run failed), 2 a mistake in the\n"
        "call or in what it was given (one line says which), 130 interrupted. `--traceback` anywhere shows where an error arose.\n"
        "Dashes before options of a config are not needed: they are words, `name=value`; see [options](options.md).\n"
    )
    return before + text


def options_page() -> str:
    """Every option from csrc/base/config.def, as the core declares it: default in each preset, range, unit and meaning."""
    core = importlib.import_module("bytegolf._bytegolf")
    config = importlib.import_module("bytegolf").Config
    presets = {name: config.preset(name) for name in config.preset_names()}
    usual = presets["byte260-jepa"]
    sections = {
        "model": ("Model", "What the weights mean. These travel inside the artifact; weights fit no other model."),
        "train": ("Training", "How the weights are found."),
        "run": ("Run", "Files, devices and reports."),
    }
    lines = [
        "# Options",
        "",
        "One table, `csrc/base/config.def`, makes the struct of the core, the TOML form, range checks and this page. An option is set in a TOML file",
        "(`name = value`), on the command line (`name=value`) or by `Config.replace(name=value)`. A TOML file names what differs from",
        "`byte260-jepa`; `bytegolf config PRESET` prints a whole preset with these meanings as comments.",
        "",
        "Meanings begin with the unit.",
    ]
    for section, (title, about) in sections.items():
        lines += [
            "",
            f"## {title}",
            "",
            about,
            "",
            "| option | default | may be | unit; meaning |",
            "|---|---|---|---|",
        ]
        for row in core.option_table():
            if row["section"] == section:
                name = row["name"]
                default = f"`{usual.get(name)}`"
                doc = row["doc"].replace("|", "\\|")
                lines.append(f'| <a id="option-{name}"></a>`{name}` | {default} | {allowed(row)} | {doc} |')
    lines += ["", "## Presets", "", "What each preset has other than `byte260-jepa`:", ""]
    for name, preset in presets.items():
        differs = [row["name"] for row in core.option_table() if preset.get(row["name"]) != usual.get(row["name"])]
        words = ", ".join(f"`{option}={preset.get(option)}`" for option in differs)
        lines.append(f"- **{name}**: {words or 'the defaults above.'}")
    return "\n".join(lines) + "\n"


def allowed(row: dict[str, Any]) -> str:
    """What an option may be, in words."""
    if row["type"] == "bool":
        return "`true`, `false`"
    if row["type"] == "str":
        return ", ".join(f"`{one}`" for one in row["choices"].split("|")) if row["choices"] else "text"
    if row["type"] == "int":
        return f"whole, {int(row['low']):,} to {int(row['high']):,}"
    return f"{row['low']:g} to {row['high']:g}"


def notebooks() -> list[Path]:
    """The notebooks, in their order: Python files of `# %%` cells."""
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))


def notebook_page(path: Path) -> str:
    """A notebook's cells as a page: text as it is, code in boxes."""
    parts = re.split(r"^# %%(.*)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = []
    for kind, body in zip(parts[1::2], parts[2::2], strict=True):
        if "[markdown]" in kind:
            lines.append("\n".join(re.sub(r"^# ?", "", line) for line in body.strip().splitlines()))
        elif body.strip():
            lines.append(f"```python\n{body.strip()}\n```")
    where = f"From `notebooks/{path.name}`; see [how to run it](../how-to/notebooks.md)."
    text = re.sub(r"\]\((\d\d_\w+)\.py\)", r"](\1.md)", "\n\n".join(lines))  # other notebooks are pages here
    title = "" if text.startswith("# ") else f"# {path.stem[3:].replace('_', ' ')}\n\n"
    return f"{title}{text}\n\n---\n{where}\n"
