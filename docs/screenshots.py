"""Makes the pictures of docs/ui.md again, from a Kubeflow UI in which its walk was walked.

    pip install playwright      # and a Chromium: playwright install chromium, or a distribution's with --chromium
    python docs/screenshots.py http://localhost:3000 [--chromium /usr/bin/chromium] [--out docs/images]
    pngquant --ext .png --force 32 docs/images/*.png

It looks for the newest run that succeeded of `sft-rl-distil` and of `sft-replay`, and starts nothing.
"""

from __future__ import annotations

import argparse
import json
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import ElementHandle, Locator, Page, sync_playwright

PATIENCE = 240_000  # milliseconds; a busy cluster answers late
STAGE = "sft_evaluation"


def asked(ui: str, path: str, **query: Any) -> Any:
    """What the API behind the UI answers."""
    with urllib.request.urlopen(f"{ui}/apis/v2beta1/{path}?{urllib.parse.urlencode(query)}", timeout=60) as answer:
        return json.load(answer)


def newest(ui: str, pipeline: str) -> tuple[str, str, str]:
    """A pipeline's id, its newest version's, and that of the newest run of it that succeeded."""
    by_age = {"sort_by": "created_at desc", "page_size": 100}
    (here,) = (p for p in asked(ui, "pipelines", page_size=100)["pipelines"] if p["display_name"] == pipeline)
    of_it = here["pipeline_id"]
    version = asked(ui, f"pipelines/{of_it}/versions", **by_age)["pipeline_versions"][0]["pipeline_version_id"]
    runs = (r for r in asked(ui, "runs", **by_age)["runs"] if r["state"] == "SUCCEEDED")
    run = next(r for r in runs if r.get("pipeline_version_reference", {}).get("pipeline_id") == of_it)
    return of_it, version, run["run_id"]


class Camera:
    """A window on the UI that is photographed when it has settled."""

    def __init__(self, page: Page, ui: str, out: Path) -> None:
        self.page, self._ui, self._out = page, ui, out
        page.set_default_timeout(PATIENCE)

    def go(self, to: str, until: str, height: int = 760) -> None:
        """Open a page of the UI and wait for what it is opened for."""
        self.page.set_viewport_size({"width": 1500, "height": height})
        self.page.goto(f"{self._ui}/#/{to}")
        self.page.locator(until).first.wait_for()
        self.page.wait_for_timeout(3000)  # pictures and tables come one after another

    def shoot(self, name: str, of: Locator | None = None, **how: Any) -> None:
        """Take the picture, of the window or of something in it."""
        (of or self.page).screenshot(path=str(self._out / f"{name}.png"), **how)

    def node(self, label: str, under: str = "") -> ElementHandle:
        """The box of the graph that is called so; of several, the one nearest under another box."""
        found = [e for e in self.page.query_selector_all(".react-flow__node") if e.inner_text().strip() == label]
        if not under:
            return found[0]
        x, y = _middle(self.node(under))
        return min((e for e in found if _middle(e)[1] > y), key=lambda e: abs(_middle(e)[0] - x) + _middle(e)[1] - y)

    def look_at(self, label: str) -> None:
        """Move the graph until a box is in the middle of what the panel leaves free, and come nearer."""
        x, y = 470, 430
        for _ in range(40):
            at_x, at_y = _middle(self.node(label))
            if abs(x - at_x) < 5 and abs(y - at_y) < 5:
                break
            self._drag(x, y, max(-200, min(200, x - at_x)), max(-200, min(200, y - at_y)))
        self.page.mouse.move(x, y)
        self.page.mouse.wheel(0, -450)
        self.page.wait_for_timeout(1000)

    def _drag(self, x: float, y: float, by_x: float, by_y: float) -> None:
        # Beside a box: the graph moves by what lies between them.
        self.page.mouse.move(x, y - 250)
        self.page.mouse.down()
        self.page.mouse.move(x + by_x, y - 250 + by_y, steps=4)
        self.page.mouse.up()

    def open(self, node: ElementHandle, tab: str) -> None:
        """Click on a box, and on a tab of what opens beside the graph."""
        inner = node.query_selector("button, div") or node
        inner.dispatch_event("click")
        self.page.get_by_text(tab, exact=True).first.click()
        self.page.wait_for_timeout(4000)


def _middle(node: ElementHandle) -> tuple[float, float]:
    box = node.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def form(camera: Camera, pipeline: str, version: str) -> None:
    """The form up to the first settings of a stage."""
    camera.go(f"runs/new?pipelineId={pipeline}&pipelineVersionId={version}", "text=Run parameters", 2200)
    top = camera.page.get_by_text("Run parameters", exact=True).bounding_box()
    end = camera.page.get_by_label("settings_demonstrations", exact=False).first.bounding_box()
    assert top is not None
    assert end is not None
    clip = {"x": 200, "y": top["y"] - 10, "width": 700, "height": end["y"] + end["height"] - top["y"] + 20}
    camera.shoot("form", clip=clip)


def run(camera: Camera, of_it: str) -> None:
    """A run's graph with the page of its report, and the page of one evaluation alone."""
    camera.go(f"runs/details/{of_it}", ".react-flow__node")
    camera.look_at(STAGE)
    camera.open(camera.node("page", under=STAGE), "Visualization")
    camera.shoot("run")
    camera.open(camera.node("page", under="run_report"), "Visualization")
    camera.shoot("page", of=camera.page.locator("iframe").first)


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ui", help="the UI's address")
    parser.add_argument("--chromium", help="a browser that is there already")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    asked_for = parser.parse_args()
    pipeline, version, first = newest(asked_for.ui, "sft-rl-distil")
    second = newest(asked_for.ui, "sft-replay")[2]
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=asked_for.chromium)
        camera = Camera(browser.new_page(), asked_for.ui, asked_for.out)
        form(camera, pipeline, version)
        run(camera, first)
        camera.go(f"compare?runlist={first},{second}", "text=Scalar Metrics")
        camera.page.get_by_text("Parameters", exact=True).click()
        camera.page.wait_for_timeout(1500)
        camera.shoot("compare")
        camera.go("recurringruns", "text=nightly", 300)
        camera.shoot("recurring", clip={"x": 0, "y": 0, "width": 1500, "height": 227})
        browser.close()


if __name__ == "__main__":
    main()
