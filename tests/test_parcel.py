"""What goes to a machine with a GPU, what comes back, and what is true of a step there."""

import subprocess
import sys
import tarfile

import pytest
import torch
from gpu import pack, parcel
from safetensors.torch import load_file, save_file

from lib.files import ROOT, write_json, write_text
from lib.seeds import generator_for, normal


@pytest.fixture
def patients(tmp_path):
    for name in ("train-pats/pt_10.xz", "train-pats/pt_2.xz", "validation-pats/pt_201.xz"):
        write_text(tmp_path / "small" / name, name)
    return tmp_path / "small"


def make(tmp_path, patients, *arguments):
    """The parcel by the command line, from wheels that are there."""
    wheels = tmp_path / "wheels"
    for name in ("nbformat-5.11-py3-none-any", "debugpy-1.8-py2.py3-none-any", "jinja2-3.1-py3-none-any"):
        write_text(wheels / f"{name}.whl", name)
    write_text(tmp_path / "has.txt", "numpy, Jinja2, torch.")
    command = [
        sys.executable,
        ROOT / "tests" / "gpu" / "parcel.py",
        tmp_path / "parcel",
        "--patients",
        patients,
    ]
    command += ["--unpack", __file__, "--wheels", wheels, "--has", tmp_path / "has.txt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_parcel_holds_the_patients_and_the_packages_that_lack(tmp_path, patients):
    done = make(tmp_path, patients)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "parcel" / "wheels").iterdir()] == [
        "nbformat-5.11-py3-none-any.whl"
    ]
    assert len(list((tmp_path / "parcel" / "patients").rglob("pt_*.xz"))) == 3
    assert "3 patients, 1 wheels" in done.stdout


def test_the_first_patients_are_those_of_the_lowest_numbers(tmp_path, patients):
    make(tmp_path, patients, "--first", "1")
    names = {path.name for path in (tmp_path / "parcel" / "patients").rglob("pt_*.xz")}
    assert names == {"pt_2.xz", "pt_201.xz"}


def test_a_parcel_that_does_not_fit_beside_the_checkout_is_an_error(tmp_path, patients):
    (patients / "train-pats" / "pt_3.xz").write_bytes(bytes(parcel.LIMIT_MIB * 2**20))
    assert make(tmp_path, patients).returncode == 1


def test_the_checkout_leaves_room_for_the_patients():
    """All patients and the packages take 45.5 MiB."""
    aside = str(ROOT / parcel.ASIDE)
    travel = [path for path in parcel.tracked() if not str(path).startswith(aside)]
    assert 0 < parcel.size_mib(travel) < parcel.LIMIT_MIB - 45.5


def test_names_of_packages_are_compared_as_indices_do():
    assert parcel.plain("Jupyter_Core.x") == parcel.plain("jupyter-core-x")


@pytest.fixture
def checkpoints(tmp_path):
    """Three trainings; `good` has the lowest error, `large` 20 MiB of weights in bfloat16."""
    folder = tmp_path / "outputs" / "run"
    for name, error_gy, n in (("bad", 3.5, 2), ("good", 2.5, 2), ("large", 3.0, 10)):
        checkpoint = folder / "checkpoints" / name
        write_text(checkpoint / "history.csv", f"epoch,validation_mae_gy\n1,9\n2,{error_gy}\n3,\n")
        write_json(checkpoint / "config.json", {"method": name})
        save_file({f"w{i}": torch.randn(2**20) for i in range(n)}, checkpoint / "weights.safetensors")
    return folder


def test_networks_come_back_in_bfloat16_the_most_accurate_first(tmp_path, checkpoints, capsys):
    out = tmp_path / "out"
    out.mkdir()
    found = pack.trainings(checkpoints)
    assert [path.name for path in found] == ["good", "large", "bad"]
    for number in range(pack.MOST_FILES - 1):  # there is room for one more
        write_text(out / f"{number}", "")
    for checkpoint in found:
        pack.write_network(out, checkpoint)
    back = load_file(out / "network-good.safetensors")
    first = load_file(found[0] / "weights.safetensors")
    assert back.keys() == first.keys()
    assert all(torch.equal(back[name], first[name].to(torch.bfloat16)) for name in back)
    assert len(list(out.iterdir())) == pack.MOST_FILES
    told = capsys.readouterr().out
    assert "large stays: 20 MiB" in told and "bad stays" in told


def test_a_network_larger_than_a_file_may_be_stays(tmp_path, checkpoints):
    out = tmp_path / "out"
    out.mkdir()
    pack.write_network(out, checkpoints / "checkpoints" / "large")
    assert not list(out.iterdir())


def test_the_archives_hold_what_there_is_and_none_is_empty(tmp_path, checkpoints):
    write_text(checkpoints / "results" / "budget.json", "{}")
    for name, patterns in pack.ARCHIVES.items():
        pack.archive(tmp_path / f"{name}.tar.xz", [checkpoints], patterns)
    assert not (tmp_path / "pages.tar.xz").exists()
    with tarfile.open(tmp_path / "results.tar.xz") as tar:
        assert {"run/results/budget.json", "run/checkpoints/good/history.csv"} <= set(tar.getnames())


def test_the_script_of_the_machine_is_readable_by_bash():
    script = ROOT / "tests" / "gpu" / "run.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_noise_on_the_cpu_is_the_stream_that_it_was():
    """By torch's own function, and so that what is drawn next is the same."""
    ours, plain = generator_for("a name"), generator_for("a name")
    assert torch.equal(normal((2, 3), ours, torch.device("cpu")), torch.randn((2, 3), generator=plain))
    assert torch.equal(torch.rand(4, generator=ours), torch.rand(4, generator=plain))
