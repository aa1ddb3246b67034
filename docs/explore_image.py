"""Make the image of the explorer: `python docs/explore_image.py ARCHIVE FILE`, with a Chromium."""

from __future__ import annotations

import shutil
import sys

from playwright.sync_api import ViewportSize, expect, sync_playwright

import harvester

STATE = "pair=XBTUSD&since=2026-01-27T12:00:00Z&until=2026-01-29T00:00:00Z&at=2026-01-28T03:30:00Z"
SIZE: ViewportSize = {"width": 1366, "height": 768}


def main(path: str, file: str) -> None:
    """Write what the page of an archive looks like."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with (
        harvester.open(path) as archive,
        archive.explore() as explorer,
        sync_playwright() as play,
    ):
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport=SIZE)
        page.goto(f"{explorer.url}#{STATE}")
        expect(page.locator("body")).to_have_attribute("data-ready", "true", timeout=30_000)
        expect(page.get_by_test_id("trades").locator("tr.here")).to_be_visible()
        page.screenshot(path=file)
        chromium.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
