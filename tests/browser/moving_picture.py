"""The moving picture of the README, of a real panel in a real JupyterLab: `python tests/browser/moving_picture.py`.

A hand drags the slider, lets go, and the model is taught: once with many slots, once with few. Then it is asked. The
lab has been taught the facts before, as a person's second run is; and no picture stays longer than on an idle machine.
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Annotated

import typer
from conftest import CHROMIUM, FLAGS
from live_notebook import Notebook, Server
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[2]
CELLS = [
    "import smft_lab as smft\nlab, facts = smft.load(), smft.new_facts(32, seed=3)",
    "smft.run(lab, facts, passes=1, probe_every=0)\nlab.reset()",
    "panel = smft.widgets.TopT(lab, facts)\npanel.choose(passes=8)\npanel",
]
# A browser's pictures have no pointer, and JupyterLab's margins are no part of the panel.
POINTER = """() => {
  const style = document.createElement('style');
  style.textContent = '.smft { width: 1000px !important } #pointer { position: fixed; z-index: 99999; width: 22px; ' +
    'height: 22px; margin: -11px; border-radius: 50%; background: #d5500066; border: 2px solid #d55000; ' +
    'pointer-events: none; box-sizing: border-box; display: none } #pointer.down { background: #d55000cc }';
  const pointer = document.createElement('div');
  pointer.id = 'pointer';
  document.head.append(style);
  document.body.append(pointer);
  addEventListener('pointermove', (event) => {
    pointer.style.cssText = `display: block; left: ${event.clientX}px; top: ${event.clientY}px`;
  }, true);
  addEventListener('pointerdown', () => pointer.classList.add('down'), true);
  addEventListener('pointerup', () => pointer.classList.remove('down'), true);
}"""


class Film:
    """Pictures of one element, each shown for as long as it stood there.

    Args:
        longest: Milliseconds that a picture is shown at most, unless it is held.
    """

    def __init__(self, page, element, longest: int = 60):
        self.page, self.element, self.longest = page, element, longest
        self.pictures: list[Image.Image] = []
        self.durations: list[int] = []
        self._last = b""
        self._at = time.monotonic()

    def shoot(self) -> None:
        """Take a picture, if there is anything new."""
        shot = self.page.screenshot(clip=self.element.bounding_box())
        now = time.monotonic()
        if self.durations:
            self.durations[-1] += min(int(1000 * (now - self._at)), self.longest)
        self._at = now
        if shot != self._last:
            self._last = shot
            self.pictures.append(Image.open(io.BytesIO(shot)).convert("RGB"))
            self.durations.append(0)

    def hold(self, milliseconds: int) -> None:
        """Show the last picture that much longer."""
        self.shoot()
        self.durations[-1] += milliseconds

    def save(self, path: Path, quality: int) -> None:
        size = (max(one.width for one in self.pictures), max(one.height for one in self.pictures))
        whole = [Image.new("RGB", size, "white") for _ in self.pictures]
        for ground, one in zip(whole, self.pictures, strict=True):
            ground.paste(one)
        options = {"quality": quality, "method": 6, "minimize_size": True, "loop": 0}
        encoded = io.BytesIO()  # takes a while, and a picture that is there stays until it is done
        whole[0].save(encoded, "WEBP", save_all=True, append_images=whole[1:], duration=self.durations, **options)
        path.write_bytes(encoded.getvalue())


def drag(film: Film, slider, to: float) -> None:
    """Drag the slider to a share of its width, let go, and watch until all is taught."""
    mouse, box = film.page.mouse, slider.bounding_box()
    now = float(slider.input_value()) / float(slider.get_attribute("max"))
    y, left, width = box["y"] + box["height"] / 2, box["x"] + 8, box["width"] - 16
    mouse.move(left + now * width, y)
    mouse.down()
    steps = 14
    for step in range(steps + 1):
        mouse.move(left + (now + (to - now) * step / steps) * width, y)
        film.shoot()
    film.hold(300)
    mouse.up()
    film.page.wait_for_selector(".smft[data-state=running]")
    while film.element.get_attribute("data-state") == "running":
        film.shoot()
        film.page.wait_for_timeout(100)
    film.hold(900)


def main(
    out: Annotated[Path, typer.Option(help="The picture to write.")] = ROOT / "docs" / "top_t.webp",
    quality: Annotated[int, typer.Option(help="Of the WebP, up to 100.")] = 60,
) -> None:
    server = Server({"picture.ipynb": CELLS})
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 1600, "height": 1400})
            page.set_default_timeout(60_000)
            notebook = Notebook(server, page)
            notebook.run("picture.ipynb")
            panel = page.locator(".smft")
            panel.wait_for()
            page.evaluate(POINTER)
            panel.scroll_into_view_if_needed()
            page.wait_for_timeout(500)
            film, slider = Film(page, panel), panel.get_by_role("slider")
            film.hold(700)
            drag(film, slider, 1.0)
            drag(film, slider, 0.6)
            ask = panel.get_by_role("textbox", name="Question").or_(panel.get_by_role("combobox", name="Question"))
            ask.fill(notebook.kernel("print(facts[0].question)"))
            film.hold(500)
            panel.get_by_role("button", name="Ask").click()
            panel.locator("td").first.wait_for()
            film.hold(3500)
            print(notebook.kernel("print([(run['name'], run['points'][-1][1:]) for run in panel.runs])"))
            assert notebook.errors == []
    finally:
        server.stop()
    film.save(out, quality)
    seconds = sum(film.durations) / 1000
    print(f"{out.name}: {out.stat().st_size / 1e6:.2f} MB, {len(film.pictures)} pictures, {seconds:.0f} seconds")


if __name__ == "__main__":
    typer.run(main)
