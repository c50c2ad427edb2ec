"""The notebooks and params files keep their contract, without being executed."""

import ast
import re

import nbformat
import pytest
import yaml

from lib.errors import UserError
from lib.files import ROOT
from lib.runner.parameters import check_value, describe, load_params, read_parameters
from lib.runner.run import ALONE, COMMON, SECTIONS, plan

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
PARAMS = sorted((ROOT / "params").glob("*.yaml"))


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_every_notebook_of_the_runner_is_there():
    assert {path.stem for path in NOTEBOOKS} >= set(SECTIONS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_has_no_outputs_no_definitions_and_short_cells(path):
    for cell in cells(path, "code"):
        tree = ast.parse(cell.source)
        assert not cell.outputs and cell.execution_count is None
        assert not any(
            isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While))
            for node in ast.walk(tree)
        )
        assert len(cell.source.splitlines()) <= (
            36 if "parameters" in cell.metadata.get("tags", []) else 12
        )  # a parameter a line


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_prose_holds_no_result_of_ours(path):
    decimals = [d for cell in cells(path, "markdown") for d in re.findall(r"\d+\.\d+", cell.source)]
    assert set(decimals) <= {"0.02"}  # the reference's own number


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_parameter_is_explained_and_within_its_own_limits(path):
    parameters = read_parameters(path)
    assert list(parameters)[:7] == list(COMMON[:7])
    for parameter in parameters.values():
        first = (parameter.default or [""])[0] if isinstance(parameter.default, list) else parameter.default
        limited = parameter.low is not None or parameter.choices
        assert parameter.help and (limited or isinstance(first, (bool, str)))
        assert check_value(parameter, parameter.default, parameter.name) == parameter.default


def test_the_common_parameters_are_the_same_everywhere():
    """06_speed is of another experiment and at full size; its other common parameters are the same."""
    together = [path for path in NOTEBOOKS if path.stem in SECTIONS]
    alone = [path for path in NOTEBOOKS if path.stem in ALONE]
    assert sorted(together + alone) == NOTEBOOKS
    for paths, names in (
        (together, COMMON[:8]),
        (NOTEBOOKS, [n for n in COMMON[:8] if n not in ("experiment", "coarsen")]),
    ):
        assert len({tuple(read_parameters(path)[name] for name in names).__repr__() for path in paths}) == 1


@pytest.mark.parametrize("path", PARAMS, ids=lambda p: p.stem)
def test_a_params_file_is_accepted_and_named_after_its_experiment(path):
    params = load_params(path)
    stages = plan(params, path)
    assert params["experiment"] == path.stem.removesuffix(
        "-cpu"
    )  # the same experiment as far as two cores bear it
    assert [s.name for s in stages if s.name.startswith("01")] == [
        f"01_train_{m}" for m in params.get("methods", [])
    ]


def refused(changes, tmp_path):
    params = {"experiment": "x", "cohort": "outputs/cohorts/phantom", "methods": ["baseline"]} | changes
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in params.items() if v is not None}))
    with pytest.raises(UserError) as caught:
        plan(load_params(path), path)
    assert "mine.yaml" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"trian": {}}, "did you mean train?"),
        ({"train": {"epoch": 3}}, "did you mean epochs?"),
        ({"train": {"epochs": 0}}, "train.epochs is 0; it must be from 1"),
        ({"train": {"epochs": "many"}}, "train.epochs must be a whole number"),
        ({"train": {"epochs": 1.5}}, "train.epochs must be a whole number"),
        ({"train": {"augment": 1}}, "train.augment must be a word"),
        ({"train": 7}, "train must be a section"),
        ({"ablation": {"n_steps": 50}}, "ablation.n_steps must be a list"),
        ({"ablation": {"n_steps": [0]}}, "ablation.n_steps is 0; it must be from 1 to 1000"),
        ({"ablation": {"n_steps": [1001]}}, "ablation.n_steps is 1001"),
        ({"methods": ["unet"]}, "there is no method 'unet'"),
        (
            {"methods": ["baseline", "baseline-seed43"]},
            "methods lists baseline-seed43, but variants does not say",
        ),
        ({"methods": ["refine"]}, "refine starts from baseline, which methods does not list"),
        (
            {"variants": {"ddpm-seed43": {"seed": 43}}},
            "variants.ddpm-seed43 must be the keys of a training that methods lists",
        ),
        ({"methods": ["baseline-x"], "variants": {"baseline-x": {"epoch": 4}}}, "did you mean epochs?"),
        (
            {"methods": ["baseline-x"], "variants": {"baseline-x": {"epochs": 0}}},
            "variants.baseline-x.epochs is 0",
        ),
        (
            {"methods": ["baseline", "flow"], "ablation": {"method": "flwo"}},
            "ablation.method names flwo, which methods does not list; did you mean flow?",
        ),
        (
            {"methods": ["baseline", "flow"], "ablation": {"method": "flow", "others": ["ddpm_v"]}},
            "ablation.others names ddpm_v",
        ),
        (
            {"comparison": {"drawn": ["baseline"], "mirrored": ["cascade"]}},
            "comparison.mirrored names cascade",
        ),
        ({"train": {"method": "ddpm"}}, "there is no key 'train.method'"),
        ({"device": "gpu"}, "device is 'gpu'; it must be one of"),
        ({"seed": -1}, "seed is -1"),
        ({"experiment": "../elsewhere"}, "experiment must be a name"),
        ({"experiment": None}, "'experiment' is missing"),
    ],
)
def test_a_mistyped_parameter_is_named_with_what_was_expected(changes, told, tmp_path):
    assert told in refused(changes, tmp_path)


def test_a_file_that_is_no_yaml_or_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_params(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="bad.yaml"):
        load_params(tmp_path / "bad.yaml")
    (tmp_path / "run.yaml").write_text("!!python/object/apply:os.system ['echo hacked']")
    with pytest.raises(UserError, match="run.yaml"):
        load_params(tmp_path / "run.yaml")


def test_overrides_are_put_over_the_file():
    params = load_params(
        ROOT / "params" / "smoke.yaml", ["train.epochs=7", "seed=3", "ablation.n_steps=[1, 2]"]
    )
    assert (params["train"]["epochs"], params["seed"], params["ablation"]["n_steps"]) == (7, 3, [1, 2])
    with pytest.raises(UserError, match="section.key=value"):
        load_params(ROOT / "params" / "smoke.yaml", ["train.epochs"])


def test_numbers_in_scientific_notation_are_numbers():
    rate = describe("learning_rate", 1e-4, "of AdamW; 1e-7..1")
    assert check_value(rate, "5e-4", "x") == 5e-4 and check_value(rate, 1, "x") == 1.0
