"""Other tools on one analytic patient: where they agree and where not, as lib/metrics/README.md says."""

import shutil

import numpy as np
import pytest
import witnesses

pytest.importorskip("pymedphys", reason="pymedphys has no release for this Python")


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    return witnesses.compute(tmp_path_factory.mktemp("witnesses"))


def of(values, point):
    return {name: values[name, point] for name in witnesses.STRUCTURES if (name, point) in values}


@pytest.mark.parametrize("criterion", witnesses.CRITERIA)
def test_gamma_is_pymedphyss(tools, criterion):
    assert tools["here"][criterion] == pytest.approx(tools["pymedphys"][criterion], abs=0.3)


@pytest.mark.plastimatch
@pytest.mark.parametrize("criterion", witnesses.CRITERIA)
def test_gamma_is_plastimatchs(tools, criterion):
    assert tools["here"][criterion] == pytest.approx(tools["plastimatch"][criterion], abs=0.5)


@pytest.mark.plastimatch
@pytest.mark.parametrize("point", ["D95 %", "D2 %"])
def test_doses_of_shares_are_plastimatchs(tools, point):
    ours = {name: value for name, value in of(tools["here"], point).items() if value is not None}
    theirs = of(tools["plastimatch"], point)
    assert ours == pytest.approx({name: theirs[name] for name in ours}, abs=0.3)


@pytest.mark.parametrize("tool", ["dicompyler-core", "SimpleITK"])
def test_volumes_and_means_are_those_of_other_tools(tools, tool):
    assert of(tools["here"], "volume") == pytest.approx(of(tools[tool], "volume"), rel=1e-6)
    assert of(tools["here"], "mean") == pytest.approx(of(tools[tool], "mean"), abs=0.006)  # half of a bin


def test_of_large_structures_all_points_are_dicompylers(tools):
    for point in witnesses.POINTS:
        ours, theirs = of(tools["here"], point), of(tools["dicompyler-core"], point)
        for name in ("PTV70", "Rectum"):
            assert ours[name] == pytest.approx(theirs[name], abs=1.0)


def test_the_hottest_tenth_of_a_cc_is_that_of_the_closed_form_within_a_third_of_a_voxel(tools):
    steepest_gy_mm = witnesses.RX_GY / (6 * (2 * np.pi) ** 0.5)
    exact, ours = of(tools["closed form"], "D0.1 cc"), of(tools["here"], "D0.1 cc")
    assert ours == pytest.approx(exact, abs=steepest_gy_mm * max(witnesses.SPACING_MM) / 3)


def test_the_readmes_table_is_what_the_tools_say(tools):
    stored = rows_of(witnesses.stored_table())
    computed = rows_of(witnesses.table(tools))
    if not shutil.which("plastimatch"):
        stored = {key: value for key, value in stored.items() if key[1] != "plastimatch"}
    assert stored == pytest.approx(computed, abs=0.06)


def rows_of(lines):
    """(row, tool) -> number of a table's lines."""
    [_, *tools], _, *rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    cells = {(title, tool): cell for title, *of_row in rows for tool, cell in zip(tools, of_row)}
    return {key: float(cell) for key, cell in cells.items() if cell}
