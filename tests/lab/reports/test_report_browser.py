"""The report in a real browser: Chromium without a window, driven through chromedriver."""

import shutil
import time

import pytest

from manyloss.lab.reports.page import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402  after the skip
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None,
    reason="chromium or chromedriver is not installed (Debian: apt-get install chromium chromium-driver)",
)

ARMS = ["equal", "gradnorm", "graddrop", "pcgrad", "mgda", "cosreg"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("chromium")
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.set_page_load_timeout(120)
    driver.set_script_timeout(120)
    yield driver
    driver.quit()


def show(browser, folder, *, width=1200, dark=False):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]},
    )
    browser.get_log("browser")
    browser.get(write_report(folder).as_uri())
    # On a busy machine chromedriver returns while the page is still read, before its script listens.
    until(browser, "return document.readyState === 'complete'")


def until(browser, script, *arguments):
    return WebDriverWait(browser, 60).until(
        lambda page: page.execute_script(script, *arguments), f"never true: {script}"
    )


def draw_everything(browser):
    """Open what is folded and scroll past every figure, as a reader would."""
    browser.execute_script("document.querySelectorAll('details').forEach((more) => { more.open = true; })")
    end = time.monotonic() + 120
    undrawn = (
        "return [...document.querySelectorAll('.plot')].find((plot) => !plot.querySelector('.main-svg'))"
    )
    while (plot := browser.execute_script(undrawn)) is not None:
        assert time.monotonic() < end, _about_the_undrawn(browser, plot)
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
        time.sleep(0.05)


def _about_the_undrawn(browser, plot):
    drawn, waiting, at = browser.execute_script(
        """
        const plots = [...document.querySelectorAll('.plot')];
        const drawn = plots.filter((plot) => plot.querySelector('.main-svg')).length;
        const box = arguments[0].getBoundingClientRect();
        return [`${drawn} of ${plots.length}`, arguments[0].querySelector('template') !== null,
                [box.left, box.top, box.width, box.height]];
        """,
        plot,
    )
    return (
        f"never drawn: {plot.get_attribute('aria-label')} ({drawn} are drawn; "
        f"{'nobody asked for it' if waiting else 'its script has run'}; it is at {at}; {errors(browser)})"
    )


