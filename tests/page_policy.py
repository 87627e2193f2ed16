"""What a browser would run of a page, and whether the page's own policy lets it run that and nothing else."""

import base64
import hashlib
from html.parser import HTMLParser


class Scripts(HTMLParser):
    """The tags of a page but for those of its text, and the scripts that a browser would run."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.scripts, self.policy, self._in = set(), [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags |= {tag, *(name for name, _ in attributes if name.startswith("on"))}
        told = dict(attributes)
        if told.get("http-equiv") == "Content-Security-Policy":
            self.policy = told["content"]
        self._in = tag == "script" and told.get("type") is None
        if self._in:
            self.scripts.append("")

    def handle_data(self, data):
        if self._in:
            self.scripts[-1] += data

    def handle_endtag(self, tag):
        self._in = False


def allowed(page: Scripts) -> bool:
    """Whether a page runs its own scripts and no others."""
    hashes = {base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in page.scripts}
    (sources,) = [part.split()[1:] for part in page.policy.split("; ") if part.startswith("script-src")]
    return {f"'sha256-{one}'" for one in hashes} == set(sources) and "default-src 'none'" in page.policy
