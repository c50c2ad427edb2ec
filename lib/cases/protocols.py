"""Structures, prescriptions, clinical goals and the reference's constraint vector, one table per site.

Prostate goals: the reference study's evaluation. Head-and-neck goals: OpenKBP-Opt (Babier et al. 2022,
Phys. Med. Biol. 67:185012), Table 1. A goal reads `structure, statistic, at, sense, limit, unit`.
"""

from typing import NamedTuple

from lib.cases.case import Case


class Goal(NamedTuple):
    """One row: a clinical goal and, in `reference_limit`, the limit in the reference's constraint vector.

    `statistic` "V" (volume share) and "Vcc" take `at` in Gy, "D" in %, "Dcc" in cc; "mean" and "max" take
    none. A row whose `limit` is None is only in the constraint vector, which the study made of other numbers.
    """

    structure: str
    statistic: str
    at: float | None
    sense: str  # "<=" or ">="
    limit: float | None
    unit: str  # "%", "cc" or "Gy"
    reference_limit: float | None = None

    @property
    def text(self) -> str:
        """The goal in words, such as "Rectum V50 Gy ≤ 50 %"."""
        unit = {"V": " Gy", "Vcc": " Gy", "D": " %", "Dcc": " cc"}.get(self.statistic)
        quantity = f"{self.statistic[0]}{self.at:g}{unit}" if unit else f"D{self.statistic}"
        return f"{self.structure} {quantity} {'≤' if self.sense == '<=' else '≥'} {self.limit:g} {self.unit}"


class Protocol(NamedTuple):
    """What one treatment site has: plain values, as a file could hold them."""

    title: str
    targets: dict[str, float]  # name -> its usual prescription in Gy
    organs: tuple[str, ...]
    mirrored: tuple[tuple[str, str], ...]  # pairs of organs that a left-right flip swaps
    table: tuple[Goal, ...]
    ct_window_hu: tuple[float, float]  # CT is clipped to it
    ct_scale_hu: float  # then divided by this
    ct_offset: float  # and this added
    dose_mask_channel: bool  # whether the dose mask is an input of the network

    @property
    def structures(self) -> tuple[str, ...]:
        return (*self.targets, *self.organs)

    @property
    def goals(self) -> tuple[Goal, ...]:
        return tuple(goal for goal in self.table if goal.limit is not None)


PROSTATE = Protocol(
    title="prostate, simultaneous integrated boost in 28 fractions",
    targets={"PTV70": 70.0, "PTV56": 56.0},
    organs=("Prostate", "Rectum", "Bladder", "Femur_L", "Femur_R", "Bowel"),
    mirrored=(("Femur_L", "Femur_R"),),
    table=(
        Goal("PTV70", "V", 70.0, ">=", 95.0, "%"),
        Goal("PTV70", "D", 2.0, "<=", 74.9, "Gy"),
        Goal("PTV56", "V", 56.0, ">=", 95.0, "%"),
        Goal("PTV56 beyond 10 mm of PTV70", "D", 2.0, "<=", 59.92, "Gy"),
        Goal("Rectum", "V", 50.0, "<=", 50.0, "%", 50.0),
        Goal("Rectum", "V", 60.0, "<=", 25.0, "%", 35.0),
        Goal("Rectum", "V", 70.0, "<=", 15.0, "%", 20.0),
        Goal("Rectum", "max", None, "<=", 75.0, "Gy", 75.0),
        Goal("Bladder", "V", 50.0, "<=", 50.0, "%"),
        Goal("Bladder", "V", 60.0, "<=", 35.0, "%"),
        Goal("Bladder", "V", 65.0, "<=", None, "%", 50.0),
        Goal("Bladder", "V", 70.0, "<=", 25.0, "%", 35.0),
        Goal("Bladder", "V", 75.0, "<=", None, "%", 25.0),
        Goal("Bladder", "max", None, "<=", 75.0, "Gy"),
        Goal("Femur_L", "V", 50.0, "<=", 5.0, "%", 10.0),
        Goal("Femur_L", "max", None, "<=", 50.0, "Gy"),
        Goal("Femur_R", "V", 50.0, "<=", 5.0, "%"),
        Goal("Femur_R", "max", None, "<=", 50.0, "Gy"),
        Goal("Bowel", "Vcc", 45.0, "<=", 195.0, "cc", 195.0),
        Goal("Bowel", "max", None, "<=", 52.0, "Gy"),
        Goal("SpinalCord", "max", None, "<=", None, "Gy", 45.0),
    ),
    ct_window_hu=(-1000.0, 3000.0),
    ct_scale_hu=4000.0,
    ct_offset=0.5,
    dose_mask_channel=False,
)

HEAD_AND_NECK = Protocol(
    title="head and neck, simultaneous integrated boost in 35 fractions",
    targets={"PTV70": 70.0, "PTV63": 63.0, "PTV56": 56.0},
    organs=("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible"),
    mirrored=(("LeftParotid", "RightParotid"),),
    table=(
        Goal("PTV70", "D", 99.0, ">=", 66.5, "Gy"),
        Goal("PTV63", "D", 99.0, ">=", 59.9, "Gy"),
        Goal("PTV56", "D", 99.0, ">=", 53.2, "Gy"),
        Goal("Brainstem", "Dcc", 0.1, "<=", 50.0, "Gy"),
        Goal("SpinalCord", "Dcc", 0.1, "<=", 45.0, "Gy"),
        Goal("RightParotid", "mean", None, "<=", 26.0, "Gy"),
        Goal("LeftParotid", "mean", None, "<=", 26.0, "Gy"),
        Goal("Esophagus", "mean", None, "<=", 45.0, "Gy"),
        Goal("Larynx", "mean", None, "<=", 45.0, "Gy"),
        Goal("Mandible", "Dcc", 0.1, "<=", 73.5, "Gy"),
    ),
    ct_window_hu=(-1024.0, 1500.0),
    ct_scale_hu=1000.0,
    ct_offset=0.0,
    dose_mask_channel=True,
)

PROTOCOLS = {"prostate": PROSTATE, "head-and-neck": HEAD_AND_NECK}


def constraint_vector(case: Case) -> list[float]:
    """The 13 numbers that reach the network through FiLM.

    Prostate: the reference's (three prescriptions / primary, then its limits: % / 100, cc / 500, Gy /
    primary). Head and neck: three prescriptions / 70 Gy, 0 if absent, then ten flags, 1 where the structure
    is present.
    """
    protocol = PROTOCOLS[case.site]
    if case.site == "prostate":
        targets = [case.prescription_gy.get(name, 0.0) / case.rx_gy for name in ("PTV70", "PTV56", "PTV50.4")]
        unit = {"%": 100.0, "cc": 500.0, "Gy": case.rx_gy}
        return targets + [g.reference_limit / unit[g.unit] for g in protocol.table if g.reference_limit]
    targets = [case.prescription_gy.get(name, 0.0) / 70.0 for name in protocol.targets]
    return targets + [float(name in case.masks) for name in protocol.structures]
