"""A run within minutes: the epochs that fit, stages that end when their time is up, what is left then."""

import os
import subprocess
import sys
import time

import pytest
import torch
import yaml
from toys import toy_cohort

from lib.errors import UserError
from lib.files import ROOT, read_json, write_text
from lib.runner import budget as budgets
from lib.runner import costs
from lib.runner.budget import Budget
from lib.runner.command import Failure
from lib.runner.costs import Cost
from lib.runner.kernel import Provisioner
from lib.runner.plan import Stage

COSTS = [Cost("baseline", 0.1, 20, 2.0, 4.0), Cost("ddpm", 0.2, 20, 4.0, 6.0)]


class Clock:
    """A clock that a test sets."""

    at = 0.0

    def __call__(self):
        return self.at


def a_budget(folder, minutes=10.0, clock=None):
    return Budget(folder / budgets.FILE, 60 * minutes, {"trainings": []}, started=0.0, now=clock or Clock())


def a_stage(folder, name):
    failure = folder / "failed.json" if name.startswith("01") else None
    (folder / "card.json").write_text("{}")
    return Stage(name, ROOT / "notebooks" / "00_cohort.ipynb", {"cohort": str(folder)}, [], [], failure)


def test_the_epochs_are_the_most_that_fit():
    """Two seconds and four an epoch, four and six once: 10 + 6 n seconds one after the other."""
    for left_s in (16.0, 21.9, 22.0, 100.0, 3600.0):
        epochs = costs.epochs_that_fit(COSTS, left_s, jobs=1)
        assert 10 + 6 * epochs <= left_s < 10 + 6 * (epochs + 1)


def test_side_by_side_trainings_take_their_rounds_or_what_they_share():
    """Rounds of `jobs` trainings, each of the mean time; or, where it is longer, what a GPU computes."""
    assert costs.time_for(COSTS, 5, jobs=1) == pytest.approx(10 + 5 * 6)
    assert costs.time_for(COSTS, 5, jobs=2) == costs.time_for(COSTS, 5, jobs=8) == pytest.approx(5 + 5 * 3)
    assert costs.time_for([*COSTS, COSTS[1]], 5, jobs=2) == pytest.approx((16 + 5 * 10) * 2 / 3)
    shared = [cost._replace(shared_s=0.75 * cost.epoch_s) for cost in COSTS]
    assert costs.time_for(shared, 5, jobs=1) == pytest.approx(10 + 5 * 6)
    assert costs.time_for(shared, 5, jobs=2) == pytest.approx(5 + 5 * 4.5)


def test_a_budget_too_small_for_one_epoch_is_refused_with_one_that_is_not():
    with pytest.raises(UserError, match="hold no epoch: one of all 2 trainings takes 16 s here") as raised:
        budgets.refuse_too_short(COSTS, 15.9, jobs=1, given_s=60.0)
    advised = float(str(raised.value).split("--minutes ")[1].split(",")[0])
    more_s = budgets.TRAININGS * 60 * (advised - 1.0)
    assert costs.epochs_that_fit(COSTS, 15.9 + more_s, jobs=1) >= 1


def test_every_stage_ends_before_the_next_and_the_pages_still_have_time(tmp_path):
    budget = a_budget(tmp_path)
    names = ["01_train_ddpm", "02_sampling_ablation", "03_ensemble", "04_comparison", "05_report"]
    ends = [budget.latest_s(name) for name in names]
    assert ends == sorted(set(ends)) and ends[-1] == budget.seconds - budgets.PAGES_S
    assert budgets.TRAININGS * budget.seconds < ends[0]


def test_a_stage_whose_time_is_up_is_not_begun_and_leaves_no_result(tmp_path):
    budget, called = a_budget(tmp_path), []
    stage = a_stage(tmp_path, "02_sampling_ablation")
    write_text(tmp_path / "results" / "02_steps.csv", "stale")
    write_text(tmp_path / "results" / "03_ensemble.csv", "of another")
    budget.now.at = budget.latest_s("02") + 1
    assert budgets.within(budget, tmp_path, lambda stage: called.append(stage) or True)(stage)
    assert not called and [path.name for path in (tmp_path / "results").glob("*.csv")] == ["03_ensemble.csv"]
    assert "02_sampling_ablation (not begun: its time was up)" in budgets.incomplete(tmp_path)


