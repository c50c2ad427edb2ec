"""What a stage's stamp holds: the digest of all that decides its results, and what it has written."""

from pathlib import Path

from lib.cache import digest, stage_key
from lib.cases.protocol import protocol_of
from lib.files import in_project, read_json, sha256
from lib.runner.plan import Stage
from lib.studies.experiment import training_in


def stamp_path(folder: Path, name: str) -> Path:
    return folder / "checkpoints" / "stamps" / f"{name}.json"


def words_path(folder: Path, name: str) -> Path:
    """Where a stage's notebook writes how far it is."""
    return (folder / "checkpoints" / "progress" / name).absolute()


def products_of(stage: Stage, folder: Path) -> list[Path]:
    """What an executed stage has written: what it must, or why not, and the tables beside its results."""
    if stage.failure and stage.failure.exists():
        return [stage.failure]
    tables = folder.glob(f"results/{stage.name[:3]}*") if not stage.failure else []
    return sorted({*stage.products, *tables})


def key_of(stage: Stage, folder: Path) -> str:
    """The stage's key: its code and parameters, the cohort's card and protocol, the weights it starts from,
    what the stages it needs have written, and the check for the report. The list of trainings is a parameter
    of the comparison."""
    lists = () if stage.name == "04_comparison" else ("methods",)
    parameters = {name: value for name, value in stage.parameters.items() if name not in lists}
    start = training_in(parameters.get("start_from"), stage.training)
    files = {"cohort": Path(parameters["cohort"], "card.json"), "start": Path(start, "weights.safetensors")}
    paths = {name: in_project(path) for name, path in files.items()}
    paths |= {"check": folder / "results" / "07_check.json"} if stage.name == "05_report" else {}
    inputs = {name: sha256(path) for name, path in paths.items() if path.exists()}
    if "cohort" in inputs:  # a site's structures and goals stand in a file of this code, not in the card
        card = read_json(paths["cohort"])
        stored = card.get("protocol", card.get("site"))
        inputs["protocol"] = digest(protocol_of(stored).content) if stored else None
    for name in stage.needs:
        stamp = stamp_path(folder, name)
        inputs[name] = read_json(stamp)["products"] if stamp.exists() else None
    return stage_key(stage.notebook, parameters, inputs)
