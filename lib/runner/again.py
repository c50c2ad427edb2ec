"""The commands that run an experiment again, for its report."""

from pathlib import Path

from lib.files import ROOT
from lib.runner.params_file import load_params


def commands(folder: Path) -> str:
    """The commands that run an experiment again, as it was and sampled in at most 100 steps, as Markdown."""
    made = load_params(folder / "experiment.yaml")
    same = [path for path in sorted((ROOT / "params").glob("*.yaml")) if load_params(path) == made]
    # the copy in its folder, if something was changed for it
    run = (
        f"python -m lib run {f'params/{same[0].name}' if same else f'outputs/{folder.name}/experiment.yaml'}"
    )
    steps = [f'-p ablation.{name}="[5, 25, 100]"' for name in ("n_steps", "others_steps", "few_steps")]
    fewer = " ".join([run, f"-p experiment={folder.name}-100", *steps, "-p ensemble.n_steps=100"])
    return f"```\n{run}\n{fewer}\n```"
