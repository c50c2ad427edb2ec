"""What is published, as a page (outputs/published/README.md); the results and the figure of README.md.

python -m lib.runner.summary        writes all anew from the published tables
"""

from pathlib import Path

import pandas as pd

from lib.files import ROOT, write_text
from lib.metrics.statistics import paired_difference
from lib.report import frames, steps_figures
from lib.report.statements import in_words
from lib.report.tables import cell
from lib.runner.published import mean_gy
from lib.strict_yaml import read_yaml
from lib.studies.results import read_frame, select

PUBLISHED = ROOT / "outputs" / "published"
STEPS = PUBLISHED / "openkbp-blocks" / "results" / "02_steps.csv"
INGREDIENTS = "openkbp-ingredients", "openkbp-edges"  # on validation patients, one change of the U-Net a row
START, END = "<!-- results -->\n", "<!-- end of results -->\n"
IN_README = {  # title of a column -> experiment, measure and region
    "real patients": ("openkbp", "mae_gy", "dose mask"),
    "their DVH points": ("openkbp", "dvh_error_gy", ""),
    "in blocks": ("openkbp-blocks", "mae_gy", "dose mask"),
    "phantoms": ("phantom", "mae_gy", "dose mask"),
}
ANSWERS = ["control", "baseline", "baseline, 2 seeds", "baseline, 2 seeds and both sides"]
ANSWERS += ["baseline, 2 seeds and 16 views", "gradient", "refine", "ddpm_dose", "ddpm_v", "flow", "ddpm"]


def results_table() -> str:
    """The table of README.md: one sample or answer a row, an experiment a column."""
    columns = {title: mean_gy(PUBLISHED / name, *which) for title, (name, *which) in IN_README.items()}
    words = {label: in_words(label, label.partition(",")[0]).strip("*") for label in ANSWERS}
    table = pd.DataFrame(columns).reindex(ANSWERS).rename(index=words).dropna(how="all")
    return as_markdown(table, "one answer or sample")


def measures_table(folder: Path) -> str:
    """Every answer of an experiment with its mean errors, sorted by the first."""
    means = {"MAE / Gy": mean_gy(folder), "RMSE / Gy": mean_gy(folder, "rmse_gy")}
    means["DVH points / Gy"] = mean_gy(folder, "dvh_error_gy", "")
    means["on the network's grid / Gy"] = mean_gy(folder, "grid_dose_score_gy", "")
    return as_markdown(pd.DataFrame(means).sort_values("MAE / Gy"), "answer")


def ingredients_table(folder: Path) -> str:
    """What each variant of the U-Net changes: its error, the seeds averaged, less the plain one's, paired by
    patient, with the 95 % interval; best first."""
    frame = read_frame(folder / "results" / "04_comparison.csv")
    frame, columns = select(frame, averaged_over="none", structure=""), {}
    for title, measure in (("MAE", "mae_gy"), ("DVH points", "dvh_error_gy")):
        rows = select(frame, measure=measure)
        values, _ = frames.answers(frames.average(rows[rows["region"] != "whole volume"]))
        plain = values.pop("baseline")
        columns[f"{title} / Gy"] = values.drop(columns="control").mean().map("{:.2f}".format)
        less = {name: paired_difference(values[name], plain) for name in columns[f"{title} / Gy"].index}
        texts = {name: f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]" for name, d in less.items()}
        columns[f"{title}, less {plain.mean():.2f} Gy"] = pd.Series(texts)
    variants = read_yaml(folder / "experiment.yaml")["variants"]
    titles = {name: str(of).strip("{}").replace("'", "") for name, of in variants.items()}
    table = pd.DataFrame(columns).sort_values("MAE / Gy").rename(index=titles | {"gradient": "gradient loss"})
    about = "One change of the U-Net a row, two seeds averaged, less the unchanged one, paired by patient"
    about += f" ({len(values)} validation patients, 95 % intervals); errors of the dose, and of DVH points."
    return f"{about}\n\n{as_markdown(table, 'changed')}"


def as_markdown(table: pd.DataFrame, corner: str) -> str:
    """A table as Markdown, its numbers with two decimals."""
    cells = table.map(lambda value: cell(value, "{:.2f}")).reset_index(names=corner)
    rows = [list(cells), *cells.values]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(cells.columns) + "|", *lines[1:]])


def published_page() -> str:
    """outputs/published/README.md: every experiment, its page, its answers."""
    parts = [(PUBLISHED / "head.md").read_text(encoding="utf-8")]
    for folder in sorted(path.parent.parent for path in PUBLISHED.glob("*/results/04_comparison.csv")):
        page = f"[Its report]({folder.name}/report.html). " if (folder / "report.html").exists() else ""
        again = f"{page}Run again by `params/{folder.name}.yaml`."
        table = ingredients_table if folder.name in INGREDIENTS else measures_table
        parts.append(f"## {folder.name}\n\n{again}\n\n{table(folder)}\n")
    return "\n".join(parts)


def with_results(readme: str) -> str:
    """README.md with the table of results between its two marks."""
    before, _, rest = readme.partition(START)
    return before + START + results_table() + "\n" + END + rest.partition(END)[2]


def main() -> None:
    readme = ROOT / "README.md"
    write_text(readme, with_results(readme.read_text(encoding="utf-8")))
    write_text(PUBLISHED / "README.md", published_page())
    figure = steps_figures.sampling_steps(read_frame(STEPS))
    figure.savefig(PUBLISHED / "steps.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
