"""The commands that run an experiment again, for its report."""

from pathlib import Path

from lib.runner.params_file import load_params
from lib.runner.settings import NOTEBOOKS
from lib.studies.experiment import OUTPUTS


def commands(folder: Path) -> str:
    """The commands that run an experiment again, as it was and sampled in at most 100 steps, as Markdown."""
    run = f"python -m lib run {params_of(folder)}"
    steps = [f'-p ablation.{name}="[5, 25, 100]"' for name in ("n_steps", "others_steps", "few_steps")]
    fewer = " ".join([run, f"-p experiment={folder.name}-100", *steps, "-p ensemble.n_steps=100"])
    return f"```\n{run}\n{fewer}\n```"


def params_of(folder: Path) -> str:
    """The params file that made an experiment; the copy in its folder, if something was changed for it."""
    made = load_params(folder / "experiment.yaml")
    files = sorted((NOTEBOOKS.parent / "params").glob("*.yaml"))
    same = [path.name for path in files if load_params(path) == made]
    return f"params/{same[0]}" if same else f"{OUTPUTS}/{folder.name}/experiment.yaml"
