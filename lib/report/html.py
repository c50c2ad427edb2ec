"""The report: one self-contained page per experiment, and the executed notebooks as pages beside it."""
import base64
import re
from pathlib import Path

import jinja2
import nbformat
from markupsafe import Markup, escape
from nbconvert import HTMLExporter

from lib.files import read_json, write_text
from lib.report import sentences, tables

HERE = Path(__file__).parent
CAPTIONS = {
    "fig2_sampling_steps_ablation": "Figure 2. A, error against the number of sampling steps on the reference's grid and with the first "
    "noise level held; bands are 95 % intervals over patients; dashed, the regression on the same patients. B, time per patient.",
    "fig3_ensemble_averaging": "Figure 3. A, error of a mean of n samples; ticks at n = 1 are single members. B, squared error "
    "against 1 / n: the intercept is the floor that no averaging removes.",
    "fig1_ddpm_training_curves": "Figure 1. A, training loss. B, error on validation patients during training, averaged weights.",
    "fig4_model_comparison": "Figure 4. Error of every method on the test patients, a dot per patient, the mean with its 95 % interval. "
    "A, in the dose mask. B, over the whole volume, air included.",
    "fig5_key_finding": "Figure 5. Paired difference of every method to the baseline with its 95 % interval. The grey band is the margin "
    "that a difference must exceed to be called one.",
    "fig6_dose_panels": "Figure 6. Planned and predicted doses of one test patient through the middle of the target, with the 95 % and "
    "50 % isodoses, and below the difference predicted - planned where it exceeds 1 Gy. Of a sampled method the mean of its samples.",
    "fig7_dvhs": "Figure 7. Dose-volume histograms of the same patient: planned as lines, predicted dashed.",
    "fig0_planned_dvhs": "Planned dose-volume histograms of the cohort by structure.",
    "fig0_patients": "Patients of the cohort, those with findings first: planned dose on CT, axial and coronal.",
}


def build_report(folder):
    """Write report.html and the notebooks' pages from the results, figures and executed notebooks of `folder`."""
    folder = Path(folder)
    for notebook in sorted(folder.glob("[0-9]*.ipynb")):
        write_text(folder / "pages" / f"{notebook.stem}.html", notebook_page(notebook))
    write_text(folder / "report.html", environment().get_template("report.html.jinja").render(**contents(folder)))


def environment():
    loader = jinja2.FileSystemLoader(HERE)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def contents(folder):
    """Everything the template shows."""
    results = {path.stem: read_json(path) for path in sorted((folder / "results").glob("0*.json"))}
    data, steps, ensemble, comparison = (results.get(name) for name in
                                         ("00_cohort", "02_sampling_ablation", "03_ensemble", "04_comparison"))
    published = folder / "results" / "published.json"
    return dict(
        name=folder.name, css=Markup((HERE / "report.css").read_text(encoding="utf-8")), data=data, steps=steps, ensemble=ensemble,
        comparison=comparison, published=read_json(published) if published.exists() else None,
        figure=lambda name: figure(folder, name), table=table, tables=tables, markdown=bullets,
        answer=inline(sentences.answer(comparison["rows"], comparison["margin_gy"])) if comparison else "",
        verdicts=verdicts(steps, ensemble, comparison), pages=sorted(path.stem for path in (folder / "pages").glob("*.html")),
    )


def verdicts(steps, ensemble, comparison):
    """Section -> its verdict, written from the numbers."""
    found = {}
    if steps:
        found["steps"] = sentences.steps_verdict(steps["rows"], steps["regression_rows"], steps["method"], steps["regression"], steps["margin_gy"])
    if ensemble:
        found["ensemble"] = sentences.ensemble_verdict(ensemble["rows"], ensemble["regression_rows"], ensemble["method"],
                                                       ensemble["regression"], ensemble["margin_gy"])
    if comparison:
        found["comparison"] = sentences.comparison_verdict(comparison["rows"], comparison["margin_gy"])
    return found


def figure(folder, name):
    """An <img> with the PNG inside, its caption below; a sentence if the figure was not made."""
    path = folder / "figures" / f"{name}.png"
    if not path.exists():
        return Markup("<p class=missing>{} was not made in this run.</p>").format(name)
    data = base64.b64encode(path.read_bytes()).decode()
    caption = CAPTIONS[name]
    return Markup('<figure id="{}"><img alt="{}" src="data:image/png;base64,{}"><figcaption>{} <a href="figures/{}.pdf">PDF</a>'
                  "</figcaption></figure>").format(name, caption, data, caption, name)


def table(frame):
    """A data frame as an HTML table whose cells are escaped."""
    return Markup('<div class="scroll">{}</div>').format(Markup(frame.to_html(escape=True, border=0, na_rep="")))


def bullets(text):
    """Lines that begin with "- " as a list."""
    return Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(inline(line.removeprefix("- ")))
                                                        for line in text.split("\n")))


def inline(text):
    """`code` and **bold** as in Markdown, all else escaped."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text))


def notebook_page(path):
    """An executed notebook in the report's own look, its code folded."""
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(without_widgets(nbformat.read(path, as_version=4)))
    css = Markup((HERE / "report.css").read_text(encoding="utf-8"))
    return environment().get_template("notebook.html.jinja").render(title=path.stem, css=css, body=Markup(body))


def without_widgets(notebook):
    """Widgets need a kernel: only their static companions stay in a page."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if "application/vnd.jupyter.widget-view+json" not in o.get("data", {})]
    notebook.metadata.pop("widgets", None)
    return notebook
