"""Settings of the documentation site; `make docs` builds it."""

import re
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
    "sphinx_gallery.gen_gallery",
    "equations",
    "messages",
    "built",
]
exclude_patterns = ["_build", "tutorials"]
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

# Tutorials are scripts: they run when the site is built, and their output and pictures are what is shown.
sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "generated/tutorials",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "ExampleTitleSortKey",
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "write_computation_times": False,
    "capture_repr": (),
    "default_thumb_file": str(Path(__file__).parent / "images" / "demo.png"),
}

html_theme = "pydata_sphinx_theme"
html_title = f"innerloop {version}"
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_sidebars = {page: [] for page in ("index", "howto")}  # they have no pages below them
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


def _links_to_tutorials(_app: object, _page: str, content: list[str]) -> None:
    """Make links to the scripts of tutorials links to their pages."""
    content[0] = re.sub(r"\]\(tutorials/(\w+)\.py\)", r"](generated/tutorials/\1.rst)", content[0])


def setup(app: Sphinx) -> None:
    """Connect what the extensions above do not."""
    app.connect("include-read", _links_from_docs)
    app.connect("source-read", _links_to_tutorials)
