"""The shell that all pages share: a template on `base.html`, and what a page of one file may do."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jinja2


def page_html(file: Path, scripts: Sequence[str] = (), **parts) -> str:
    """A page as HTML text, that runs its own scripts and no others.

    Args:
        file: Its template, which extends `base.html`.
        scripts: JavaScript of the lab and of its libraries, never with text of a person.
        parts: What else the template shows.
    """
    return page_template(file).render(policy=content_policy(*scripts), scripts=scripts, **parts)


def page_template(file: Path) -> jinja2.Template:
    """A template of a page: what is put into it is text and never code, and a name that is not given is an error.

    It may extend `base.html`, which has the head that pages share, or a template of its own folder.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([file.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(file.name)


def content_policy(*scripts: str) -> str:
    """What a page of one file may do: run these scripts and no others, and ask nothing of the network."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    own = " ".join(f"'sha256-{digest}'" for digest in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {own}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )
