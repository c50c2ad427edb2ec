"""What is published, as a page (outputs/published/README.md) and as the table of results in README.md.

python -m lib.runner.summary        writes both anew from the published tables
"""

import pandas as pd

from lib.files import ROOT, write_text
from lib.studies.results import add_labels, read_frame, select

PUBLISHED = ROOT / "outputs" / "published"
REFERENCE_SETTING = "reference's grid"
START, END = "<!-- results -->\n", "<!-- end of results -->\n"
IN_README = {  # experiment -> title of its column
    "openkbp": "real patients, 64^3",
    "openkbp-small": "real patients, 32^3",
    "phantom": "phantoms",
}
TITLES = {
    "control": "no network: mean dose by distance to the targets",
    "baseline": "U-Net",
    "baseline, 2 seeds": "U-Net, mean of 2 seeds",
    "baseline, 2 seeds and both sides": "U-Net, mean of 2 seeds and both sides",
    "gradient": "U-Net with gradient loss",
    "refine": "diffusion of the U-Net's residual",
    "ddpm_dose": "diffusion, dose predicted",
    "ddpm_v": "diffusion, v predicted",
    "flow": "flow matching",
    "ddpm": "the reference's diffusion, noise predicted",
}


def mean_mae_gy(experiment: str) -> pd.Series:
    """Mean absolute error in the dose mask over the test patients, by label of the answer."""
    frame = read_frame(PUBLISHED / experiment / "results" / "04_comparison.csv")
    maes = add_labels(select(frame, measure="mae_gy", region="dose mask"))
    return maes.groupby("label", sort=False)["value"].mean()


def results_table() -> str:
    """The table of README.md: one sample or answer a row, an experiment a column."""
    columns = {title: mean_mae_gy(experiment) for experiment, title in IN_README.items()}
    table = pd.DataFrame(columns).reindex(list(TITLES)).rename(index=TITLES).dropna(how="all")
    return as_markdown(table, "one answer or sample")


def measures_table(experiment: str) -> str:
    """Every answer of an experiment with its mean errors, sorted by the first."""
    frame = add_labels(read_frame(PUBLISHED / experiment / "results" / "04_comparison.csv"))
    inside = select(frame, region="dose mask", structure="")
    patient = select(frame, region="", structure="")
    columns = {
        "MAE / Gy": select(inside, measure="mae_gy"),
        "RMSE / Gy": select(inside, measure="rmse_gy"),
        "on the network's grid / Gy": select(patient, measure="grid_dose_score_gy"),
    }
    means = {title: rows.groupby("label", sort=False)["value"].mean() for title, rows in columns.items()}
    return as_markdown(pd.DataFrame(means).sort_values("MAE / Gy"), "answer")


def as_markdown(table: pd.DataFrame, corner: str) -> str:
    """A table of numbers as Markdown, two decimals."""
    cells = table.map(lambda value: "" if pd.isna(value) else f"{value:.2f}")
    head = [f"| {corner} | " + " | ".join(cells) + " |", "|---|" + "---|" * len(cells.columns)]
    return "\n".join(
        [*head, *(f"| {name} | {' | '.join(row)} |" for name, row in zip(cells.index, cells.values))]
    )


def published_page() -> str:
    """outputs/published/README.md: every experiment, its page, its answers."""
    parts = [(PUBLISHED / "head.md").read_text(encoding="utf-8")]
    for folder in sorted(path.parent.parent for path in PUBLISHED.glob("*/results/04_comparison.csv")):
        page = f"[Its report]({folder.name}/report.html). " if (folder / "report.html").exists() else ""
        again = f"{page}Run again by `params/{folder.name}.yaml`."
        parts.append(f"## {folder.name}\n\n{again}\n\n{measures_table(folder.name)}\n")
    return "\n".join(parts)


def with_results(readme: str) -> str:
    """README.md with the table of results between its two marks."""
    before, _, rest = readme.partition(START)
    return before + START + results_table() + "\n" + END + rest.partition(END)[2]


def main() -> None:
    readme = ROOT / "README.md"
    write_text(readme, with_results(readme.read_text(encoding="utf-8")))
    write_text(PUBLISHED / "README.md", published_page())


if __name__ == "__main__":
    main()
