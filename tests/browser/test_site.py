"""The documentation site: it is built without a network and without a warning, nothing in it leads nowhere, and every
page can be read."""

import inspect
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from functools import cache, partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

import smft_lab

for needed in ("sphinx", "myst_nb", "furo", "sphinx_copybutton"):
    pytest.importorskip(needed, reason="the site needs the extra `docs`, which `.[test]` installs")

ROOT = Path(__file__).parents[2]
# A socket to anywhere is refused: in the pages' Python and in what it starts.
OFFLINE = """
import socket
def refused(*args, **options):
    raise OSError("the site is built without a network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(OFFLINE)
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", ".", str(folder / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


class Page(HTMLParser):
    """What a page links, loads and shows.

    Attributes:
        links: Addresses of links.
        loaded: Addresses of pictures, scripts and styles.
        ids: Where a link may lead.
        shown: Of the loaded ones, the pictures.
    """

    def __init__(self, file: Path):
        super().__init__()
        self.links, self.loaded, self.ids, self.shown = [], [], set(), []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.ids |= {named[name] for name in ("id", "name") if name in named}
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        if tag in ("img", "script") and "src" in named:
            self.loaded.append(named["src"])
        if tag == "img":
            self.shown.append(named["src"])
        if tag == "link" and named.get("rel") in ("stylesheet", "icon"):
            self.loaded.append(named["href"])


parsed = cache(Page)


def test_every_link_leads_to_a_page_and_to_a_place_on_it(site):
    for file in site.rglob("*.html"):
        if "_static" in file.parts:
            continue
        for link in parsed(file).links:
            if re.match(r"\w+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (file.parent / unquote(path.partition("?")[0])).resolve() if path else file
            assert target.exists(), f"{file.relative_to(site)}: {link}"
            if anchor and target.suffix == ".html":
                assert unquote(anchor) in parsed(target).ids, f"{file.relative_to(site)}: {link}"


def test_nothing_is_loaded_from_elsewhere(site):
    for file in site.rglob("*.html"):
        for address in parsed(file).loaded:
            assert not re.match(r"\w+:|//", address), f"{file.relative_to(site)}: {address}"
            assert (file.parent / unquote(address.partition("?")[0])).exists(), f"{file.relative_to(site)}: {address}"


def test_every_page_of_the_repository_is_in_the_contents(site):
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/*.ipynb"), ROOT / "CONTRIBUTING.md"]
    contents = {(site / link.partition("#")[0]).resolve() for link in parsed(site / "index.html").links}
    for page in pages:
        built = site / page.relative_to(ROOT).with_suffix(".html")
        assert built.exists(), page
        assert built.resolve() in contents, page


@pytest.mark.parametrize("notebook", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda file: file.stem)
def test_a_notebook_shows_its_saved_pictures(site, notebook):
    outputs = [out for cell in nbformat.read(notebook, 4).cells for out in cell.get("outputs", [])]
    pictures = sum("image/png" in out.get("data", {}) for out in outputs)
    assert len(parsed(site / "notebooks" / f"{notebook.stem}.html").shown) == pictures > 0


def test_every_public_name_is_in_the_reference_once(site):
    listed = Counter()
    for page in ROOT.glob("docs/api/*.md"):
        for block in re.findall(r"^```\{api\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            listed.update(block.split())
    rooms = {name for name in smft_lab.__all__ if inspect.ismodule(getattr(smft_lab, name))}
    theirs = {f"{room}.{name}" for room in rooms for name in getattr(smft_lab, room).__all__}
    assert listed == Counter({*smft_lab.__all__, *theirs} - rooms)
    overview = (ROOT / "docs" / "api" / "README.md").read_text(encoding="utf-8")
    assert Counter(re.findall(r"`smft\.([\w.]+)`", overview)) == listed
    described = set().union(*(parsed(file).ids for file in site.glob("docs/api/*.html")))
    assert {f"smft_lab.{name}" for name in listed} <= described


def test_guides_link_the_names_that_they_use(site):
    assert "api/finetuning.html#smft_lab.finetune" in parsed(site / "docs" / "how_do_i.html").links


SCREENS = ((1000, "dark"), (1600, "light"))  # themes differ in colours alone


@pytest.fixture
def reader(browser, request):
    width, theme = request.param
    context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=theme)
    page, asked, errors = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    assert [address for address in asked if not address.startswith(("file:", "data:", "http://127.0.0.1:"))] == []
    assert errors == []
    context.close()


@pytest.mark.parametrize("reader", SCREENS, indirect=True, ids=str)
def test_no_page_and_no_table_is_cut_off(site, reader):
    for file in sorted(site.rglob("*.html")):
        if {"_modules", "_static"} & set(file.parts) or file.stem == "genindex":
            continue
        reader.goto(file.as_uri())
        assert reader.evaluate("document.documentElement.scrollWidth <= innerWidth"), file.name
        wide = reader.evaluate(
            "[...document.querySelectorAll('.table-wrapper')].filter(e => e.scrollWidth > e.clientWidth + 1)"
            ".map(e => e.innerText.slice(0, 80))"
        )
        assert wide == [], file.name


def test_a_table_that_a_notebook_prints_is_one(site):
    pages = [file.read_text(encoding="utf-8") for file in sorted((site / "notebooks").glob("0*.html"))]
    assert len(pages) == 7
    assert not any("<p>| |" in page for page in pages)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def address(site):
    """Of a server of this machine: in a file alone the search has no lines of the text below its titles."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("reader", [(1600, "light")], indirect=True, ids=str)
@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("teach a fact", "how_do_i"),
        ("add a method", "CONTRIBUTING"),
        ("loudness", "glossary"),
        ("slot_scores", "slots"),
    ],
)
def test_the_search_finds_without_a_network(address, reader, words, page):
    reader.goto(f"{address}/index.html")
    reader.get_by_placeholder("Search").fill(words)
    reader.keyboard.press("Enter")
    results = reader.locator("#search-results li")
    results.first.wait_for(timeout=10_000)
    reader.wait_for_function(
        "() => document.querySelector('#search-results .search-summary')?.innerText.match(/found/)"
    )
    reader.locator("#search-results p.context").first.wait_for(timeout=10_000)
    found = reader.eval_on_selector_all("#search-results li a", "all => all.map(a => a.getAttribute('href'))")
    assert any(f"{page}.html" in link for link in found[:3]), found
