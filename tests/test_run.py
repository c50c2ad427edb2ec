"""The runner, as a person uses it: smoke.yaml from the command line, again, changed, broken."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from lib import disk
from lib.cache import code_digest, modules_used
from lib.errors import UserError
from lib.files import ROOT, lock, read_json, write_text
from lib.report.captions import CAPTIONS
from lib.runner.command import Failed, told_in_a_sentence
from lib.runner.parameters import load_params
from lib.runner.run import Stage, execute, forget_all_but, plan, socket_folder
from lib.studies.comparison import studies_before
from lib.studies.experiment import Experiment

STAGES = 13


def run(folder, *arguments):
    cohorts = folder / "outputs" / "cohorts"
    if not cohorts.exists():
        cohorts.parent.mkdir(parents=True, exist_ok=True)
        cohorts.symlink_to(ROOT / "outputs" / "cohorts")
    command = [sys.executable, "-m", "lib", "run", str(ROOT / "params" / "smoke.yaml"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A folder in which smoke has been run, and what the run printed."""
    folder = tmp_path_factory.mktemp("smoke")
    done = run(folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, done.stdout


def outputs(folder):
    return folder / "outputs" / "smoke"


def test_every_notebook_is_executed_and_the_report_lies_where_it_says(smoke):
    folder, printed = smoke
    assert printed.count("done in") == STAGES
    assert printed.strip().endswith("report: outputs/smoke/report.html")
    assert (
        len(list(outputs(folder).glob("*.ipynb")))
        == STAGES
        == len(list((outputs(folder) / "pages").glob("*.html")))
    )


def test_the_figures_are_there_as_png_and_pdf(smoke):
    names = {path.name for path in (outputs(smoke[0]) / "figures").iterdir()}
    for figure in (name for name in CAPTIONS):
        assert {f"{figure}.png", f"{figure}.pdf"} <= names


def test_a_method_that_cannot_be_trained_is_listed_with_the_reason_and_stops_nothing(smoke):
    report = (outputs(smoke[0]) / "report.html").read_text()
    assert "<code>gradient_vgg</code> was not trained: gradient_vgg needs the weights of VGG16" in report
    assert not (outputs(smoke[0]) / "checkpoints" / "gradient_vgg" / "weights.safetensors").exists()


def test_executed_notebooks_are_small_and_hold_no_path_of_this_machine(smoke):
    for path in outputs(smoke[0]).glob("*.ipynb"):
        assert path.stat().st_size < 2_000_000 and "jupyter.widget" not in path.read_text()
        metadata = nbformat.read(path, as_version=4).metadata
        assert str(ROOT) not in json.dumps(metadata) and str(smoke[0]) not in json.dumps(metadata)


def test_the_report_is_one_page_that_needs_no_network(smoke):
    report = (outputs(smoke[0]) / "report.html").read_text()
    assert len(report) < 4_000_000
    assert not re.search(r"""(src|href)=["'](https?:)?//""", report) and "<script src" not in report
    links = re.findall(r'href="([^"#]+)"', report)
    assert links and all((outputs(smoke[0]) / link).exists() for link in links)


def test_results_say_where_they_come_from_and_hold_no_missing_number(smoke):
    for path in (outputs(smoke[0]) / "results").glob("*.json"):
        made = json.loads(path.read_text())["made"]
        assert made["commit"] and made["device"] and made["versions"]["torch"] != "not installed"


def test_a_second_run_finds_everything_up_to_date(smoke):
    again = run(smoke[0])
    assert again.returncode == 0 and again.stdout.count("up to date") == STAGES


def test_a_changed_parameter_redoes_what_depends_on_it_and_nothing_else(smoke):
    changed = run(smoke[0], "-p", "ensemble.members=4")
    assert changed.returncode == 0
    done = re.findall(r"\] (\S+)  done", changed.stdout)
    assert done == ["03_ensemble", "04_comparison"]


def test_a_notebook_without_its_network_fails_in_one_sentence_with_the_place_to_look(tmp_path):
    failed = run(tmp_path, "--only", "02")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert (
        "run 01_train for the method" in failed.stderr
        and "outputs/smoke/02_sampling_ablation.ipynb" in failed.stderr
    )
    assert (outputs(tmp_path) / "02_sampling_ablation.ipynb").exists()


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["-p", "cohort=nowhere"], "nowhere/card.json does not exist"),
        (["-p", "train.epoch=3"], "did you mean epochs?"),
        (["--only", "07"], "no notebook begins so"),
    ],
)
def test_mistakes_end_before_anything_runs(tmp_path, arguments, told):
    refused = run(tmp_path, *arguments)
    assert refused.returncode == 2 and told in refused.stderr and "Traceback" not in refused.stderr
    assert not list(tmp_path.glob("outputs/smoke/*.ipynb"))


