"""The runner, as a person uses it: smoke.yaml from the command line, again, changed, broken."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from lib.__main__ import COMMANDS, main
from lib.cache import is_fresh
from lib.cases.protocol import PROTOCOLS
from lib.errors import UserError
from lib.files import ROOT, lock, read_json, write_json, write_text
from lib.runner.command import Failure, one_sentence_errors
from lib.runner.execute import execute, kernel_sockets
from lib.runner.kernel import Provisioner
from lib.runner.params_file import load_params
from lib.runner.plan import Stage, plan
from lib.runner.run import remove_others
from lib.runner.schedule import n_cores, side_by_side, threads_of
from lib.runner.stamps import key_of, products_of, stamp_path
from lib.studies.experiment import Experiment

SMOKE = ROOT / "params" / "smoke.yaml"
STAGES = 11


def run(folder, *arguments, started_in=None):
    """`lib run` of smoke.yaml for the project in `folder`, by a process that may start in another."""
    cohorts, started_in = folder / "outputs" / "cohorts", started_in or folder
    started_in.mkdir(exist_ok=True)
    if not cohorts.exists():
        cohorts.parent.mkdir(parents=True, exist_ok=True)
        cohorts.symlink_to(ROOT / "outputs" / "cohorts")
    command = [sys.executable, "-m", "lib", "run", "params/smoke.yaml", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DOSE_FOLDER": str(folder)}
    return subprocess.run(
        command, check=False, cwd=started_in, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A folder in which smoke has been run, from elsewhere, and what the run printed."""
    folder, elsewhere = tmp_path_factory.mktemp("smoke"), tmp_path_factory.mktemp("elsewhere")
    done = run(folder, started_in=elsewhere)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(elsewhere.iterdir())
    return folder, done.stdout


def outputs(folder):
    return folder / "outputs" / "smoke"


def test_every_notebook_is_executed_and_the_report_lies_where_it_says(smoke):
    folder, printed = smoke
    assert printed.count("done in") == STAGES == len(list(outputs(folder).glob("*.ipynb")))
    assert printed.strip().endswith(f"report: {outputs(folder)}/report.html")
    assert len(list((outputs(folder) / "pages").glob("*.html"))) == STAGES - 1  # the last one is the report


def test_the_figures_of_the_report_are_there_as_png_and_pdf(smoke):
    names = {path.name for path in (outputs(smoke[0]) / "figures").iterdir()}
    figures = set(re.findall(r"fig\d+_\w+", (ROOT / "notebooks" / "05_report.ipynb").read_text()))
    figures -= {"fig20_intervals", "fig21_alarms"}  # of the check, which is not a notebook of a run
    assert len(figures) > 15
    assert {f"{figure}.{kind}" for figure in figures for kind in ("png", "pdf")} <= names


