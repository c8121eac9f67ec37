"""A page in a headless browser, by Playwright: screenshots, paint times, tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = ("chromium", "chromium-browser", "google-chrome")


def missing_browser() -> str:
    """Return what is missing for pages to be opened, and how to install it; "" if nothing is."""
    if find_spec("playwright") is None:
        return "Playwright is not installed; pip install playwright"
    if not any(map(shutil.which, NAMES)):
        return f"no browser is installed; install one of {', '.join(NAMES)}"
    return ""


@contextmanager
def browser_page(
    *, width: int = 1280, height: int = 900, dark: bool = False, scale: float = 1.0
) -> Iterator["Page"]:
    """Open a page of a browser of its own, and close it at the end.

    Args:
        width: Width of the window, CSS pixels; below 600 it is a phone's.
        height: Height of the window, CSS pixels.
        dark: Whether the user prefers dark colours.
        scale: Device pixels per CSS pixel.

    Raises:
        ValueError: if Playwright or a browser is missing.
    """
    if missing := missing_browser():
        raise ValueError(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, NAMES)))
        browser = playwright.chromium.launch(executable_path=path)
        yield browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            device_scale_factor=scale,
            is_mobile=width < 600,
        )
        browser.close()


def complaints(page: "Page") -> list[str]:
    """Return what a page said on its console, and its uncaught errors."""
    return [message.text for message in page.console_messages()] + [
        str(error) for error in page.page_errors()
    ]