def test_a_training_that_failed_says_why_and_the_others_go_on(tmp_path):
    def work(stage):
        if stage.name == "01_train_ddpm":
            raise Failure("01_train_ddpm failed: for a reason\nsee elsewhere")
        return True

    budget = a_budget(tmp_path)
    bound = budgets.within(budget, tmp_path, work)
    stages = [a_stage(tmp_path, name) for name in ("01_train_ddpm", "04_comparison")]
    assert [bound(stage) for stage in stages] == [True, True]
    assert "for a reason" in read_json(stages[0].failure)["reason"]
    with pytest.raises(Failure, match="for a reason; the rest is in the report"):
        budgets.close_budget(budget, tmp_path)
    stored = read_json(budget.file)
    assert [row["outcome"] for row in stored["stages"]][1] == "done" and stored["state"] == "incomplete"


def test_a_run_without_a_limit_and_a_whole_one_are_not_called_incomplete(tmp_path):
    assert budgets.incomplete(tmp_path) == ""
    budget = a_budget(tmp_path)
    budgets.within(budget, tmp_path, lambda stage: True)(a_stage(tmp_path, "05_report"))
    budgets.close_budget(budget, tmp_path)
    assert budgets.incomplete(tmp_path) == "" and read_json(budget.file)["state"] == "complete"


def test_a_kernel_that_does_not_end_when_asked_is_killed(tmp_path, monkeypatch):
    """The real clock and a real process that ignores the first."""
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(1, flush=True)"
    process = subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep(60)"], stdout=subprocess.PIPE)
    process.stdout.readline()
    monkeypatch.setattr(budgets, "GRACE_S", 0.3)
    monkeypatch.setitem(Provisioner.processes, str(tmp_path / "words"), process)
    started = time.monotonic()
    with budgets.ended_after(0.2, tmp_path / "words"):
        process.wait(20)
    assert 0.5 <= time.monotonic() - started < 10 and process.returncode == -9