def test_a_disk_that_refuses_ends_in_one_sentence(tmp_path):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "smoke").write_text("a file where the folder should be")
    refused = run(tmp_path)
    assert (
        refused.returncode == 1
        and "error: outputs/smoke" in refused.stderr
        and "Traceback" not in refused.stderr
    )


def test_an_error_of_the_system_that_is_no_refusing_disk_keeps_its_traceback():
    with pytest.raises(FileNotFoundError), told_in_a_sentence():
        Path("nowhere/at/all").read_text()


def test_a_kernel_that_dies_ends_in_one_sentence_and_leaves_no_result(tmp_path):
    notebook = tmp_path / "dies.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")]
        ),
        notebook,
    )
    with pytest.raises(Failed, match="dies: its kernel died"):
        execute(Stage("dies", notebook, {}, [], []), tmp_path, "dies")


def test_a_kernel_that_dies_before_it_is_ready_ends_in_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if 'ipykernel_launcher' in ' '.join(sys.orig_argv): os.kill(os.getpid(), signal.SIGKILL)"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    notebook = tmp_path / "never.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), notebook)
    with pytest.raises(Failed, match="never: its kernel died before it was ready"):
        execute(Stage("never", notebook, {}, [], []), tmp_path, "never")


@pytest.mark.parametrize(
    "left, removed",
    [("dose-kernel-ab_1", True), ("../dose-kernel-ab_1", False), ("other", False), ("", False)],
)
def test_sockets_that_a_killed_run_left_are_removed_and_nothing_else(tmp_path, monkeypatch, left, removed):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for name in ("tmp/dose-kernel-ab_1", "dose-kernel-ab_1", "tmp/other"):
        write_text(tmp_path / name / "k-1", "")
    write_text(tmp_path / "checkpoints" / "sockets.txt", left)
    with socket_folder(tmp_path) as sockets:
        assert (
            Path(sockets).parent == tmp_path / "tmp"
            and (tmp_path / "checkpoints" / "sockets.txt").read_text() == Path(sockets).name
        )
    assert (tmp_path / "tmp" / "dose-kernel-ab_1").exists() != removed
    assert (tmp_path / "tmp" / "other").exists() and (tmp_path / "dose-kernel-ab_1").exists()
    assert not (tmp_path / "checkpoints" / "sockets.txt").exists() and not Path(sockets).exists()


def test_trainings_that_the_experiment_no_longer_names_leave_its_report(tmp_path):
    for name in ("01_train_baseline", "01_train_ddpm-old", "04_comparison"):
        for path in (tmp_path / f"{name}.ipynb", tmp_path / "pages" / f"{name}.html"):
            write_text(path, "")
    forget_all_but(plan(load_params(ROOT / "params" / "smoke.yaml"), "smoke.yaml"), tmp_path)
    assert sorted(path.stem for path in tmp_path.rglob("*.*")) == sorted(
        2 * ["01_train_baseline", "04_comparison"]
    )


