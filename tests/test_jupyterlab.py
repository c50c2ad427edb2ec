"""The explorer in JupyterLab in a real browser: it opens, follows wheel, keys, slider, pointer, samples anew.

It asks no network.
"""

import shutil

import numpy as np
import pytest
from lab import jupyterlab, open_notebook

from lib.explorer.controls import find_choices
from lib.explorer.explorer import open_sight
from lib.explorer.sight import voxel_at
from lib.files import ROOT
from lib.report import views
from lib.studies.experiment import find_experiment

pytestmark = pytest.mark.chromium


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A place of its own with the notebook, the cohort and the committed predictions of the quick report."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(ROOT / "notebooks" / "explore.ipynb", folder)
    (folder / "outputs").mkdir()
    (folder / "outputs" / "cohorts").symlink_to(ROOT / "outputs" / "cohorts")
    shutil.copytree(
        ROOT / "outputs" / "published" / "phantom-quick" / "predictions",
        folder / "outputs" / "published" / "phantom-quick" / "predictions",
    )
    return folder


@pytest.fixture(scope="module")
def page(browser, folder):
    """The notebook with all cells run; nothing may go wrong in the page or be asked of another machine."""
    with jupyterlab(folder) as address:
        opened, wrong = open_notebook(browser, address, "explore.ipynb")
        opened.locator(".dose-panels[data-painted]").wait_for()
        opened.wait_for_function(
            "() => { const c = document.querySelector('.dose-panels canvas'); "
            "return Math.abs(c.width - c.parentElement.clientWidth) < 4; }"
        )  # drawn again as large as there is room
        yield opened
        opened.context.close()
    assert not wrong


def slider(page, name="slice"):
    """Value of a slider as it is shown."""
    return int(page.locator(".widget-slider", has_text=name).locator(".widget-readout").inner_text())


def wait_for_slice(page, index):
    page.wait_for_function(
        "v => [...document.querySelectorAll('.widget-slider')].some(s => s.innerText.includes('slice') && "
        "s.querySelector('.widget-readout').innerText === v)",
        arg=str(index),
    )


def painted_after(page, action):
    before = page.locator(".dose-panels").get_attribute("data-painted")
    action()
    page.wait_for_function(
        "before => document.querySelector('.dose-panels').dataset.painted !== before", arg=before
    )


def pixels(page):
    return page.locator(".dose-panels canvas").first.evaluate("c => c.toDataURL()")


def test_the_wheel_and_the_keys_turn_slices(page):
    start, before = slider(page), pixels(page)
    page.locator(".dose-panels canvas").first.hover()
    painted_after(page, lambda: page.mouse.wheel(0, -100))
    wait_for_slice(page, start + 1)
    assert pixels(page) != before
    page.locator(".dose-panels").focus()
    painted_after(page, lambda: page.keyboard.press("ArrowDown"))
    wait_for_slice(page, start)
    assert pixels(page) == before


def test_the_read_out_matches_the_arrays(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    run = find_experiment("phantom-quick")
    case_ids, _, _ = find_choices(run, "", "")
    view = views.open_view(run.open_cohort().load(case_ids[0]), [])
    canvas = page.locator(".dose-panels canvas").first
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 150.5, box["y"] + 80.5)
    readout = page.locator(".dose-panels .dose-readout")
    readout.filter(has_text="planned").wait_for()
    scale = canvas.evaluate("c => c.width / c.getBoundingClientRect().width")
    seen = view._replace(index=slider(page), size_px=canvas.evaluate("c => c.width"))
    seen = seen._replace(box=open_sight(view.case, "axial").box)
    voxel = voxel_at(seen, 150.5 * scale, 80.5 * scale)
    assert (
        f"planned {view.case.dose_gy[voxel]:.2f} Gy" in readout.inner_text()
        and f"CT {view.case.ct_hu[voxel]} HU" in readout.inner_text()
    )
    page.mouse.move(2, 2)
    page.wait_for_function("() => document.querySelector('.dose-panels .dose-readout').textContent === ''")


def test_a_hundred_slices_show_the_last_one(page):
    """Faster than they can be drawn: what is seen in the end is where the wheel stopped."""
    page.locator(".dose-panels").focus()
    painted_after(page, lambda: page.keyboard.press("Home"))
    page.wait_for_timeout(300)
    page.locator(".dose-panels canvas").first.evaluate(
        "c => { for (let i = 0; i < 12; i++) for (const deltaY of [-100, -25, -25, 40, -40]) "
        "c.dispatchEvent(new WheelEvent('wheel', {deltaY, bubbles: true, cancelable: true})); }"
    )
    wait_for_slice(page, 24)  # a wheel's tick is a slice, and 50 pixels of a touchpad are


def test_a_click_leads_all_planes_there_and_the_wheel_with_ctrl_zooms(page):
    captions = page.locator(".dose-panels figcaption")
    page.get_by_role("button", name="whole", exact=True).click()
    page.wait_for_timeout(500)
    canvas, before = page.locator(".dose-panels canvas").nth(1), captions.all_inner_texts()
    painted_after(page, lambda: canvas.click(position={"x": 40, "y": 30}))
    page.wait_for_timeout(500)
    after = captions.all_inner_texts()
    assert after[0] != before[0] and after[1] == before[1] and after[2] != before[2]
    whole = pixels(page)
    canvas.hover()
    page.keyboard.down("Control")
    painted_after(page, lambda: page.mouse.wheel(0, -100))
    page.keyboard.up("Control")
    assert pixels(page) != whole
    painted_after(page, lambda: page.get_by_role("button", name="whole", exact=True).click())
    page.wait_for_timeout(300)
    assert pixels(page) == whole and captions.all_inner_texts() == after


def test_the_dvh_is_on_the_screen_with_the_slices_and_says_what_is_under_the_pointer(page):
    plot, panels = page.locator(".dose-plot img"), page.locator(".dose-panels")
    boxes = [part.bounding_box() for part in (panels, plot)]
    assert abs(boxes[0]["y"] - boxes[1]["y"]) < 40 and boxes[1]["x"] >= boxes[0]["x"] + boxes[0]["width"]
    plot.hover()
    page.locator(".dose-plot .dose-readout", has_text="Gy or more: planned").wait_for()


def test_the_page_says_what_is_wrong_and_goes_on(page):
    """Sampling anew without a checkpoint is not offered, with a sentence."""
    page.get_by_text("sample anew", exact=True).click()
    page.get_by_text("train it to sample anew").wait_for()
    assert page.get_by_role("button", name="sample", exact=True).is_disabled()


def test_it_fits_a_narrow_window(page):
    page.set_viewport_size({"width": 400, "height": 900})
    page.wait_for_timeout(500)
    widths = page.locator(".dose-panels canvas").evaluate_all(
        "all => all.map(c => c.getBoundingClientRect().width)"
    )
    assert widths and max(widths) <= 400
    page.set_viewport_size({"width": 1400, "height": 1000})


@pytest.mark.parametrize("plane", ["c", "s", "a"])
def test_planes_by_key(page, plane):
    page.locator(".dose-panels").focus()
    shape = np.array(page.locator(".dose-panels canvas").first.evaluate("c => [c.height, c.width]"))
    page.keyboard.press(plane)
    page.wait_for_function(
        "s => { const c = document.querySelector('.dose-panels canvas'); return c.height !== s[0] || c.width "
        "!== s[1]; }",
        arg=shape.tolist(),
    )
