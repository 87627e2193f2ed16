"""README.md and the pages of docs/: short, linked, and of one mind with each other and with the package."""

import re
from pathlib import Path

import pytest
import typer
from PIL import Image

import smft_lab
from smft_lab.cli.app import app

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
OWN = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES = [*OWN, *sorted((ROOT / "docs").rglob("*.md"))]
# By people; the pages in other folders are made by commands.
WRITTEN = [*OWN, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "api").glob("*.md"))]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def links_of(text: str) -> list[str]:
    """Relative targets of links and pictures, those in blocks of code left out."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|href)="([^"]+)"', prose)
    return [target for target in targets if not re.match(r"\w+:", target)]


def anchors_of(text: str) -> set[str]:
    """What a link may name after #, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_the_readme_is_short():
    assert len(text_of(README).splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_file_and_its_heading(page):
    for link in links_of(text_of(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors_of(text_of(target)), link


def test_every_page_and_picture_is_reached_from_the_readme():
    reached, waiting = set(), [README]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        if page.suffix == ".md":
            targets = {(page.parent / link.partition("#")[0]).resolve() for link in links_of(text_of(page))}
            waiting += [target for target in targets if target.is_file() and target not in reached]
    pictures = {picture for suffix in ("png", "gif", "webp", "svg") for picture in (ROOT / "docs").rglob(f"*.{suffix}")}
    assert {named(page) for page in {*PAGES, *pictures} - reached} == set()


def test_files_that_contributors_are_sent_to_are_there():
    named_there = re.findall(r"`((?:smft_lab|tests|\.ci|\.github)/[\w./]+)`", text_of(ROOT / "CONTRIBUTING.md"))
    assert len(named_there) > 10
    assert [name for name in named_there if "NAME" not in name and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_lines_are_short_but_in_tables(page):
    assert [line for line in text_of(page).splitlines() if len(line) > 120 and not line.startswith(("|", '{"'))] == []


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_names_of_the_package_in_code_are_public(page):
    text = text_of(page)
    assert set(re.findall(r"\bsmft\.(\w+)", text)) <= {*smft_lab.__all__, "widgets"}
    panels = set(re.findall(r"\bsmft\.widgets\.(\w+)", text))
    assert not panels or all(hasattr(smft_lab.widgets, panel) for panel in panels)


def test_figures_of_the_readme_are_on_the_pages_that_its_results_link():
    rows = re.findall(r"^\|[^|]*\|(.*)\| \[[^]]*\]\((docs/\w+\.md)\) \|$", text_of(README), re.MULTILINE)
    assert len(rows) == 3
    for cells, name in rows:
        page = re.sub(r"\*| points", "", text_of(ROOT / name))
        for figure in cells.replace("*", "").split("|"):
            assert re.search(rf"(?<![\d.]){re.escape(figure.strip())}(?!\d)", page), figure


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_commands_and_their_options_are_there(page):
    commands = typer.main.get_command(app).commands
    text = re.sub(r"\\\n", " ", text_of(page))
    for line in re.findall(r"(?:^|`)smft-lab ([^`\n]*)", text, re.MULTILINE):
        call = re.split(r"\s#|&&", line)[0].split()
        if not call or not call[0].islower() or not call[0].isalpha():
            continue  # `smft-lab COMMAND`
        command, rest = commands.get(call[0]), call[1:]
        assert command, line
        if hasattr(command, "commands") and rest:
            command = command.commands[rest[0]]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= {*known, "--help"}, line


WORDS = """memory layer, slot, key, value, product keys, read, access, access count, background usage,
document frequency, TF-IDF score, top-t, trainable slots, fact, statement, paraphrase, probe, learned, forgetting,
patch, known facts, taught form, unseen wording, unseen prefix, two-hop, address, address overlap, loudness, retrofit,
recipe"""


def test_the_glossary_has_every_word_once_and_where_it_is_in_the_code():
    rows = re.findall(
        r"^\| \*\*(.*?)\*\* \| (.*?) \| \[`([\w./]+)`\]\(\.\./(.*?)\)(.*) \|$",
        text_of(ROOT / "docs" / "glossary.md"),
        re.MULTILINE,
    )
    words = [word for row in rows for word in row[0].split(", ")]
    assert len(words) == len(set(words))
    assert {word.strip() for word in WORDS.replace("\n", " ").split(",")} <= set(words)
    for _, what, name, file, _ in rows:
        assert what.endswith(".")
        assert name in file or re.search(rf"^(?:def|class) {name}\b|^{name} = ", text_of(ROOT / file), re.MULTILINE), (
            name
        )


def test_the_picture_of_the_readme_moves_and_is_small():
    picture = ROOT / re.search(r"!\[[^]]*\]\((docs/[^)]*)\)", text_of(README))[1]
    assert picture.stat().st_size < 2_000_000
    assert Image.open(picture).n_frames > 50
