"""The report: one self-contained page per experiment, and the executed notebooks as pages beside it."""

import re
from functools import partial
from itertools import count
from pathlib import Path

import jinja2
import nbformat
import yaml
from markupsafe import Markup, escape
from nbconvert import HTMLExporter
from PIL import Image

from lib.files import ROOT, read_json, write_text
from lib.models.methods import METHODS, kind
from lib.report import tables
from lib.report.answers import answer, answer_on_goals, answer_on_spread, answer_on_steps, best_result
from lib.report.captions import CAPTIONS, SPEED_CAPTIONS, counts, findings
from lib.report.claims import claims
from lib.report.pictures import pictures_to_webp, webp_uri
from lib.report.scrubber import PATIENTS, scrubbers, step_scrubber
from lib.report.sentences import grids, size
from lib.report.verdicts import comparison_verdict, ensemble_verdict, ranked, steps_verdict
from lib.studies.experiment import OUTPUTS

HERE = Path(__file__).parent


def build_report(folder, every_patient=False, published=None):
    """Write report.html and the notebooks' pages from the results, figures and executed notebooks of
    `folder`; with `every_patient` also report-every-patient.html, where all patients with predictions are
    shown slice by slice."""
    folder = Path(folder)
    for notebook in sorted(folder.glob("[0-9]*.ipynb")):
        write_text(folder / "pages" / f"{notebook.stem}.html", notebook_page(notebook))
    page = environment().get_template("report.html.jinja")
    write_text(folder / "report.html", page.render(**contents(folder, published=published)))
    if every_patient:
        write_text(folder / "report-every-patient.html", page.render(**contents(folder, None, published)))


def environment():
    loader = jinja2.FileSystemLoader(HERE)
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def contents(folder, patients=PATIENTS, published=None):
    """Everything the template shows, `patients` of them slice by slice (None: all)."""
    results = {path.stem: read_json(path) for path in sorted((folder / "results").glob("0*.json"))}
    data, steps, ensemble, comparison = (
        results.get(name) for name in ("00_cohort", "02_sampling_ablation", "03_ensemble", "04_comparison")
    )
    coarsen = read_yaml(folder / "experiment.yaml").get("coarsen")
    methods = ["baseline", "ddpm", *ranked(comparison["rows"])] if comparison else ()
    return {
        "name": folder.name,
        "css": file_text("report.css"),
        "script": file_text("report.js"),
        "data": data,
        "steps": steps,
        "ensemble": ensemble,
        "comparison": comparison,
        "speed": results.get("06_speed"),
        "published": published,
        "figure": partial(
            figure,
            folder,
            count(1),
            counts(steps, ensemble, comparison),
            findings(steps, ensemble, comparison),
        ),
        "table": partial(table, count(1)),
        "tables": tables,
        "markdown": bullets,
        "inline": inline,
        "step_scrubber": step_scrubber(folder),
        "scrubbers": scrubbers(folder, methods, patients),
        "glossary": glossary(comparison) if comparison else {},
        "answers": answers(steps, ensemble, comparison) if comparison else {},
        "again": again(folder),
        "claims": claims(
            comparison["rows"], steps, ensemble, comparison["histories"], comparison["margin_gy"]
        )
        if comparison
        else [],
        "verdicts": written_verdicts(steps, ensemble, comparison),
        "grids": grids(data["rows"], coarsen) if data and coarsen else "",
        "size": size(data["rows"], coarsen) if data and coarsen else "",
        "drawn": {path.stem for path in (folder / "figures").glob("*.png")},
        "pages": sorted(path.stem for path in (folder / "pages").glob("*.html")),
    }


def again(folder):
    """The commands that run an experiment again: as it was, and sampled in at most 100 steps."""
    params, experiment = params_of(folder), folder.name
    steps = [f'-p ablation.{name}="[5, 25, 100]"' for name in ("n_steps", "others_steps", "few_steps")]
    return [
        f"python -m lib run {params}",
        " ".join(
            [
                f"python -m lib run {params} -p experiment={experiment}-100",
                *steps,
                "-p ensemble.n_steps=100",
            ]
        ),
    ]


def params_of(folder):
    """The params file that made an experiment; the copy in its folder, if something was changed for it."""
    made = read_yaml(folder / "experiment.yaml")
    same = [path.name for path in sorted((ROOT / "params").glob("*.yaml")) if read_yaml(path) == made]
    return f"params/{same[0]}" if same else f"{OUTPUTS}/{folder.name}/experiment.yaml"


