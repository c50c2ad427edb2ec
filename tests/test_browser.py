"""The report in a real browser: slices follow slider, keys, wheel, methods; fits a phone, no network."""

import re
import shutil

import papermill
import pytest
from PIL import Image

from lib.files import ROOT
from lib.prediction.store import predicted_cases
from lib.report.render import build_report
from lib.report.scrubber import COLUMNS

pytestmark = pytest.mark.chromium


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The published quick report, its notebook executed anew for every patient and rendered by this code."""
    project = tmp_path_factory.mktemp("project")
    folder = project / "outputs" / "phantom-quick"
    published = ROOT / "outputs" / "published" / "phantom-quick"
    shutil.copytree(published, folder, ignore=shutil.ignore_patterns("pages", "*.ipynb", "*.html"))
    (project / "outputs" / "cohorts").symlink_to(ROOT / "outputs" / "cohorts")
    notebook = ROOT / "notebooks" / "05_report.ipynb"
    (folder / "figures").mkdir()  # what is published has none: its report holds them
    for name in set(re.findall(r"fig\d+_\w+", notebook.read_text())):
        Image.new("RGB", (800, 300), "white").save(folder / "figures" / f"{name}.png")
    papermill.execute_notebook(
        str(notebook),
        str(folder / "05_report.ipynb"),
        {"experiment": "phantom-quick", "patients": 0},
        kernel_name="python3",
        cwd=str(project),
        progress_bar=False,
    )
    build_report(folder)
    return folder / "report.html"


def test_every_patient_is_shown_in_the_report_that_is_asked_to(report):
    steps = (report.parent / "results" / "02_steps.npz").exists()
    count = report.read_text().count('class="scrub"')
    assert count == len(predicted_cases(report.parent, "baseline")) + steps > 1


@pytest.fixture
def page(browser, report):
    """The report opened offline; nothing may be logged as an error or asked of a network."""
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 800})
    opened, wrong = context.new_page(), []
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None
    )
    opened.goto(report.as_uri())
    yield opened
    context.close()
    assert not wrong


def tile(view):
    """Number of the tile that the first frame shows."""
    x, y = (
        float(p.removesuffix("px"))
        for p in view.locator(".frame").first.evaluate("f => f.style.backgroundPosition").split()
    )
    width, height = (float(view.get_attribute(f"data-{side}")) for side in ("width", "height"))
    return round(-x / width) + COLUMNS * round(-y / height)


def test_the_slices_follow_slider_keys_and_wheel(page):
    view = page.locator(".scrub").first
    slider = view.locator("input")
    slider.evaluate("s => { s.value = 3; s.dispatchEvent(new Event('input')); }")
    assert tile(view) == 3 and view.locator("output").inner_text() == eval_label(view, 3)
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert tile(view) == 4
    view.locator(".frames").hover()
    page.mouse.wheel(0, -100)
    page.wait_for_function("() => document.querySelector('.scrub input').value === '5'")
    assert tile(view) == 5 and view.locator("output").inner_text() == eval_label(view, 5)
    for _ in range(4):  # a touchpad's ticks add up to a slice
        page.mouse.wheel(0, -10)
    page.wait_for_function("() => document.querySelector('.scrub input').value === '6'")
    view.locator(".frame").first.click()
    page.keyboard.press("ArrowLeft")
    assert tile(view) == 5
    assert tile(page.locator(".scrub").nth(1)) != 5  # the other patient stays where it was


def eval_label(view, number):
    return view.evaluate("(v, i) => JSON.parse(v.dataset.labels)[i]", number)


def test_a_moved_slice_is_another_picture(page):
    frames = page.locator(".scrub .frames").first
    before = frames.screenshot()
    page.locator(".scrub input").first.focus()
    page.keyboard.press("Home")
    assert frames.screenshot() != before


def test_the_list_of_methods_chooses_what_is_shown(page):
    view = page.locator(".scrub").first
    for method in view.locator("option").all_inner_texts():
        view.locator("select").select_option(method)
        shown = [figure.inner_text() for figure in view.locator("figure:visible").all()]
        assert len(shown) == 3 and shown[0] == "planned dose" and all(method in title for title in shown[1:])


@pytest.mark.parametrize("width", [400, 800, 1400])
def test_the_page_fits_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("img").evaluate_all(
        "all => all.every(i => i.alt && i.complete && i.naturalWidth > 0)"
    )


def test_the_contents_lead_to_their_sections(page):
    links = page.locator('a[href^="#"]:not(.anchor-link)').all()
    assert len(links) == 7
    for link in links:
        name = link.get_attribute("href").removeprefix("#")
        assert page.evaluate("name => !!document.getElementById(decodeURIComponent(name))", name), name


def test_a_table_sorts_by_the_column_that_is_clicked_and_back(page):
    table = page.locator(".output table").first
    button = table.locator("thead button").nth(1)

    def column():
        return [
            float(text.split()[0]) for text in table.locator("tbody tr td:nth-of-type(1)").all_inner_texts()
        ]

    button.click()
    assert column() == sorted(column()) and table.locator("th[aria-sort=ascending]").count() == 1
    button.focus()
    page.keyboard.press("Enter")
    assert (
        column() == sorted(column(), reverse=True) and table.locator("th[aria-sort=descending]").count() == 1
    )
    table.locator("thead button").first.click()
    names = table.locator("tbody th").all_inner_texts()
    assert names[:2] == ["baseline", "control"]


def test_every_figure_and_every_table_has_a_caption(page):
    assert page.locator("figure[id]").count() > 9 and page.locator("table").count() > 9
    assert page.locator("figure[id]:not(:has(figcaption))").count() == 0
    assert page.locator("table:not(:has(caption))").count() == 0


def test_the_answers_stand_on_the_first_screen_and_no_code_anywhere(page):
    box = page.locator(".celltag_answer").bounding_box()
    assert box["y"] + box["height"] <= 800 and page.locator(".celltag_answer strong").count() == 5
    assert page.locator(".input, details.code").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_page(page, scheme):
    """Contrast of text and links against their background, WCAG 2.1: 4.5 at least."""
    page.emulate_media(color_scheme=scheme)
    for selector in ("figcaption", "caption", "a", "td", ".celltag_answer p", ".celltag_kicker p"):
        assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector


CONTRAST = (
    "node => {\n"
    "  const light = css => { const c = css.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255).map(v => "
    "v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);\n"
    "                         return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]; };\n"
    "  const paper = node => { const c = getComputedStyle(node).backgroundColor; return c !== 'rgba(0, "
    "0, 0, 0)' || !node.parentElement ? c : paper(node.parentElement); };\n"
    "  const [a, b] = [light(getComputedStyle(node).color), light(paper(node))].sort((x, y) => y - x);\n"
    "  return (a + 0.05) / (b + 0.05);\n"
    "}"
)
