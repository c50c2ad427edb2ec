"""Pages: every executed notebook of an experiment as one file that needs no network; 05_report is its report.

The notebook is the document. nbconvert renders it by the template of this folder, `figure` and
`lib.report.tables.styled` make what it shows.
"""

from pathlib import Path

import nbformat
import pandas as pd
from IPython.display import HTML
from markupsafe import Markup
from nbconvert import HTMLExporter
from PIL import Image

from lib.errors import UserError
from lib.files import write_text
from lib.models.methods import METHODS
from lib.report.pictures import MANY, pictures_to_webp, webp_uri
from lib.report.statements import ACCURACY, CONTROL, LIMITS, SPREAD, STEPS

REPORT = "05_report"
WIDGET = "application/vnd.jupyter.widget-view+json"


def build_report(folder: Path) -> None:
    """Render all executed notebooks of an experiment: 05_report, or else the last one, as report.html."""
    folder = Path(folder)
    notebooks = {path.stem: path for path in sorted(folder.glob("[0-9]*.ipynb"))}
    if not notebooks:
        raise UserError(f"{folder} has no executed notebook; run the experiment")
    report = notebooks.pop(REPORT, None)
    for name, path in notebooks.items():
        render(path, folder / "pages" / f"{name}.html")
    render(report or notebooks.popitem()[1], folder / "report.html")


def render(notebook_path: Path, html_path: Path) -> None:
    """Write an executed notebook as a page: its code is folded, of a report left out."""
    notebook = without_widgets(nbformat.read(notebook_path, as_version=4))
    headings = (line for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("# "))
    title = f"{notebook_path.parent.name}: {next(headings, notebook_path.stem).removeprefix('# ')}"
    exporter = HTMLExporter(
        template_name="template",
        extra_template_basedirs=[str(Path(__file__).parent)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    resources = {"title": title, "is_report": html_path.name == "report.html"}
    body, _ = exporter.from_notebook_node(notebook, resources)
    write_text(html_path, pictures_to_webp(body))


def without_widgets(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Widgets need a kernel: only their static companions stay in a page."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    notebook.metadata.pop("widgets", None)
    return notebook


def figure(folder: Path, name: str, caption: str, seen: str = "") -> HTML:
    """A figure of the experiment with its caption and the number of its file; `seen` is what it shows, for
    those who do not see it. Figures of lines can be turned dark, pictures of patients can not."""
    path = folder / "figures" / f"{name}.png"
    if not path.exists():
        return HTML(Markup("<p class=missing>{} was not made in this run.</p>").format(name))
    picture, number = Image.open(path).convert("RGB"), "".join(filter(str.isdigit, name.partition("_")[0]))
    pdf = (
        Markup(' <a href="figures/{}.pdf">PDF</a>').format(name) if path.with_suffix(".pdf").exists() else ""
    )
    text = '<figure id="{}" class="{}"><div class="wide" tabindex="0"><img alt="{}" src="{}"></div>'
    text += "<figcaption><b>Figure {}.</b> {}{}</figcaption></figure>"
    alt, look = (
        f"{caption} {seen}".strip().translate({96: "", 42: ""}),
        "lines" if picture.getcolors(MANY) else "",
    )
    return HTML(Markup(text).format(name, look, alt, webp_uri(picture), number, caption, pdf))


def answer_list(told: pd.DataFrame) -> str:
    """The answers in one minute, as Markdown."""
    questions = [q for q in (ACCURACY, STEPS, SPREAD, CONTROL, LIMITS) if q in set(told["question"])]
    return "\n\n".join(f"**{question}** {answer(told, question)}" for question in questions)


def answer(told: pd.DataFrame, question: str) -> str:
    """The first statement of a question."""
    return next(iter(told.loc[told["question"] == question, "sentence"]), "*Not in this run.*")


def glossary(frame: pd.DataFrame) -> str:
    """What the names of trainings mean, as Markdown."""
    names = frame.drop_duplicates("training")[["training", "method", "variant"]].to_numpy()
    titles = {name: METHODS[method].title for name, method, _ in names if method in METHODS}
    variants = {name: f", trained once more: {variant}" for name, _, variant in names if variant}
    return "\n".join(f"- `{name}`: {title}{variants.get(name, '')}" for name, title in titles.items())
