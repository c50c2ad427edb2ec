"""The notebooks and params files keep their contract, without being executed."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
import yaml

from lib.errors import UserError
from lib.files import ROOT
from lib.runner.execute import parameters_to_pass
from lib.runner.notebook import open_experiment
from lib.runner.parameters import check_value, parse_line, read_parameters
from lib.runner.params_file import load_params
from lib.runner.plan import plan
from lib.runner.settings import ALONE, COMMON, SECTIONS, notebook_parameters

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTED = [path for path in NOTEBOOKS if path.stem in SECTIONS | ALONE]
PARAMS = sorted((ROOT / "params").glob("*.yaml"))


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_every_notebook_of_the_runner_is_there():
    assert {path.stem for path in EXECUTED} == set(SECTIONS | ALONE)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_has_no_outputs_no_definitions_and_short_cells(path):
    for cell in cells(path, "code"):
        assert not cell.outputs and cell.execution_count is None
        nodes = list(ast.walk(ast.parse(cell.source)))
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in nodes)
        assert len(cell.source.splitlines()) <= 15


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_prose_holds_no_result_of_ours(path):
    decimals = [d for cell in cells(path, "markdown") for d in re.findall(r"\d+\.\d+", cell.source)]
    assert set(decimals) <= {"0.02"}  # the reference's own number


@pytest.mark.parametrize("path", EXECUTED, ids=lambda p: p.stem)
def test_a_notebook_begins_with_its_experiment_and_its_own_parameters_and_checks_them(path):
    first, second, *_ = cells(path, "code")
    parameters = read_parameters(path)
    assert first.source.startswith('experiment = "') and not set(parameters) & set(COMMON)
    assert f'run = open_experiment("{path.stem}", globals())' in second.source


@pytest.mark.parametrize("path", EXECUTED, ids=lambda p: p.stem)
def test_every_parameter_is_explained_and_within_its_own_limits(path):
    for parameter in [*notebook_parameters(path.stem).values(), *COMMON.values()]:
        first = (parameter.default or [""])[0] if isinstance(parameter.default, list) else parameter.default
        limited = parameter.low is not None or parameter.choices
        assert parameter.help and (limited or isinstance(first, (bool, str)))
        assert check_value(parameter, parameter.default, parameter.name) == parameter.default


@pytest.mark.parametrize("path", PARAMS, ids=lambda p: p.stem)
def test_a_params_file_is_accepted_and_named_after_its_experiment(path):
    params = load_params(path)
    trained = [stage.name for stage in plan(params, path) if stage.name.startswith("01")]
    assert params["experiment"] == path.stem
    assert trained == [f"01_train_{name}" for name in params.get("methods", [])]


def refused(changes, tmp_path):
    params = {"experiment": "x", "cohort": "outputs/cohorts/phantom", "methods": ["baseline"]} | changes
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in params.items() if v is not None}))
    with pytest.raises(UserError) as caught:
        plan(load_params(path), path)
    assert "mine.yaml" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"trian": {}}, "did you mean train?"),
        ({"train": {"epoch": 3}}, "did you mean epochs?"),
        ({"train": {"epochs": 0}}, "train.epochs is 0; it must be from 1"),
        ({"train": {"epochs": "many"}}, "train.epochs must be a whole number"),
        ({"train": {"epochs": 1.5}}, "train.epochs must be a whole number"),
        ({"train": {"augment": 1}}, "train.augment is 1; it must be one of whole voxels, rotated, none"),
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
            "there is no key 'variants.ddpm-seed43'; there are none",
        ),
        ({"methods": ["baseline-x"], "variants": {"baseline-x": {"epoch": 4}}}, "did you mean epochs?"),
        (
            {"methods": ["baseline-x"], "variants": {"baseline-x": {"epochs": 0}}},
            "variants.baseline-x.epochs is 0",
        ),
        (
            {"methods": ["baseline", "flow", "ddpm"], "ablation": {"method": "flwo"}},
            "ablation.method names flwo, which methods does not list; did you mean flow?",
        ),
        (
            {"methods": ["baseline", "ddpm"], "ablation": {"others": ["ddpm_v"]}},
            "ablation.others names ddpm_v",
        ),
        (
            {"comparison": {"drawn": ["baseline"], "mirrored": ["cascade"]}},
            "comparison.mirrored names cascade",
        ),
        *(
            (
                {"methods": ["baseline", "flow", "ddpm"], section: {name: value}},
                f"{section}.{name} names {sentence}",
            )
            for section, name, value, sentence in (
                ("ablation", "method", "baseline", "baseline; it must be a diffusion"),
                ("ablation", "method", "flow", "flow; it must be a diffusion"),
                (
                    "ablation",
                    "others",
                    ["baseline"],
                    "baseline; it must be a method that is sampled in steps",
                ),
                ("ablation", "regression", "flow", "flow; it must be a regression"),
                ("ensemble", "sampled", ["baseline"], "baseline; it must be a method whose samples differ"),
                ("ensemble", "deep", ["baseline", "flow"], "flow; it must be a regression"),
                ("comparison", "mirrored", ["flow"], "flow; it must be a regression"),
            )
        ),
        ({"train": {"standardise": True}}, "train.standardise is True; it must be one of auto, yes, no"),
        (
            {"train": {"vgg_file": 16}},
            "train.vgg_file must be a word like '', not 16; as a word it is written '16'",
        ),
        (
            {"train": {"learning_rate": "1.2.3"}},
            "train.learning_rate must be a number like 0.001, not '1.2.3'",
        ),
        ({"precision": 8}, "precision is 8; it must be one of auto, 32, bf16, 16"),
        ({"precision": 32.0}, "precision is 32.0; it must be one of auto, 32, bf16, 16"),
        ({"variants": ["baseline"]}, "variants must be a section of keys, not ['baseline']"),
        ({"experiment": 2026}, "digits and dashes, not 2026; as a word it is written '2026', in quotes"),
        ({"train": {"method": "ddpm"}}, "there is no key 'train.method'"),
        ({"train": {"patch_voxels": [8]}}, "train.patch_voxels must be 3 numbers, not [8]"),
        (
            {"train": {"patch_voxels": [8, 0, 8]}},
            "train.patch_voxels is [8, 0, 8]; it must be three sizes, or",
        ),
        ({"train": {"augment": "rotate"}}, "did you mean rotated?"),
        ({"ablation": {"n_steps": []}}, "ablation.n_steps is an empty list; it must hold at least one"),
        ({"ablation": {"n_steps": [5, 5]}}, "ablation.n_steps holds 5 twice"),
        (
            {"methods": ["baseline", "flow"], "ensemble": {"sizes": [50], "members": 3}},
            "ensemble.sizes holds 50, but members is only 3",
        ),
        ({"methods": ["baseline", "baseline"]}, "methods holds baseline twice"),
        ({"methods": []}, "methods is an empty list"),
        ({"explore": {"plane": "coronal"}}, "the key 'explore' is no more: its notebook is opened by hand"),
        ({"device": "gpu"}, "device is 'gpu'; it must be one of"),
        ({"seed": -1}, "seed is -1"),
        ({"experiment": "../elsewhere"}, "experiment must be a name"),
        ({"experiment": None}, "'experiment' is missing"),
    ],
)
def test_a_mistyped_parameter_is_named_with_what_was_expected(changes, sentence, tmp_path):
    assert sentence in refused(changes, tmp_path)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("seed: 1\nseed: 2", "the key 'seed' stands twice (line 5)"),
        ("seed: 042", "seed must be a whole number like 42, not '042'"),
        ("seed: 1:30", "seed must be a whole number like 42, not '1:30'"),
        ("train: {compile: yes}", "train.compile must be true or false like False, not 'yes'"),
        ("train: {epochs: 2026-01-31}", "train.epochs must be a whole number like 30, not '2026-01-31'"),
        ("train: {epochs: !!timestamp now}", "mine.yaml is not readable as YAML"),
        ("train: [1", "mine.yaml is not readable as YAML"),
        ("train: !!python/object/apply:os.system ['echo hacked']", "could not determine a constructor"),
    ],
)
def test_what_yaml_makes_of_a_word_is_no_surprise(text, sentence, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"experiment: x\ncohort: outputs/cohorts/phantom\nmethods: [baseline]\n{text}\n")
    with pytest.raises(UserError) as caught:
        plan(load_params(path), path)
    assert sentence in str(caught.value)


def test_a_number_among_the_words_to_choose_from_is_that_word(tmp_path):
    """precision=32 and standardise=no as the command line gives them, and a date as the experiment's name."""
    overrides = ["precision=32", "train.standardise=no", "experiment=2026-11-25"]
    stages = {
        stage.name: stage for stage in plan(load_params(ROOT / "params" / "smoke.yaml", overrides), "x")
    }
    values = stages["01_train_ddpm"].parameters
    assert (values["precision"], values["standardise"], values["experiment"]) == ("32", "no", "2026-11-25")