def test_every_figure_stands_in_the_executed_notebook_below_the_cell_that_draws_it(smoke):
    drawn = 0
    for path in outputs(smoke[0]).glob("0[0-4]*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if "save_figure(" in cell.source or ".figure(" in cell.source:
                kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
                assert kinds & {"image/png", "image/jpeg"}, f"{path.name}: {cell.source}"
                drawn += 1
    assert drawn > 10


def test_a_method_that_cannot_be_trained_is_listed_with_the_reason_and_stops_nothing(smoke):
    report, page = (
        re.sub(r"<.*?>|`|\s+", " ", (outputs(smoke[0]) / name).read_text())
        for name in ("report.html", "pages/04_comparison.html")
    )
    assert re.search("gradient_vgg +training .{0,40}not trained", report)
    assert re.search("gradient_vgg +was not trained: gradient_vgg needs the weights of VGG16", page)
    assert not (outputs(smoke[0]) / "checkpoints" / "gradient_vgg" / "weights.safetensors").exists()


def test_executed_notebooks_are_small_and_hold_no_path_of_this_machine(smoke):
    for path in outputs(smoke[0]).glob("*.ipynb"):
        assert path.stat().st_size < 2_000_000 and "jupyter.widget" not in path.read_text()
        metadata = nbformat.read(path, as_version=4).metadata
        assert str(ROOT) not in json.dumps(metadata) and str(smoke[0]) not in path.read_text()


def test_the_report_is_one_page_that_needs_no_network(smoke):
    report = (outputs(smoke[0]) / "report.html").read_text()
    assert len(report) < 4_000_000
    assert not re.search(r"""(src|href)=["'](https?:)?//""", report) and "<script src" not in report
    links = re.findall(r'href="([^"#]+)"', report)
    assert links and all((outputs(smoke[0]) / link).exists() for link in links)


def test_results_say_where_they_come_from_and_hold_no_missing_number(smoke):
    for path in (outputs(smoke[0]) / "results").glob("*.json"):
        made = json.loads(path.read_text())["made"]
        assert made["commit"] and made["device"] and made["versions"]["torch"]


def test_a_second_run_finds_everything_up_to_date(smoke):
    again = run(smoke[0])
    assert again.returncode == 0 and again.stdout.count("up to date") == STAGES


@pytest.mark.parametrize(
    "override, stale",
    [
        ("ensemble.members=4", ["03_ensemble"]),
        ("train.keep=best", [f"01_train_{name}" for name in load_params(SMOKE)["methods"]]),
        ("variants.baseline-seed43.seed=44", ["01_train_baseline-seed43"]),
    ],
)
def test_a_changed_parameter_makes_its_own_notebook_stale(override, stale, smoke, monkeypatch):
    monkeypatch.chdir(smoke[0])
    stages, folder = plan(load_params(SMOKE, [override]), SMOKE), Path("outputs", "smoke")
    fresh = {s.name: is_fresh(stamp_path(folder, s.name), key_of(s, folder)) for s in stages}
    assert [name for name in fresh if not fresh[name]] == stale


def test_what_a_stage_reads_is_part_of_its_key(smoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages, folder = plan(load_params(SMOKE), SMOKE), Path("outputs", "smoke")
    shutil.copytree(outputs(smoke[0]) / "checkpoints" / "stamps", folder / "checkpoints" / "stamps")
    before = {stage.name: key_of(stage, folder) for stage in stages}
    stamp = stamp_path(folder, "03_ensemble")
    write_json(stamp, read_json(stamp) | {"products": {"results/03_ensemble.json": "edited"}})
    after = {stage.name: key_of(stage, folder) for stage in stages}
    assert [name for name in before if before[name] != after[name]] == ["04_comparison", "05_report"]


def test_a_changed_site_makes_its_cohorts_stale(tmp_path, monkeypatch):
    """Its structures and goals stand in a file of the code, of which a card holds the name alone."""
    write_json(tmp_path / "toys" / "card.json", {"site": "prostate"})
    params = {"experiment": "x", "cohort": str(tmp_path / "toys"), "methods": ["baseline"]}
    [stage, *_] = plan(params, "x.yaml")
    before, site = key_of(stage, tmp_path), PROTOCOLS["prostate"]
    assert key_of(stage, tmp_path) == before
    with_urethra = site.content | {"organs": [*site.content["organs"], "Urethra"]}
    monkeypatch.setitem(PROTOCOLS, "prostate", replace(site, content=with_urethra))
    assert key_of(stage, tmp_path) != before


def test_the_order_of_the_trainings_redoes_none_of_them(tmp_path):
    first, second = (
        {stage.name: key_of(stage, tmp_path) for stage in plan(params, "x.yaml")}
        for params in (
            {"experiment": "x", "cohort": "toys", "methods": ["baseline", "flow"]},
            {"experiment": "x", "cohort": "toys", "methods": ["flow", "gradient", "baseline"]},
        )
    )
    assert all(first[name] == second[name] for name in ("00_cohort", "01_train_baseline", "01_train_flow"))


def test_a_table_that_was_edited_by_hand_is_made_again(tmp_path):
    """What a study wrote beside its settings is among what must be as it was written."""
    for name in ("02_sampling_ablation.json", "02_steps.csv", "03_ensemble.json"):
        write_text(tmp_path / "results" / name, "")
    stage = Stage("02_x", tmp_path, {}, [tmp_path / "results" / "02_sampling_ablation.json"], [])
    assert [path.name for path in products_of(stage, tmp_path)] == [
        "02_sampling_ablation.json",
        "02_steps.csv",
    ]


def test_a_notebook_without_its_network_fails_in_one_sentence_with_the_place_to_look(tmp_path):
    failed = run(tmp_path, "--only", "02")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert (
        "run 01_train for the method" in failed.stderr
        and "outputs/smoke/02_sampling_ablation.ipynb" in failed.stderr
    )
    assert (outputs(tmp_path) / "02_sampling_ablation.ipynb").exists()


def test_a_disk_that_refuses_ends_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "outputs" / "smoke", "a file where the folder should be")
    (tmp_path / "outputs" / "cohorts").symlink_to(ROOT / "outputs" / "cohorts")
    code, _, error = said(["run", str(SMOKE)], capsys)
    assert code == 1 and "error: outputs/smoke" in error and len(error.splitlines()) == 1


def test_an_error_of_the_system_that_is_no_refusing_disk_keeps_its_traceback():
    with pytest.raises(FileNotFoundError), one_sentence_errors():
        Path("nowhere/at/all").read_text()


def stage_of(folder, source):
    """A stage that executes one cell."""
    first = nbformat.v4.new_code_cell('experiment = "x"', metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[first, nbformat.v4.new_code_cell(source)])
    nbformat.write(notebook, folder / "dies.ipynb")
    return Stage("dies", folder / "dies.ipynb", {"experiment": "x"}, [], [])


def test_a_kernel_that_dies_ends_in_one_sentence_and_leaves_no_result(tmp_path):
    stage = stage_of(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(Failure, match="dies: its kernel died"):
        execute(stage, tmp_path, tmp_path / "words", 1)


def test_a_kernel_that_dies_before_it_is_ready_ends_in_one_sentence(tmp_path, monkeypatch):
    launch = Provisioner.launch_kernel

    async def launch_and_kill(self, cmd, **kwargs):
        info = await launch(self, cmd, **kwargs)
        self.process.kill()
        return info

    monkeypatch.setattr(Provisioner, "launch_kernel", launch_and_kill)
    with pytest.raises(Failure, match="dies: its kernel died before it was ready"):
        execute(stage_of(tmp_path, "1"), tmp_path, tmp_path / "words", 1)


def test_sockets_that_a_killed_run_left_are_removed_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with kernel_sockets(tmp_path / "a") as killed, kernel_sockets(tmp_path / "b") as other:
        killed, other = (Path(each["connection_file"]).parent for each in (killed, other))
        assert killed != other and stat.S_IMODE(killed.stat().st_mode) == 0o700
        write_text(killed / "k-1", "")
        write_text(other / "k-1", "")
        with kernel_sockets(tmp_path / "a") as sockets:
            assert sockets["ip"] == f"{killed}/k" and not list(killed.iterdir())
        assert (other / "k-1").exists()
    assert not list((tmp_path / "tmp").iterdir())


def test_a_folder_of_sockets_that_is_somebody_elses_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with kernel_sockets(tmp_path / "a") as sockets:
        folder = Path(sockets["connection_file"]).parent
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError), kernel_sockets(tmp_path / "a"):
        pass
    assert (tmp_path / "elsewhere").exists()


def test_a_stage_begins_when_those_that_it_needs_are_done_and_others_run_beside_it():
    """Both trainings wait for each other, so each must run; the study after them, the report last."""
    needs = {"01_a": [], "01_b": [], "02": ["01_a", "01_b"], "05": ["02"]}
    stages = [Stage(name, Path(name), {}, [], needed) for name, needed in needs.items()]
    both, order, lock_of_order = threading.Barrier(2, timeout=10), [], threading.Lock()

    def work(stage):
        if stage.name.startswith("01"):
            both.wait()
        with lock_of_order:
            order.append(stage.name)
        return True

    assert side_by_side(stages, work, 2) == [True] * 4
    assert set(order[:2]) == {"01_a", "01_b"} and order[2:] == ["02", "05"]
    order.clear()
    both = threading.Barrier(1)
    assert side_by_side(stages[::-1], work, 1) == [True] * 4 and order[2:] == ["02", "05"]


def test_after_a_failure_nothing_begins_and_what_runs_ends():
    stages = [Stage(name, Path(name), {}, [], []) for name in "abcd"]
    both, ended = threading.Barrier(2, timeout=10), []

    def work(stage):
        both.wait()
        if stage.name == "a":
            raise Failure("a failed")
        time.sleep(0.2)  # until the failure has been seen
        ended.append(stage.name)
        return True

    with pytest.raises(Failure, match="a failed"):
        side_by_side(stages, work, 2)
    assert ended == ["b"]


def test_threads_depend_on_the_plan_alone(monkeypatch):
    """Trainings share the cores among as many as can run at once, a study that runs alone has all of them."""
    monkeypatch.setattr("lib.runner.schedule.n_cores", lambda: 8)
    stages = stages_of(["baseline", "ddpm", "flow"])
    threads = {
        jobs: {name: threads_of(s, [*stages.values()], jobs) for name, s in stages.items()}
        for jobs in (1, 2, 8)
    }
    assert set(threads[1].values()) == {8}
    assert threads[8]["01_train_ddpm"] == threads[8]["01_train_flow"] == 2  # with 00_cohort four at once
    assert threads[2]["01_train_ddpm"] == threads[8]["02_sampling_ablation"] == threads[8]["03_ensemble"] == 4
    assert threads[8]["04_comparison"] == threads[8]["05_report"] == 8
    assert n_cores() >= 1


def test_ctrl_c_ends_the_run_and_its_kernels(tmp_path):
    """Stopped while kernels work: one sentence, exit code 130, and no process is left."""
    cohorts = tmp_path / "outputs" / "cohorts"
    cohorts.parent.mkdir()
    cohorts.symlink_to(ROOT / "outputs" / "cohorts")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DOSE_FOLDER": str(tmp_path)}
    command = [sys.executable, "-m", "lib", "run", str(SMOKE), "--only", "01", "-p", "train.epochs=5000"]
    # a shell's background job, such as this test's may be, ignores Ctrl-C and hands that on
    how = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, **how)
    progress = tmp_path / "outputs" / "smoke" / "checkpoints" / "progress"
    until = time.monotonic() + 120
    try:
        while not any("training" in path.read_text() for path in progress.glob("01*")):
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130, (tmp_path / "log").read_text()
        assert "stopped; run the same command again" in (tmp_path / "log").read_text()
    finally:
        process.kill()


def test_trainings_that_the_experiment_no_longer_names_leave_its_report(tmp_path):
    for name in ("01_train_baseline", "01_train_ddpm-old", "04_comparison"):
        for path in (tmp_path / f"{name}.ipynb", tmp_path / "pages" / f"{name}.html"):
            write_text(path, "")
    remove_others(plan(load_params(SMOKE), SMOKE), tmp_path)
    assert sorted(path.stem for path in tmp_path.rglob("*.*")) == sorted(
        2 * ["01_train_baseline", "04_comparison"]
    )


def stages_of(methods, **sections):
    params = {"experiment": "x", "cohort": "outputs/cohorts/phantom", "methods": methods}
    return {stage.name: stage for stage in plan(params | sections, "x.yaml")}


def test_without_a_sampled_method_nothing_is_sampled_and_what_was_leaves_the_report(tmp_path):
    stages = stages_of(["baseline"])
    assert list(stages) == ["00_cohort", "01_train_baseline", "04_comparison", "05_report"]
    assert stages["04_comparison"].needs == ["01_train_baseline"]
    names = ["00_cohort.json", "02_sampling_ablation.json", "02_steps.csv", "04_comparison.json"]
    for name in [*names, "07_values.csv"]:  # of the plan check, which is no stage
        write_text(tmp_path / "results" / name, "{}")
    remove_others(list(stages.values()), tmp_path)
    assert sorted(path.stem for path in tmp_path.rglob("*.*")) == ["00_cohort", "04_comparison", "07_values"]
    # a gaussian's spread can be judged, its steps cannot
    assert list(stages_of(["baseline", "gaussian"]))[3:5] == ["03_ensemble", "04_comparison"]


def test_trainings_that_the_file_leaves_to_the_notebook_are_the_experiments():
    stages = stages_of(["baseline", "flow"])
    assert "02_sampling_ablation" not in stages  # it switches what a diffusion has, and a flow has not
    assert stages["03_ensemble"].parameters["sampled"] == ["flow"]
    assert stages["04_comparison"].parameters["drawn"] == ["baseline", "flow"]
    stages = stages_of(["gradient", "baseline", "ddpm_v", "flow"])  # the notebook's own method is not listed
    assert stages["02_sampling_ablation"].parameters["method"] == "ddpm_v"
    assert stages["02_sampling_ablation"].parameters["others"] == ["flow"]
    assert stages["03_ensemble"].parameters["sampled"] == ["flow"]
    fewer = stages_of(["baseline", "flow"], ensemble={"members": 2})
    assert fewer["03_ensemble"].parameters["sizes"] == [1, 2]


def test_a_comparison_before_its_studies_is_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Experiment("x", "outputs/cohorts/phantom", 0, 1, [], 42, "cpu", "32")
    with pytest.raises(UserError, match="02_sampling_ablation.json does not exist"):
        run.load_results("02_sampling_ablation")
    run.save_results("03_ensemble", {"margin_gy": 0.1})
    assert run.load_results("03_ensemble").settings["margin_gy"] == 0.1


def test_two_runs_on_one_folder_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with lock(outputs(tmp_path) / "checkpoints" / "run.lock", ""):
        (tmp_path / "outputs" / "cohorts").symlink_to(ROOT / "outputs" / "cohorts")
        code, _, error = said(["run", str(SMOKE)], capsys)
    assert code == 2 and "another run is working" in error


# --- the command line ---


def said(arguments, capsys):
    """(exit code, printed, printed as an error) of the command line."""
    try:
        main(arguments)
        code = 0
    except SystemExit as ended:
        code = ended.code
    return code, *capsys.readouterr()


def test_every_command_explains_itself(capsys):
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"] == {
        "dose": "lib.__main__:main"
    }
    for arguments in ([], ["--help"]):
        code, printed, _ = said(arguments, capsys)
        assert code == 0 and all(f"  {name}" in printed for name in COMMANDS)
    for name in COMMANDS:
        code, printed, _ = said([name, "--help"], capsys)
        assert code == 0 and printed.startswith(f"usage: python -m lib {name}")


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["rnu"], "error: there is no command 'rnu'; did you mean run?"),
        (["xyz"], "error: there is no command 'xyz'; there are run, train, import, check, export, compare"),
        (["run"], "the following arguments are required: params; python -m lib run --help explains it"),
        (["run", "params/smoke.yaml", "--frce"], "unrecognized arguments: --frce; python -m lib run --help"),
        (["run", "params/smoke.yaml", "-p", "cohort=nowhere"], "error: nowhere/card.json does not exist"),
        (["run", "params/smoke.yaml", "-p", "train.epoch=3"], "did you mean epochs?"),
        (["run", "params/smoke.yaml", "--only", "07"], "--only 07: no notebook begins so; there are 00_co"),
        (["run", "params/smok.yaml"], "error: params/smok.yaml does not exist; did you mean smoke?"),
        (
            ["train", "params/smoke.yaml", "basline"],
            "methods does not list 'basline'; did you mean baseline?",
        ),
        (["train", "params/speed.yaml"], "params/speed.yaml lists no methods, so there is nothing to train"),
        (["import", "dicm"], "invalid choice: 'dicm'"),
        (["import", "dicom"], "error: dicom needs the folder of its patients"),
        (["export", "outputs/none", "a", "b", "--dicom", "c", "--to", "d"], "experiment.yaml does not exist"),
        (["compare", "outputs/none", "a", "outputs/none", "b"], "outputs/none/results/04_comparison"),
    ],
)
def test_a_persons_mistake_is_one_sentence_and_exit_code_2(arguments, sentence, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    code, printed, error = said(arguments, capsys)
    assert code == 2 and sentence in error and len(error.splitlines()) == 1 and not printed
