"""A picture of a report as a real Chromium draws it.

``python scripts/screenshot_report.py REPORT.html OUT.png [--width 1280] [--height 1600] [--scheme light|dark]``.
``--height 0`` takes the whole page. Needs selenium, chromium and chromedriver.
"""

import base64
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from harness.arguments import Parser, file_to_write, one_line_errors, positive
from harness.errors import UsageError

ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--no-first-run", "--hide-scrollbars"),
)


def browser(profile: Path) -> webdriver.Chrome:
    """A Chromium of its own profile that asks nothing of any network.

    Raises:
        FileNotFoundError: there is no chromium, or no chromedriver.
    """
    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if binary is None or driver is None:
        raise FileNotFoundError("chromium and chromedriver must be installed and on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(executable_path=driver))


def open_page(chrome: webdriver.Chrome, page: Path, *, width: int, height: int, scheme: str = "light") -> None:
    """Show a report in a window of this size and wait until it is drawn."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme_ = [{"name": "prefers-color-scheme", "value": scheme}]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme_})
    chrome.get(page.resolve().as_uri())
    WebDriverWait(chrome, 60).until(
        lambda driver: driver.execute_script("return document.documentElement.dataset.ready === 'yes'")
    )


def picture(chrome: webdriver.Chrome, out: Path, *, whole: bool) -> None:
    """Write what is shown, or the whole page, as PNG."""
    options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
    if whole:
        size = chrome.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
    out.write_bytes(base64.b64decode(chrome.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))


@one_line_errors
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    parser = Parser(
        prog="python scripts/screenshot_report.py", description="A picture of a report as Chromium draws it."
    )
    parser.add_argument("report", type=Path, metavar="REPORT.html")
    parser.add_argument("out", type=file_to_write, metavar="OUT.png")
    parser.add_argument("--width", type=positive, default=1280, help="pixels (1280)")
    parser.add_argument("--height", type=int, default=1600, help="pixels (1600); 0: the whole page")
    parser.add_argument("--scheme", choices=("light", "dark"), default="light", help="light")
    options = parser.parse_args(arguments)
    if not options.report.is_file():
        raise UsageError(f"{options.report}: no such file; make it with python -m harness.report")
    with tempfile.TemporaryDirectory() as profile:
        try:
            chrome = browser(Path(profile))
        except (FileNotFoundError, WebDriverException) as error:
            raise UsageError(f"no browser: {str(error).splitlines()[0]}") from error
        try:
            open_page(chrome, options.report, width=options.width, height=options.height or 1600, scheme=options.scheme)
            picture(chrome, options.out, whole=options.height == 0)
        finally:
            chrome.quit()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