def test_words_that_other_readers_of_yaml_take_for_something_else_are_words(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("experiment: 2026-01-31\ntrain: {standardise: yes, learning_rate: 0.1, epochs: 7}\n")
    train = {"standardise": "yes", "learning_rate": 0.1, "epochs": 7}
    assert load_params(path) == {"experiment": "2026-01-31", "train": train}


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("xyzzy", "does not exist; params/ holds the experiments"),
        ("smok", "did you mean smoke?"),
        ("openkbp-cpu", "it is openkbp now"),
    ],
)
def test_a_file_that_is_not_there_is_told_with_the_one_that_was_meant(name, sentence):
    with pytest.raises(UserError, match=sentence):
        load_params(ROOT / "params" / f"{name}.yaml")


def test_overrides_are_put_over_the_file():
    path = ROOT / "params" / "smoke.yaml"
    params = load_params(path, ["train.epochs=7", "seed=3", "ablation.n_steps=[1, 2]"])
    assert (params["train"]["epochs"], params["seed"], params["ablation"]["n_steps"]) == (7, 3, [1, 2])
    for override, sentence in (
        ("train.epochs", "section.key=value"),
        ("cohort.x=1", "cohort is not a section"),
        ("train.epochs=[1", "-p train.epochs: the value is not readable as YAML"),
        (
            "train={epochs: 1, epochs: 2}",
            "-p train: the value is not readable as YAML: the key 'epochs' stands",
        ),
    ):
        with pytest.raises(UserError, match=re.escape(sentence)):
            load_params(path, [override])
    with pytest.raises(UserError, match="-p seed is given twice; give it once"):
        load_params(path, ["seed=3", "seed=4"])