def test_a_stage_that_ends_in_time_is_left_alone(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(budgets, "signal_kernels", lambda *given: asked.append(given))
    with budgets.ended_after(0.2, tmp_path):
        pass
    time.sleep(0.4)
    assert not asked


def test_too_little_memory_halves_the_batch_until_one_is_left(capsys):
    assert costs.halve(8) == 4 and "8 patients a step: 4" in capsys.readouterr().out
    with pytest.raises(UserError, match="too little memory to train with one patient"):
        costs.halve(1)


PARAMS = {
    "experiment": "try",
    "cohort": "toys",
    "coarsen": 1,
    "precision": "32",
    "methods": ["baseline", "ddpm", "refine", "baseline-seed43"],
    "variants": {"baseline-seed43": {"seed": 43}},
    "train": {
        "epochs": 1000,
        "batch_size": 4,
        "base_channels": 8,
        "validate_every": 5,
        "validation_steps": 1,
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a cohort of five training patients."""
    monkeypatch.chdir(tmp_path)
    toy_cohort(tmp_path / "toys", n=7, site="head-and-neck")
    return tmp_path / "outputs" / "try"


STEP_S = {"baseline": 0.05, "ddpm": 0.1, "refine": 0.1}  # as the tests' device takes


@pytest.fixture
def no_server(monkeypatch):
    """As in a process that has just begun, of no notebooks, on a device whose steps take known times."""
    monkeypatch.setattr(budgets, "start_server", lambda: None)
    monkeypatch.setattr(budgets, "age_s", lambda: 0.0)
    monkeypatch.setattr(
        costs, "seconds_of_steps", lambda state, *_: costs.STEPS * [STEP_S[state.config.method]]
    )


def test_the_plan_is_measured_told_written_and_kept_for_the_next_run(folder, no_server, capsys):
    params, stages, budget = budgets.open_budget(PARAMS, "p.yaml", folder, 5.0, jobs=1)
    plan, told = read_json(budget.file), capsys.readouterr().out
    rows = {row["training"]: row for row in plan["trainings"]}
    assert list(rows) == PARAMS["methods"]
    assert {name: row["step_s"] for name, row in rows.items()} == pytest.approx(
        STEP_S | {"baseline-seed43": 0.05}
    )
    assert {row["steps"] for row in rows.values()} == {2}  # five patients, four a step
    left_s = budgets.TRAININGS * (300 - budgets.REPORT_S) - plan["measured_s"]
    planned_s, epoch_s = (
        sum(row["planned_s"] for row in rows.values()),
        sum(c["epoch_s"] for c in rows.values()),
    )
    assert planned_s <= left_s + 0.01 < planned_s + epoch_s + 0.02 and epoch_s == pytest.approx(0.6, rel=0.1)
    assert f"{plan['epochs']} epochs of each training" in told and plan["state"] == "running"
    assert {stage.parameters["epochs"] for stage in stages if stage.name.startswith("01")} == {plan["epochs"]}
    assert params["train"] == PARAMS["train"] | {"epochs": plan["epochs"], "batch_size": 4}
    again, _, _ = budgets.open_budget(PARAMS, "p.yaml", folder, 8.0, jobs=1)
    assert again == params and "as planned when this was begun" in capsys.readouterr().out


def test_a_step_that_is_measured_is_the_loops(folder):
    """It changes the weights, and its time is that of a clock around it."""
    stage = costs.plan(PARAMS, "p.yaml")[1]
    run, values = costs.experiment_of(stage.parameters), costs.training_parameters(stage.parameters)
    samples, started = run.load_samples("train"), time.monotonic()
    config = costs.make_config(run, samples, **values)
    state = costs.TrainingState(config, torch.device("cpu"))
    before = [weight.clone() for weight in state.network.parameters()]
    [seconds] = costs.seconds_of_steps(state, samples, limit_s=0.0)
    assert 0 < seconds <= time.monotonic() - started and state.step == 1
    assert any(not torch.equal(a, b) for a, b in zip(before, state.network.parameters()))


def test_a_batch_that_is_too_large_is_halved_for_all_trainings(folder, no_server, monkeypatch):
    def steps(state, samples, limit_s):
        if state.config.batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [0.001]

    monkeypatch.setattr(costs, "seconds_of_steps", steps)
    params, stages, _ = budgets.open_budget(PARAMS, "p.yaml", folder, 10.0, jobs=1)
    assert params["train"]["batch_size"] == 2
    assert {stage.parameters["batch_size"] for stage in stages if stage.name.startswith("01")} == {2}


@pytest.mark.parametrize(
    "change, minutes, sentence",
    [
        ({}, -1, "--minutes is -1; it must be more than 0"),
        ({}, float("nan"), "must be more than 0"),
        (
            {"variants": {"baseline-seed43": {"epochs": 3}}},
            9,
            "variants.baseline-seed43.epochs: with --minutes",
        ),
        ({}, 0.9, "hold no epoch"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(folder, no_server, change, minutes, sentence):
    with pytest.raises(UserError, match=sentence):
        budgets.open_budget(PARAMS | change, "p.yaml", folder, minutes, jobs=1)
    assert not folder.exists()


def test_minutes_are_for_files_with_trainings():
    params = {"experiment": "try", "cohort": "toys", "speed": {}}
    with pytest.raises(UserError, match="p.yaml has no trainings, among which --minutes would share"):
        budgets.check_budget(params, "p.yaml", 9)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_file_that_asks_for_one_is_refused(folder, no_server):
    with pytest.raises(UserError, match="PyTorch finds no GPU here"):
        budgets.open_budget(PARAMS | {"device": "cuda"}, "p.yaml", folder, 9, jobs=1)


def test_a_run_from_the_command_line_tells_its_plan_and_what_became_of_it(folder, tmp_path):
    """As few epochs as the file says fit; the same command finds all done."""
    params = PARAMS | {"methods": ["baseline"], "variants": {}, "train": PARAMS["train"] | {"epochs": 2}}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(params))
    command = [sys.executable, "-m", "lib", "run", "p.yaml", "--only", "01", "--minutes", "3"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DOSE_FOLDER": str(tmp_path), "OMP_NUM_THREADS": "1"}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    first, again = (subprocess.run(command, check=False, **options) for _ in range(2))
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert "2 epochs of each training" in first.stdout and "a step took" in first.stdout
    assert "01_train_baseline  up to date" in again.stdout
    assert read_json(folder / budgets.FILE)["state"] == "complete"
    assert yaml.safe_load((folder / "experiment.yaml").read_text())["train"]["epochs"] == 2
