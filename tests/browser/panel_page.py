"""A panel's page in a browser, with the panel itself behind it and no Jupyter between: the test says when it answers.

What a slow kernel does to somebody who types on can so be tried, step by step.
"""

import base64
import json

from smft_lab.widgets.panel import Panel

MODEL = """
const heard = {}, state = {};
window.sent = [];
const decoded = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const read = (value) => (value?.bytes === undefined ? value : decoded(value.bytes));
const model = {
  get: (name) => state[name], set: (name, value) => { state[name] = value; }, save_changes: () => {},
  on: (name, then) => (heard[name] ??= []).push(then), off: () => {}, send: (content) => window.sent.push(content),
};
window.told = (changes) => {
  for (const [name, value] of changes) {
    state[name] = read(value);
    for (const then of heard[`change:${name}`] ?? []) then();
  }
};
window.begin = (values, code) => {
  for (const [name, value] of Object.entries(values)) state[name] = read(value);
  const file = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  return import(file).then((page) => page.default.render({ model, el: document.body }));
};
"""


def _plain(value):
    return {"bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else json.loads(json.dumps(value))


class PanelPage:
    """`panel`, drawn on `page`.

    Args:
        theme: `light` or `dark`, of the page around the panel.
    """

    def __init__(self, page, panel: Panel, theme: str = "light"):
        self.page, self.panel, self.errors = page, panel, []
        page.on("pageerror", lambda problem: self.errors.append(str(problem)))
        ground = "#111" if theme == "dark" else "#fff"
        style = f"<style>{panel._css} body {{ background: {ground}; font: 14px sans-serif }}</style>"
        page.set_content(f"<!doctype html><html><head>{style}</head><body></body></html>")
        page.evaluate(f"() => {{ {MODEL} }}")
        self._changes: list = []
        traits = panel.traits(sync=True).items()
        self._names = [name for name, trait in traits if trait.this_class.__module__.startswith("smft_lab.")]
        panel.observe(lambda change: self._changes.append((change["name"], _plain(change["new"]))), self._names)
        page.evaluate(
            "([values, code]) => window.begin(values, code)",
            [{name: _plain(getattr(panel, name)) for name in self._names}, panel._esm],
        )

    @property
    def asked(self) -> list[dict]:
        """What the page has sent and the panel has not yet answered."""
        return self.page.evaluate("() => window.sent")

    def tell(self) -> None:
        """Let the page hear what has changed."""
        changes, self._changes[:] = list(self._changes), []
        self.page.evaluate("(changes) => window.told(changes)", changes)

    def answer(self, times: int | None = None) -> None:
        """Let the panel do the next commands that the page has sent, all by default, and the page hear of it."""
        while self.asked and times != 0:
            content = self.page.evaluate("() => window.sent.shift()")
            self.panel._command(self.panel, content, [])
            self.tell()
            times = None if times is None else times - 1

    def field(self, name: str, role: str = "textbox"):
        return self.page.get_by_role(role, name=name, exact=True)

    def button(self, name: str):
        return self.field(name, "button")
