"""The documentation site: `python -m sphinx -W -c docs . build/site`, from the root of the repository.

Its pages are README.md, docs/ and the notebooks where they lie, so that links between them hold here and on GitHub.
Nothing is executed, and nothing is fetched: notebooks keep their saved outputs, formulas become MathML.
"""

import inspect
import os
import re
import shutil
import sys
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import roles
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.addnodes import pending_xref
from sphinx.domains.python import PyObject
from sphinx.util.docutils import SphinxRole
from sphinx.util.inspect import signature as signature_of
from sphinx.util.inspect import stringify_signature
from traitlets import HasTraits
from transformers import PreTrainedConfig

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import smft_lab  # noqa: E402

project = "SMFT Lab"
author = "The SMFT Lab authors"
copyright = "the SMFT Lab authors, Apache-2.0"
version = release = smft_lab.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "docs/**/*.md", "notebooks/*.ipynb"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # with tables, which notebooks print
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

default_role = "public"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "SMFT Lab"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_search_scorer = str(Path(__file__).with_name("search.js"))
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {
    "source_repository": "https://github.com/smft-lab/smft-lab/",
    "source_branch": "main",
    "source_directory": "",
}
pygments_style = "friendly"
pygments_dark_style = "monokai"

CONTENTS = {  # of the site, after the title page
    "Use": [
        "docs/how_do_i",
        "docs/python",
        "docs/panels",
        "docs/command_line",
        "docs/your_facts",
        "docs/your_model",
        "docs/sharing",
    ],
    "Notebooks": [page.relative_to(ROOT).with_suffix("").as_posix() for page in sorted(ROOT.glob("notebooks/*.ipynb"))],
    "Results": ["docs/results", "docs/reproduction", "docs/real_model", "docs/speed", "docs/limits"],
    "Reference": ["docs/api/README", "docs/glossary", "docs/families"],
    "Inside": ["docs/how_it_works", "docs/checkpoint", "docs/robustness", "CONTRIBUTING", "CHANGELOG"],
}
BELOW = {  # pages that stand below another
    "docs/api/README": [
        f"docs/api/{name}" for name in "labs facts finetuning slots models probes panels charts".split()
    ],
    "docs/reproduction": ["docs/reproduction/claims", "docs/reproduction/runs"],
    "docs/real_model": ["docs/retrofit/README", "docs/retrofit/neox/README"],
}
SOURCE = html_theme_options["source_repository"]


def named(name: str):
    """What has a public name, such as `Lab` or `widgets.TopT`."""
    thing = smft_lab
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


def reference_of(names: list[str]) -> str:
    """A table of the names with their first sentences, and the docstrings below."""
    table, whole = ".. list-table::\n   :class: names\n\n", ""
    for name in names:
        thing = named(name)
        first = re.split(r"(?<=[.;])\s|\n\n", inspect.getdoc(thing) or "", maxsplit=1)[0].rstrip(";.")
        table += f"   * - :py:obj:`~smft_lab.{name}`\n     - {' '.join(first.split())}\n"
        kind = "autoclass" if inspect.isclass(thing) else "autofunction"
        whole += f".. {kind}:: smft_lab.{name}\n{'   :members:' if kind == 'autoclass' else ''}\n\n"
    return f"```{{eval-rst}}\n{table}\n{whole}```"


def source_of(page: Path, target: str) -> str | None:
    """Where on GitHub a file or folder lies that is no page of the site; None for pages, pictures and addresses."""
    path = (page.parent / target).resolve()
    if re.match(r"\w+:|#", target) or not path.exists() or path.suffix in {".md", ".ipynb", ".png", ".webp"}:
        return None
    return f"{SOURCE}{'tree' if path.is_dir() else 'blob'}/main/{path.relative_to(ROOT).as_posix()}"