def test_numbers_in_scientific_notation_are_numbers():
    rate = parse_line("learning_rate", 1e-4, "of AdamW; 1e-7..1")
    assert check_value(rate, "5e-4", "x") == 5e-4 and check_value(rate, 1, "x") == 1.0


# --- a notebook opened by hand, or by plain papermill ---


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with outputs, in which an experiment named mine was run."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "mine"
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text(
        "{experiment: mine, cohort: toys, coarsen: 4, methods: [baseline, baseline-seed7, ddpm_v, flow],\n"
        " variants: {baseline-seed7: {seed: 7, epochs: 3}}, train: {epochs: 9, base_channels: 8},\n"
        " ensemble: {patients: 2, sampled: [flow]}}"
    )
    return tmp_path


def opened(notebook, typed="", passed=None, experiment="mine"):
    """(the Experiment, the notebook's values) after its first cells, with lines typed at the end of the first
    and parameters passed by papermill."""
    source = cells(ROOT / "notebooks" / f"{notebook}.ipynb", "code")[0].source
    first = re.sub('^experiment = ".*?"', f'experiment = "{experiment}"', source) + f"\n{typed}"
    second = "# Parameters\n" + "".join(f"{name} = {value!r}\n" for name, value in (passed or {}).items())
    namespace = {"In": ["", first, second]}
    for source in (first, second):
        for node in ast.parse(source).body:
            namespace[node.targets[0].id] = ast.literal_eval(node.value)
    return open_experiment(notebook, namespace), namespace


