"""Settings of the documentation site; `make docs` builds it."""

import sys
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx

import innerloop

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "innerloop"
author = "The innerloop developers"
version = release = innerloop.__version__
project_copyright = author

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "cyclopts.ext.sphinx",
    "equations",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "py:obj"
highlight_language = "none"
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections say what a parameter may be
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_attributes_as_param_list = True

# One file of MathJax, copied into the site: formulas need no network, and open from a disk too.
_mathjax = find_spec("sphinx-mathjax-offline")
assert _mathjax is not None
assert _mathjax.origin is not None
html_static_path = ["_static", str(Path(_mathjax.origin).parent / "static/mathjax/tex-svg.js")]
mathjax_path = "tex-svg.js"

html_theme = "pydata_sphinx_theme"
html_title = f"innerloop {version}"
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_sidebars = {page: [] for page in ("index", "howto", "theory")}  # they have no pages below them
html_theme_options = {
    "logo": {"text": "innerloop"},
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "show_toc_level": 2,
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}


def _links_from_docs(_app: object, _path: object, _page: str, content: list[str]) -> None:
    """Make links of an included file of the folder above links of this folder."""
    content[0] = content[0].replace("](docs/", "](").replace("](VISION.md", "](develop.md")


def setup(app: Sphinx) -> None:
    """Connect what the extensions above do not."""
    app.connect("include-read", _links_from_docs)