def read_yaml(path):
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}


def file_text(name):
    """A file of this folder that goes into the page as it is."""
    return Markup((HERE / name).read_text(encoding="utf-8"))


def glossary(comparison):
    """What each method that is compared, and each variant of one, is."""
    names = dict.fromkeys(row["method"].split(",")[0] for row in comparison["rows"])
    titles = {name: METHODS[name].title for name in names if name in METHODS}
    return titles | {
        "control": "no network: the mean dose of the training patients by the distance to the targets",
        **{
            name: f"{kind(name)} trained once more: {name.partition('-')[2]}" for name in names if "-" in name
        },
    }


def answers(steps, ensemble, comparison):
    """What is asked -> its answer in a sentence or two."""
    margin_gy = comparison["margin_gy"]
    told = {
        "Accuracy": answer(comparison, margin_gy, ensemble),
        "Lowest error": best_result(comparison),
        "For the clinic": answer_on_goals(comparison["rows"]),
        "More steps": answer_on_steps(steps, margin_gy, ensemble, comparison["rows"]),
        "Uncertainty": answer_on_spread(ensemble),
    }
    return with_titles({asked: text for asked, text in told.items() if text})


def with_titles(told):
    """Each method's title in brackets where it is first named."""
    seen = set()

    def titled(match):
        name = match[1].split(",")[0]
        new = name in METHODS and name not in seen
        seen.add(name)
        return f"{match[0]} ({METHODS[name].title})" if new else match[0]

    return {asked: re.sub(r"`([^`]+)`", titled, text) for asked, text in told.items()}


def written_verdicts(steps, ensemble, comparison):
    """Section -> its verdict, written from the numbers."""
    written = {"steps": steps_verdict, "ensemble": ensemble_verdict, "comparison": comparison_verdict}
    found = {"steps": steps, "ensemble": ensemble, "comparison": comparison}
    return {
        name: write(found[name], found[name]["margin_gy"]) for name, write in written.items() if found[name]
    }


def figure(folder, numbers, counted, found, name):
    """An <img> with the picture inside, its numbered caption below; a sentence if the figure was not made."""
    path = folder / "figures" / f"{name}.png"
    if not path.exists():
        return Markup("<p class=missing>{} was not made in this run.</p>").format(name)
    caption = " ".join(filter(None, ((CAPTIONS | SPEED_CAPTIONS)[name], counted.get(name))))
    seen = " ".join(filter(None, (caption, found.get(name)))).replace("`", "")
    pdf = (
        Markup(' <a href="figures/{}.pdf">PDF</a>').format(name) if path.with_suffix(".pdf").exists() else ""
    )
    return Markup(
        '<figure id="{}"><img alt="{}" src="{}"><figcaption><b>Figure {}.</b> {}{}</figcaption></figure>'
    ).format(name, seen, webp_uri(Image.open(path)), next(numbers), caption, pdf)


def table(numbers, frame, caption):
    """A data frame as an HTML table, its cells escaped, its caption numbered; columns sort at a click."""
    return Markup(
        '<figure class="tabled"><figcaption><b>Table {}.</b> {}</figcaption>'
        '<div class="scroll{}">{}</div></figure>'
    ).format(
        next(numbers),
        caption,
        " wide" if len(frame.columns) > 7 else "",
        Markup(frame.to_html(escape=True, border=0, na_rep="")),
    )


def bullets(text):
    """Lines that begin with "- " as a list, those that begin with "  - " as lists within it."""
    items = [item.split("\n  - ") for item in text.removeprefix("- ").split("\n- ")]
    return listed(inline(head) + (listed(map(inline, parts)) if parts else "") for head, *parts in items)


def listed(items):
    return Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(item) for item in items))


def inline(text):
    """`code` and **bold** as in Markdown, all else escaped."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text))


def notebook_page(path):
    """An executed notebook in the report's own look, its code folded."""
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(without_widgets(nbformat.read(path, as_version=4)))
    return (
        environment()
        .get_template("notebook.html.jinja")
        .render(title=path.stem, css=file_text("report.css"), body=Markup(pictures_to_webp(body)))
    )


def without_widgets(notebook):
    """Widgets need a kernel: only their static companions stay in a page."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                o for o in cell.outputs if "application/vnd.jupyter.widget-view+json" not in o.get("data", {})
            ]
    notebook.metadata.pop("widgets", None)
    return notebook