def test_what_nobody_gave_is_the_files_and_then_the_cells(project, monkeypatch):
    shown = []
    monkeypatch.setattr("lib.runner.notebook.display", shown.append)
    run, values = opened("03_ensemble")
    assert (run.cohort, run.coarsen, run.seed, run.methods[0]) == ("toys", 4, 42, "baseline")
    assert (values["patients"], values["sampled"], values["validation_patients"]) == (2, ["flow"], 4)
    assert shown[0].columns.name == "from mine/experiment.yaml"
    assert list(shown[0].data["value"].loc[["cohort", "first_cases", "coarsen"]]) == ["toys", "0", "4"]


def test_what_is_typed_or_passed_counts_before_the_file(project):
    run, values = opened("03_ensemble", typed="patients = 3\nseed = 5")
    assert values["patients"] == 3 and run.seed == 5
    run, values = opened("03_ensemble", passed={"patients": 4, "coarsen": 1})  # 4 is the cell's own value
    assert values["patients"] == 4 and run.coarsen == 1
    _, values = opened("01_train", typed='keep = "best"')  # which the cell does not show
    assert values["keep"] == "best" and values["patience"] == 0


def test_a_training_is_that_of_the_experiments_list(project):
    run, values = opened("01_train", passed={"variant": "seed7"})
    assert (run.seed, values["epochs"], values["base_channels"]) == (7, 3, 8)
    run, values = opened("01_train", passed={"method": "ddpm_v"})
    assert (run.seed, values["epochs"], values["base_channels"]) == (42, 9, 8)


@pytest.mark.parametrize("path", EXECUTED, ids=lambda p: p.stem)
def test_by_hand_a_notebook_runs_with_the_values_that_the_runner_gives_it(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # what a person has run does not count here
    for params in [p for p in PARAMS if (p.stem == "speed") == (path.stem in ALONE)]:
        stages = {stage.name: stage for stage in plan(load_params(params), params)}
        for name, stage in stages.items():
            if name.startswith(path.stem):
                passed = parameters_to_pass(stage)
                training = {
                    key: passed[key] for key in ("method", "variant") if key in passed and "01" in name
                }
                run, values = opened(path.stem, passed=training, experiment=params.stem)
                parameters = {key: values[key] for key in notebook_parameters(path.stem)}
                assert parameters == {key: stage.parameters[key] for key in parameters}
                assert run.seed == stage.parameters["seed"] and run.coarsen == stage.parameters["coarsen"]


@pytest.mark.parametrize(
    "passed, sentence",
    [
        ({"n_steps": "[1,5]"}, "n_steps must be a whole number like 10, not '[1,5]'"),
        (
            {"sizes": "[1,5]"},
            "sizes must be a list like [1, 2, 3, 5], not '[1,5]'; papermill takes a list by -y",
        ),
        ({"members": 1}, "members is 1; it must be from 2 to 1000"),
        ({"sizes": [9]}, "sizes holds 9, but members is only 5"),
        (
            {"regression": "basline"},
            "regression names basline, which methods does not list; did you mean base",
        ),
        ({"patiens": 3}, "there is no parameter 'patiens'; did you mean patients?"),
        ({"device": "gpu"}, "device is 'gpu'; it must be one of auto, cpu, cuda"),
        (
            {"experiment": "phantom-quik"},
            "there is no experiment 'phantom-quik'; did you mean phantom-quick?",
        ),
        ({"experiment": "openkbp-cpu"}, "there is no experiment 'openkbp-cpu'; it is openkbp now"),
        ({"experiment": 3}, "experiment must be a name"),
    ],
)
def test_a_notebook_tells_a_wrong_parameter_as_the_runner_does(passed, sentence, project):
    with pytest.raises(UserError) as caught:
        opened("03_ensemble", passed=passed)
    assert sentence in str(caught.value)


def test_a_notebook_in_any_folder_is_of_the_project(tmp_path, monkeypatch):
    monkeypatch.delenv("DOSE_FOLDER")
    monkeypatch.chdir(tmp_path)
    run, _ = opened("03_ensemble", experiment="phantom-quick")
    assert run.open_cohort().folder == ROOT / "outputs" / "cohorts" / "phantom"
    assert Path.cwd() == tmp_path and not list(tmp_path.iterdir())
