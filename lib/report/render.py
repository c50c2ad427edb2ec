"""Pages: every executed notebook of an experiment as one file that needs no network; 05_report is its report.

The notebook is the document. nbconvert renders it by the template of this folder, `lib.report.page` and
`lib.report.tables` make what it shows.
"""

import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter

from lib.errors import UserError
from lib.files import write_text
from lib.report.pictures import pictures_to_webp

REPORT = "05_report"
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$`]+)\$", re.DOTALL)  # of a line of its own, and within one
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
    notebook = with_formulas(join_code(without_widgets(nbformat.read(notebook_path, as_version=4))))
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


def with_formulas(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Formulas as MathML, which browsers draw without a network."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(mathml, cell.source)
    return notebook


def mathml(formula: re.Match) -> str:
    return convert((formula[1] or formula[2]).strip(), display="block" if formula[1] else "inline")


def join_code(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Code cells that show nothing as one with the next, so that a page has no rows of folded code."""
    cells: list[nbformat.NotebookNode] = []
    for cell in notebook.cells:
        before = cells[-1] if cells else cell
        if cell is not before and cell.cell_type == before.cell_type == "code" and not before.outputs:
            cell.source = f"{before.source}\n\n{cell.source}"
            cells.pop()
        cells.append(cell)
    notebook.cells = cells
    return notebook


def without_widgets(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Widgets need a kernel: only their static companions stay in a page."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    notebook.metadata.pop("widgets", None)
    return notebook