def on_reading(app, docname: str, source: list[str]) -> None:
    """Turn what GitHub shows as it stands into what the site shows: names into their docstrings, files into links."""
    page = Path(app.env.doc2path(docname))
    if page.suffix != ".md":
        return
    text = re.sub(r"\]\(([^)\s#]+)\)", lambda link: f"]({source_of(page, link[1]) or link[1]})", source[0])
    text = re.sub(
        r"^```\{api\}\n(.*?)^```",
        lambda block: reference_of(block[1].split()),
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    parts = CONTENTS if docname == root_doc else {"": BELOW[docname]} if docname in BELOW else {}
    for caption, pages in parts.items():
        listed = "\n".join(f"/{name}" for name in pages)
        title = f":caption: {caption}\n" if caption else ""
        text += f"\n```{{toctree}}\n:hidden:\n{title}\n{listed}\n```\n"
    source[0] = text


ROOMS = {name for name in smft_lab.__all__ if inspect.ismodule(getattr(smft_lab, name))}
"""Public modules, which have no entry of their own in the reference."""
HOMES = {**dict.fromkeys(set(smft_lab.__all__) - ROOMS, ""), **dict.fromkeys(smft_lab.widgets.__all__, "widgets.")}


def link_to(name: str, code: nodes.literal, page: str) -> nodes.Node:
    """A link to a public name, or the code alone where there is no such name."""
    if name not in HOMES:
        return code
    target = {"reftarget": f"smft_lab.{HOMES[name]}{name}", "refexplicit": True, "refwarn": True, "refdoc": page}
    return pending_xref("", code, refdomain="py", reftype="obj", **target)


class PublicRole(SphinxRole):
    """`Lab` in a docstring: a link where it is a public name that means nothing else, and code anyhow."""

    PLAIN = frozenset({"finetune", "compare"})

    def run(self):
        name = re.sub(r"^smft_lab\.|\(\)$", "", self.text)
        alone = name[0].isupper() or self.text.endswith("()") or "_" in name or name in self.PLAIN
        code = nodes.literal(self.rawtext, self.text)
        return [link_to(name, code, self.env.docname) if alone else code], []


def on_read(app, tree: nodes.document) -> None:
    """Link `smft.load` and the like, where a page names them."""
    for code in list(tree.findall(nodes.literal)):
        face = re.match(r"smft\.(?:widgets\.)?(\w+)(?:\(.*\))?$", code.astext(), re.DOTALL)
        if face and not isinstance(code.parent, nodes.reference | pending_xref):
            code.replace_self(link_to(face[1], code.deepcopy(), app.env.docname))


def on_missing(app, env, node, content):
    """A type in a signature is named by the module it lies in; its docstring stands under its public name."""
    module, _, name = node.get("reftarget", "").rpartition(".")
    if smft_lab._HOME.get(name) != module:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", f"smft_lab.{name}", node, content)


def on_signature(app, kind, name, thing, options, signature, returns):
    """A panel's own arguments, and a config's own fields: the classes that they derive from take anything."""
    if kind == "class" and issubclass(thing, HasTraits | PreTrainedConfig):
        seen = signature_of(thing.__init__, bound_method=True)
        if issubclass(thing, PreTrainedConfig):
            own = [seen.parameters[field] for field in inspect.get_annotations(thing) if field in seen.parameters]
            seen = seen.replace(parameters=[*own, inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)])
        signature = stringify_signature(seen, unqualified_typehints=True)
    return shapes_of(signature), shapes_of(returns)


def on_docstring(app, kind, name, thing, options, lines: list[str]) -> None:
    lines[:] = [shapes_of(line) for line in lines]


def shapes_of(text: str | None) -> str | None:
    """The text without the blank that a shape of one name begins with, for the linter alone."""
    return text and re.sub(r"(Tensor, ['\"]) ", r"\1", text)


def visit_math(self, node) -> None:
    self.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def on_finished(app, problem: Exception | None) -> None:
    if problem is None and app.builder.format == "html":
        shutil.copyfile(app.outdir / f"{root_doc}.html", app.outdir / "index.html")


def setup(app) -> None:
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    roles.register_local_role("public", PublicRole())
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.connect("source-read", on_reading)
    app.connect("autodoc-process-signature", on_signature)
    app.connect("autodoc-process-docstring", on_docstring)  # napoleon has put the types of fields in
    app.connect("doctree-read", on_read)
    app.connect("missing-reference", on_missing)
    app.connect("build-finished", on_finished)
