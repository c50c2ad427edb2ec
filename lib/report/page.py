"""What the notebooks of a report show beside tables: figures with captions, the answer, subtitles."""

from pathlib import Path

import pandas as pd
from IPython.display import HTML, DisplayHandle, Markdown, display
from markupsafe import Markup
from PIL import Image

from lib.models.methods import title_of
from lib.report import frames
from lib.report.pictures import MANY, webp_uri
from lib.report.statements import ACCURACY, CONTROL, LIMITS, SPREAD, STEPS
from lib.studies.results import VIEWS, Results


def figure(folder: Path, name: str, caption: str, seen: str = "", is_picture: bool = False) -> HTML:
    """A figure of the experiment with its caption and the number of its file; `seen` is what it shows, for
    those who do not see it. Lines can be turned dark, not what has many colours or `is_picture`."""
    path = folder / "figures" / f"{name}.png"
    if not path.exists():
        return HTML(Markup("<p class=missing>{} was not made in this run.</p>").format(name))
    picture, number = Image.open(path).convert("RGB"), "".join(filter(str.isdigit, name.partition("_")[0]))
    link = Markup(' <a href="figures/{}.pdf">PDF</a>').format(name)
    pdf = link if path.with_suffix(".pdf").exists() else ""
    text = '<figure id="{}" class="{}"><div class="wide" tabindex="0"><img alt="{}" src="{}"></div>'
    text += "<figcaption><b>Figure {}.</b> {}{}</figcaption></figure>"
    alt = f"{caption} {seen}".strip().translate({ord(mark): "" for mark in "`*"})
    look = "lines" if picture.getcolors(MANY) and not is_picture else ""
    return HTML(Markup(text).format(name, look, alt, webp_uri(picture), number, caption, pdf))


def verdict_place() -> DisplayHandle:
    """Where a notebook's verdict stands, above all that leads to it; its `update` fills it in."""
    return display(Markdown("**The verdict** stands here when all cells have run."), display_id=True)


def answer_list(statements: pd.DataFrame) -> str:
    """The answers in one minute, as Markdown."""
    questions = [q for q in (ACCURACY, STEPS, SPREAD, CONTROL, LIMITS) if q in set(statements["question"])]
    return answers(statements, *questions)


def answers(statements: pd.DataFrame, *questions: str) -> str:
    """The questions with their answers, as Markdown."""
    return "\n\n".join(f"**{question}** {answer(statements, question)}" for question in questions)


def answer(statements: pd.DataFrame, question: str) -> str:
    """The first sentence on a question."""
    said = statements.loc[(statements["question"] == question) & (statements["sentence"] != ""), "sentence"]
    return next(iter(said), "*Not in this run.*")


def corrections(results: Results) -> str:
    """Which networks answer only what is left of the dose when the control's is taken away."""
    names = frames.setting(results, "corrected", [])
    listed = ", ".join(f"`{name}`" for name in names)
    return (
        f"The control's dose is where {listed} begin: they answer what is left to correct." if names else ""
    )


def glossary(frame: pd.DataFrame) -> str:
    """What the names in figures and tables mean, as one line of Markdown."""
    words = [f"`{name}` {title_of(name)}" for name in frame["training"].unique()]
    if frame["averaged_over"].str.contains("sides").any():
        words.append("both sides: averaged with the answer to the patient's mirror image")
    if frame["averaged_over"].str.contains("views").any():
        words.append(
            f"{VIEWS} views: averaged over both sides, each where it is and moved along seven choices of axes"
        )
    return f"In figures and tables: {'; '.join(words)}."