def errors(browser):
    return [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def panel(browser, kind, index=0):
    return browser.find_elements(By.CSS_SELECTOR, f".plot.{kind}")[index]


VISIBLE = """
    const plot = arguments[0];
    const traces = plot.querySelector('.js-plotly-plot').data;
    const shown = traces.filter((trace) => trace.name && trace.visible !== false);
    const painted = plot.querySelectorAll('.scatterlayer .trace path.js-line').length;
    const bands = plot.querySelectorAll('.scatterlayer path.js-fill').length;
    return {names: shown.map((trace) => trace.name), painted, bands};
"""


def curves_in(browser, plot):
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    until(browser, "return arguments[0].querySelector('.main-svg') !== null", plot)
    return browser.execute_script(VISIBLE, plot)


@pytest.mark.parametrize("run", ["finished_run", "mixed_run", "wide_run"])
def test_everything_is_drawn_without_an_error(browser, run, request):
    show(browser, request.getfixturevalue(run))
    draw_everything(browser)
    assert errors(browser) == []


def test_every_method_is_shown(browser, finished_run):
    show(browser, finished_run)
    rows = browser.find_elements(By.CSS_SELECTOR, "tbody th[scope=row]")
    assert [row.text for row in rows[:6]] == ARMS
    buttons = browser.find_elements(By.CSS_SELECTOR, ".legend[aria-label=Methods] button[data-group]")
    assert [button.text for button in buttons] == ARMS
    assert curves_in(browser, panel(browser, "validation"))["names"] == ARMS


def test_a_click_on_the_legend_hides_a_curve_in_every_panel_and_another_brings_it_back(browser, finished_run):
    show(browser, finished_run)
    panels = [panel(browser, "validation", 1), panel(browser, "train", 0)]
    before = [curves_in(browser, plot) for plot in panels]
    button = browser.find_element(By.CSS_SELECTOR, ".legend[aria-label=Methods] button[data-group=pcgrad]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    for plot, was in zip(panels, before, strict=True):
        now = curves_in(browser, plot)
        assert now["names"] == [name for name in ARMS if name != "pcgrad"]
        assert now["painted"] < was["painted"]
        assert now["bands"] == was["bands"] - 1
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert [curves_in(browser, plot) for plot in panels] == before


def test_all_curves_can_be_hidden_and_shown_at_once(browser, finished_run):
    show(browser, finished_run)
    plot = panel(browser, "validation")
    before = curves_in(browser, plot)
    button = browser.find_element(By.CSS_SELECTOR, ".legend[aria-label=Methods] .all")
    button.click()
    assert curves_in(browser, plot)["names"] == []
    button.click()
    assert curves_in(browser, plot) == before


def test_a_loss_can_be_hidden_by_the_keyboard(browser, finished_run):
    show(browser, finished_run)
    plot = panel(browser, "weights")
    assert curves_in(browser, plot)["names"] == ["left", "right"]
    button = browser.find_element(By.CSS_SELECTOR, ".legend[aria-label=Losses] button[data-group=left]")
    button.send_keys("\ue007")
    assert curves_in(browser, plot)["names"] == ["right"]
    for each in browser.find_elements(By.CSS_SELECTOR, ".legend[aria-label=Losses] button[data-group=left]"):
        assert each.get_attribute("aria-pressed") == "false"


@pytest.mark.parametrize("run", ["finished_run", "mixed_run", "wide_run"])
def test_a_phone_scrolls_down_and_not_sideways(browser, run, request):
    show(browser, request.getfixturevalue(run), width=390)
    draw_everything(browser)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    too_wide = """
        return [...document.querySelectorAll('.plot, .plot .main-svg, h1, h2, h3, p, button, pre')]
            .filter((each) => each.getBoundingClientRect().right > innerWidth + 0.5)
            .map((each) => each.outerHTML.slice(0, 100))
    """
    assert browser.execute_script(too_wide) == []
    box = browser.find_element(By.CSS_SELECTOR, ".scroll")
    assert browser.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", box)


INK = """
    const lightness = (colour) => {
        const [red, green, blue] = colour.match(/[\\d.]+/g).map(Number);
        return (0.299 * red + 0.587 * green + 0.114 * blue) / 255;
    };
    const plot = arguments[0];
    return {
        page: lightness(getComputedStyle(document.body).backgroundColor),
        words: lightness(getComputedStyle(document.body).color),
        ticks: lightness(getComputedStyle(plot.querySelector('.xtick text')).fill),
        baseline: lightness(getComputedStyle(plot.querySelector('.scatterlayer path.js-line')).stroke),
    };
"""


def shades(browser):
    plot = panel(browser, "weights")
    curves_in(browser, plot)
    return browser.execute_script(INK, plot)


def test_dark_mode_is_dark_and_the_figures_follow(browser, finished_run):
    show(browser, finished_run)
    light = shades(browser)
    assert light["page"] > 0.95
    assert light["words"] < 0.2
    assert light["ticks"] < 0.5
    show(browser, finished_run, dark=True)
    dark = shades(browser)
    assert dark["page"] < 0.12
    assert dark["words"] > 0.85
    assert dark["ticks"] > 0.55
    assert dark["baseline"] > light["baseline"]


def test_figures_follow_a_change_of_mode_while_the_page_is_open(browser, finished_run):
    show(browser, finished_run)
    shades(browser)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    ticks = "return getComputedStyle(arguments[0].querySelector('.xtick text')).fill"
    until(
        browser, f"{ticks.replace('return', 'return (')}) === 'rgb(164, 168, 176)'", panel(browser, "weights")
    )


def test_printing_is_light_and_complete(browser, finished_run):
    show(browser, finished_run, dark=True)
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    until(
        browser,
        "return [...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg'))",
    )
    assert browser.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", **dark})
    ink = browser.execute_script(INK, panel(browser, "weights"))
    assert ink["page"] > 0.95
    assert ink["ticks"] < 0.5
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", **dark})
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(INK, panel(browser, "weights"))["page"] < 0.12
    assert errors(browser) == []


def test_a_slower_machine_gets_words_and_tables_without_javascript(browser, finished_run):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, finished_run)
        assert "beat equal weights beyond noise" in browser.find_element(By.CSS_SELECTOR, ".verdict").text
        assert len(browser.find_elements(By.CSS_SELECTOR, "tbody th[scope=row]")) >= 6
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
