"""The page as a person meets it: opened from disk, used with a pointer, with keys, and without scripts."""

import pytest
from browser import Browser, installed

if not installed():
    # Here, and not as a mark of each test: one line is said, not one a test.
    pytest.skip("no chromium with chromedriver here: the page is not opened in a browser", allow_module_level=True)
SHOWN = "return [...document.querySelectorAll('.set')].map(s => getComputedStyle(s).display != 'none');"
STRIP = "return document.querySelector('.strip').style.transform;"
SAID = "return document.querySelector('.plot .said').textContent;"
CURSORS = "return [...document.querySelectorAll('.cursor')].map(line => line.getAttribute('x1'));"
PAPER = "return getComputedStyle(document.body).backgroundColor;"


def change(name: str, value: str, event: str = "input") -> str:
    return f"const s = document.getElementById('{name}'); s.value = '{value}'; s.dispatchEvent(new Event('{event}'));"


@pytest.fixture(scope="module")
def browser(page):
    with Browser() as found:
        found.colours("light")
        found.open(page)
        yield found
        assert found.complaints() == []


def test_nothing_is_asked_of_a_network(browser):
    assert browser.run("return document.title") == "Which quantized model to use"
    asked = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in asked if not name.startswith("data:")] == []


def test_images_are_switched_and_zoomed(browser):
    assert browser.run(SHOWN) == [True, False, False]
    assert browser.run(change("sample", "2", "change") + SHOWN) == [False, True, False]
    width = "return document.querySelector('.set:not([hidden]) img').getBoundingClientRect().width;"
    assert browser.run(width) == 192
    assert browser.run(change("zoom", "320") + width) == 320


def test_steps_are_scrubbed(browser):
    before = browser.run(CURSORS)
    assert browser.run(change("step", "1") + STRIP) == "translateX(-25%)"
    assert browser.run("return document.getElementById('step-said').textContent") == "t = 50 (2 of 4)"
    assert browser.run(SAID).startswith("t = 50: rtn W8A8 ")
    assert all(a != b for a, b in zip(before, browser.run(CURSORS), strict=True))


def test_figures_are_read_with_a_pointer_and_with_keys(browser):
    point = (
        "const svg = document.querySelector('.plot svg'), area = svg.getBoundingClientRect();"
        "const at = {clientX: area.left + 0.2 * area.width, clientY: area.top + 0.5 * area.height};"
        "svg.dispatchEvent(new PointerEvent('pointermove', at));"
    )
    assert browser.run(point + SAID).startswith("t = 75: ") and browser.run(STRIP) == "translateX(0%)"
    browser.run("document.querySelector('.plot .wide').focus()")
    press = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'Arrow%s'}));"
    assert browser.run(press % "Right" + SAID).startswith("t = 50: ")
    assert browser.run(press % "Left" * 3 + SAID).startswith("t = 75: ")
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.run("[...document.querySelectorAll('.wide')].find(r => r.ariaLabel.startsWith('Outputs')).focus()")
    map_said = "return document.activeElement.parentElement.querySelector('.said').textContent;"
    rows = [browser.run(press % "Up" * 40 + map_said), browser.run(press % "Down" + map_said)]
    assert rows[0].startswith("t = 75: conv_in ") and not rows[1].startswith("t = 75: conv_in ")
    assert browser.run("return document.activeElement.parentElement.querySelector('.said').ariaLive") == "polite"


def test_every_control_is_reached_with_the_tab_key(browser):
    reached = browser.run(
        "return ['select', 'input', 'summary', 'a', '.wide'].every(s => "
        "[...document.querySelectorAll(s)].every(e => e.tabIndex >= 0))"
    )
    named = browser.run("return [...document.querySelectorAll('select, input')].every(e => e.labels.length == 1)")
    assert reached and named


def test_light_dark_and_phone(browser, tmp_path):
    light = browser.run(PAPER)
    browser.screenshot(tmp_path / "light.png")
    browser.colours("dark")
    assert light == "rgb(255, 255, 255)" and browser.run(PAPER) == "rgb(20, 23, 27)"
    browser.screenshot(tmp_path / "dark.png")
    browser.width(390)
    assert browser.run("return document.documentElement.scrollWidth") == 390
    browser.screenshot(tmp_path / "phone.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("light", "dark", "phone"))


def test_the_essentials_need_no_script(page):
    with Browser() as browser:
        browser.devtools("Emulation.setScriptExecutionDisabled", value=True)
        browser.open(page)
        browser.devtools("Emulation.setScriptExecutionDisabled", value=False)
        assert browser.run("return [...document.querySelectorAll('.set')].every(s => s.offsetHeight > 0)")
        assert browser.run("return [...document.querySelectorAll('.controls, .said')].every(c => c.offsetHeight == 0)")
        assert browser.run("return document.querySelector('.lead').offsetHeight > 0")
