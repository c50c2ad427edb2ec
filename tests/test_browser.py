"""The report in a real browser: slices follow slider, keys, wheel, lists; pointers read doses; no network."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import papermill
import pytest
from PIL import Image

from lib.cases.cohort import open_cohort
from lib.files import ROOT
from lib.prediction.store import predicted_cases
from lib.report import scrubber, slices
from lib.report.render import build_report
from lib.report.views import load_dose

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
    opened.wait_for_function(DRAWN)
    yield opened
    context.close()
    assert not wrong


DRAWN = "() => [...document.querySelectorAll('.scrub output')].every(said => said.value)"


def at(page, number=0):
    """The slice that a view shows."""
    return int(page.locator(".scrub input").nth(number).input_value())


def picture(page, number=0):
    """A picture of the first view as it is drawn."""
    return page.locator(".scrub canvas").nth(number).evaluate("c => c.toDataURL()")


def test_the_slices_follow_slider_keys_and_wheel(page):
    view, before, other = page.locator(".scrub").first, picture(page), at(page, 1)
    slider = view.locator("input")
    slider.evaluate("s => { s.value = 3; s.dispatchEvent(new Event('input')); }")
    assert at(page) == 3 and picture(page) != before
    below = float(view.locator("output").inner_text().split()[0])
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert at(page) == 4 and float(view.locator("output").inner_text().split()[0]) > below
    view.locator("canvas").first.hover()
    page.mouse.wheel(0, -100)
    page.wait_for_function("() => document.querySelector('.scrub input').value === '5'")
    for _ in range(4):  # a touchpad's ticks add up to a slice
        page.mouse.wheel(0, -10)
    page.wait_for_function("() => document.querySelector('.scrub input').value === '6'")
    view.locator("canvas").first.click()
    page.keyboard.press("ArrowLeft")
    assert at(page) == 5 and at(page, 1) == other  # the other patient stays where it was


@pytest.mark.parametrize("plane", slices.PLANES)
def test_a_pointer_reads_the_dose_of_the_voxel_under_it(page, report, plane):
    cohort = open_cohort(ROOT / "outputs" / "cohorts" / "phantom")
    case = cohort.load(page.locator(".scrub strong").first.inner_text())
    page.locator(".scrub .plane").first.select_option(plane)
    method = page.locator(".scrub .method").first.input_value()
    dose_gy = load_dose(report.parent, method, case).dose_gy
    part, axis = scrubber.shown_part(case), slices.PLANES[plane]
    rows, columns = (n for a, n in enumerate(dose_gy[part].shape) if a != axis)
    canvas = page.locator(".scrub canvas").nth(1)
    box = canvas.bounding_box()
    for row, column in ((rows // 2, columns // 2), (rows // 3, columns // 2), (rows // 2, columns // 3)):
        place = {"x": (column + 0.5) * box["width"] / columns, "y": (row + 0.5) * box["height"] / rows}
        canvas.hover(position=place)
        said = page.locator(".scrub .point").first.inner_text()
        planned, predicted = (slices.take_slice(v[part], plane, at(page)) for v in (case.dose_gy, dose_gy))
        if not slices.take_slice(case.dose_mask[part], plane, at(page))[row, column]:
            assert "no dose is known" in said
            continue
        gy = [float(text) for text in re.findall(r"([-+]?\d+\.\d) Gy", said)]
        there = planned[row, column], predicted[row, column]
        assert np.allclose(gy, [*there, there[1] - there[0]], atol=0.11), said


def test_a_click_moves_the_other_planes_to_the_point(page):
    page.locator(".scrub canvas").first.click(position={"x": 100, "y": 80})
    page.locator(".scrub .plane").first.select_option("sagittal")
    first = at(page)
    page.locator(".scrub .plane").first.select_option("axial")
    page.locator(".scrub canvas").first.click(position={"x": 160, "y": 80})
    page.locator(".scrub .plane").first.select_option("sagittal")
    assert at(page) > first


def test_the_list_of_methods_chooses_what_is_shown(page):
    view, seen = page.locator(".scrub").first, set()
    for method in view.locator(".method option").all_inner_texts():
        view.locator(".method").select_option(method)
        page.wait_for_timeout(100)
        seen.add(picture(page, 1))
    assert len(seen) == view.locator(".method option").count() > 3


@pytest.mark.parametrize("width", [400, 800, 1400])
def test_the_page_fits_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("img").evaluate_all(
        "all => all.every(i => i.alt && i.complete && i.naturalWidth > 0)"
    )


@pytest.mark.parametrize("experiment", ["phantom-quick", "openkbp"])
def test_a_published_report_prints_on_at_most_16_pages_of_paper(experiment, browser, tmp_path):
    """What is folded stays so, unless a reader opened it."""
    published, template = ROOT / "outputs" / "published" / experiment, ROOT / "lib" / "report" / "template"
    if not (published / "report.html").exists():
        pytest.skip("not in this checkout")
    html = (published / "report.html").read_text()
    style = f"<style>{(template / 'report.css').read_text()}</style>"
    html = re.sub(r"<style>.*?</style>", lambda _: style, html, flags=re.DOTALL)
    (tmp_path / "a.html").write_text(html)
    opened = browser.new_page()
    opened.goto((tmp_path / "a.html").as_uri())
    opened.wait_for_function(DRAWN)
    pdf = opened.pdf(prefer_css_page_size=True)
    opened.close()
    assert 8 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 16


def test_the_contents_lead_to_every_section_in_order(page):
    links = page.locator('a[href^="#"]:not(.anchor-link)')
    names = links.evaluate_all("links => links.map(link => decodeURIComponent(link.hash.slice(1)))")
    assert names == page.locator("h2").evaluate_all("heads => heads.map(head => head.id)")


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


@pytest.mark.axe
@pytest.mark.parametrize("width", [400, 1280])
def test_axe_finds_nothing_serious(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate("for (const folded of document.querySelectorAll('details')) folded.open = true")
    page.evaluate(Path(os.environ["AXE_FILE"]).read_text())
    violations = page.evaluate("axe.run()")["violations"]
    assert not [v["id"] for v in violations if v["impact"] in ("serious", "critical")]


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