def test_without_a_sampled_method_nothing_is_sampled_and_what_was_leaves_the_report(tmp_path):
    params = {
        "experiment": "x",
        "cohort": "outputs/cohorts/phantom",
        "methods": ["baseline"],
        "comparison": {"drawn": ["baseline"]},
    }
    stages = plan(params, "x.yaml")
    assert [s.name for s in stages] == ["00_cohort", "01_train_baseline", "04_comparison"]
    assert next(s.needs for s in stages if s.name == "04_comparison") == ["01_train_baseline"]
    for name in ("00_cohort", "02_sampling_ablation", "03_ensemble", "04_comparison"):
        write_text(tmp_path / "results" / f"{name}.json", "{}")
    forget_all_but(stages, tmp_path)
    assert sorted(path.stem for path in tmp_path.rglob("*.json")) == ["00_cohort", "04_comparison"]
    cut = {
        s.name: s.parameters
        for s in plan(
            {k: v for k, v in params.items() if k != "comparison"} | {"methods": ["baseline", "flow"]},
            "x.yaml",
        )
    }
    assert cut["02_sampling_ablation"]["method"] == "flow" and cut["02_sampling_ablation"]["others"] == [
        "flow"
    ]  # the notebooks' own names as far as they go
    assert cut["03_ensemble"]["sampled"] == ["flow"] and cut["04_comparison"]["drawn"] == ["baseline", "flow"]
    only_v = {
        s.name: s.parameters
        for s in plan(
            {k: v for k, v in params.items() if k != "comparison"}
            | {"methods": ["gradient", "baseline", "ddpm_v"]},
            "x.yaml",
        )
    }
    assert only_v["02_sampling_ablation"]["method"] == "ddpm_v" and only_v["03_ensemble"]["sampled"] == [
        "ddpm_v"
    ]  # none of the notebook's own is listed
    gaussian = params | {
        "methods": ["baseline", "gaussian"],
        "ensemble": {"sampled": ["gaussian"]},
    }  # its spread can be judged, its steps cannot
    assert [s.name for s in plan(gaussian, "x.yaml")][3:] == ["03_ensemble", "04_comparison"]


def test_a_comparison_before_its_studies_is_refused_and_one_that_has_none_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Experiment("x", "outputs/cohorts/phantom", 0, 1, [], 42, "cpu", "32")
    with pytest.raises(UserError, match="02_sampling_ablation.json does not exist"):
        studies_before(run, ["baseline", "flow"])
    assert studies_before(run, ["baseline"]) == [None, None]
    write_text(run.folder / "results" / "03_ensemble.json", "{}")
    assert studies_before(run, ["baseline", "gaussian"]) == [None, {}]


def test_two_runs_on_one_folder_are_refused(tmp_path):
    with lock(outputs(tmp_path) / "checkpoints" / "run.lock", ""):
        second = run(tmp_path)
    assert second.returncode == 2 and "another run is working" in second.stderr


def test_comments_and_docstrings_make_nothing_stale_and_code_does():
    code = 'def f(x):\n    """Old."""\n    return x\n'
    assert code_digest(code) == code_digest('def f(x):\n    """New."""\n    # why\n    return x\n')
    assert code_digest(code) != code_digest(code.replace("return x", "return -x"))


def test_what_a_notebook_uses_is_found_through_its_imports():
    used = {path.name for path in modules_used("from lib.training.loop import train")}
    assert {"training.py", "unet.py", "features.py", "protocols.py"} <= used
    assert "figures.py" not in used and "html.py" not in used


@pytest.mark.parametrize("left_gb, told", [(0.001, True), (100, False)])
def test_a_run_that_would_fill_the_disk_is_refused_before_it_starts(left_gb, told, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    path = "params/openkbp-small.yaml"
    stages, card = (
        plan(load_params(path), path),
        read_json(ROOT / "outputs" / "cohorts" / "phantom" / "card.json"),
    )
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: SimpleNamespace(free=left_gb * 2**30))
    if told:
        with pytest.raises(UserError, match=r"writes about [\d.]+ GB more, and .* has 0.0 GB left"):
            disk.check_room(stages, card, tmp_path)
    else:
        disk.check_room(stages, card, tmp_path)


def test_what_smoke_writes_is_at_most_what_was_foretold_and_not_far_below(smoke):
    path = ROOT / "params" / "smoke.yaml"
    stages, card = (
        plan(load_params(path), path),
        read_json(ROOT / "outputs" / "cohorts" / "phantom" / "card.json"),
    )
    written_mb = disk.size_mb(outputs(smoke[0]) / "checkpoints")
    assert 0.3 * disk.estimate_mb(stages, card) < written_mb < disk.estimate_mb(stages, card)
