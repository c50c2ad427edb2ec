"""Protocols: the two of old to the last digit, every file sound, a clinic's clinic, and what is refused."""

import dataclasses
import hashlib

import frozen
import numpy as np
import pytest
from toys import toy_case

from lib.cases.case import load_case, save_case
from lib.cases.cohort import open_cohort
from lib.cases.protocol import PROTOCOLS, goal_from, make_protocol, protocol_of, read_protocol
from lib.errors import UserError
from lib.features.augmentation import mirror
from lib.features.batches import make_batch
from lib.features.channels import channels_of, constraint_vector, scale_ct
from lib.features.grid import Grid
from lib.features.samples import load_sample, make_sample
from lib.importers.cohort import Source, make_cohort
from lib.metrics.dvh import goal_values
from lib.models.config import config_from
from lib.models.unet import UNet
from lib.studies.checks import find_oddities
from lib.training.result import training_key

# --- the two of old ---

OLD = {
    "prostate": {
        "channels": ["ct", "PTV70", "PTV56", "Prostate", "Rectum", "Bladder", "Femur_L", "Femur_R", "Bowel"],
        "mirror": [0, 1, 2, 3, 4, 5, 7, 6, 8],
        "vector": [
            1,
            0.8,
            0,
            0.5,
            0.35,
            0.2,
            1.0714285714285714,
            0.5,
            0.35,
            0.25,
            0.1,
            0.39,
            0.6428571428571429,
        ],
        "ct": [
            0.25,
            0.25,
            0.49399998784065247,
            0.5,
            0.5092499852180481,
            0.8500000238418579,
            1.225000023841858,
        ]
        + [1.25],
        "goals": {
            "PTV70 V70 Gy ≥ 95 %": (100.0, True),
            "PTV70 D2 % ≤ 74.9 Gy": (70.0, True),
            "PTV56 V56 Gy ≥ 95 %": (100.0, True),
            "PTV56 beyond 10 mm of PTV70 D2 % ≤ 59.92 Gy": (67.26239776611328, False),
            "Rectum V50 Gy ≤ 50 %": (11.11111111111111, True),
            "Rectum V60 Gy ≤ 25 %": (0.0, True),
            "Rectum V70 Gy ≤ 15 %": (0.0, True),
            "Rectum Dmax ≤ 75 Gy": (56.0, True),
            "Bladder V50 Gy ≤ 50 %": (53.76344086021505, False),
            "Bladder V60 Gy ≤ 35 %": (22.58064516129032, True),
            "Bladder V70 Gy ≤ 25 %": (15.053763440860216, True),
            "Bladder Dmax ≤ 75 Gy": (70.0, True),
            "Femur_L V50 Gy ≤ 5 %": (0.0, True),
            "Femur_L Dmax ≤ 50 Gy": (15.270000457763672, True),
            "Femur_R V50 Gy ≤ 5 %": (0.0, True),
            "Femur_R Dmax ≤ 50 Gy": (20.920000076293945, True),
            "Bowel V45 Gy ≤ 195 cc": (5.04, True),
            "Bowel Dmax ≤ 52 Gy": (45.869998931884766, True),
        },
        "sample": "6be60ffc1a7f27651326a7719ea6ac2b82733e2953c95b3cdcce8a9535214bbe",
    },
    "head-and-neck": {
        "channels": [
            "ct",
            "PTV70",
            "PTV63",
            "PTV56",
            "Brainstem",
            "SpinalCord",
            "RightParotid",
            "LeftParotid",
        ]
        + ["Esophagus", "Larynx", "Mandible", "dose mask"],
        "mirror": [0, 1, 2, 3, 4, 5, 7, 6, 8, 9, 10, 11],
        "vector": [1, 0.9, 0.8] + [1] * 10,
        "ct": [-1.0240000486373901, -1.0, -0.024000000208616257, 0.0, 0.03700000047683716, 1.399999976158142]
        + [1.5, 1.5],
        "goals": {
            "PTV70 D99 % ≥ 66.5 Gy": (None, None),
            "PTV63 D99 % ≥ 59.9 Gy": (63.0, True),
            "PTV56 D99 % ≥ 53.2 Gy": (56.0, True),
            "Brainstem D0.1 cc ≤ 50 Gy": (46.92745590209961, True),
            "SpinalCord D0.1 cc ≤ 45 Gy": (59.10337448120117, False),
            "RightParotid Dmean ≤ 26 Gy": (50.07470703125, False),
            "LeftParotid Dmean ≤ 26 Gy": (17.704286575317383, True),
            "Esophagus Dmean ≤ 45 Gy": (12.555624961853027, True),
            "Larynx Dmean ≤ 45 Gy": (30.802858352661133, True),
            "Mandible D0.1 cc ≤ 73.5 Gy": (55.00406265258789, True),
        },
        "sample": "17d5c521983dd7d776901b71e4b3e501f3bcb4635df06d098cf0f2c8ef7c7c33",
    },
}


@pytest.mark.parametrize("site", OLD)
def test_the_two_sites_of_old_are_what_they_were_to_the_last_digit(site):
    """Values of the code before protocols were files, D0.1 cc on points; the digest is of the bits that a
    network sees."""
    case, kept = toy_case(site=site), OLD[site]
    channels, sample = channels_of(site), make_sample(case, Grid(1))
    assert list(channels.names) == kept["channels"] and channels.mirror_order() == kept["mirror"]
    assert constraint_vector(case) == kept["vector"]
    hu = np.array([-2000, -1000, -24, 0, 37, 1400, 2900, 5000])
    assert scale_ct(hu, PROTOCOLS[site]).tolist() == kept["ct"]
    found = goal_values(case, case.dose_gy)
    assert list(found) == list(kept["goals"])
    for text, (value, met) in kept["goals"].items():
        assert found[text] == (value if value is None else pytest.approx(value, rel=1e-12), met)
    assert digest_of(sample) == kept["sample"]


def digest_of(sample):
    return hashlib.sha256(sample.cond.numpy().tobytes() + sample.constraints.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("site", PROTOCOLS)
def test_every_goal_reads_back_from_its_words(site):
    protocol = PROTOCOLS[site]
    assert protocol.goals and protocol.content["source"] and protocol.content["fractions"] > 0
    for goal in protocol.goals:
        assert goal_from(goal.text, protocol.structures, "") == goal
    assert len({goal.text for goal in protocol.goals}) == len(protocol.goals)


# --- a clinic's own ---

CLINIC = """
title: two boosts
targets: {PTV_A: 66, PTV_B: from the plan, PTV_C: 50, PTV_D: 45}
organs: [Kidney_L, Kidney_R]
mirrored: [[Kidney_L, Kidney_R]]
goals: [PTV_B V95 % >= 95 %, Kidney_L Dmean <= 18 Gy, Kidney_R D0.1 cc <= 50 %, PTV_A D50 % >= 66 Gy]
"""


@pytest.fixture
def clinic(tmp_path):
    (tmp_path / "clinic.yaml").write_text(CLINIC)
    return read_protocol(tmp_path / "clinic.yaml")


def clinic_case(clinic, case_id="p_1", rx_gy=(66.0, 60.0, 50.0, 45.0), lacking=("Kidney_R",)):
    """Targets in four slabs, each at its prescription, the kidneys at 20 Gy."""
    case = toy_case(case_id)
    masks = {name: np.zeros(case.shape, bool) for name in clinic.structures if name not in lacking}
    dose_gy = np.where(case.dose_mask, 5, 0).astype(np.float32)
    for k, (name, mask) in enumerate(masks.items()):
        mask[4:9, 9:14, 3 + 3 * k : 6 + 3 * k] = True
        dose_gy[mask] = rx_gy[k] if k < 4 else 20
    prescribed = dict(zip(clinic.targets, rx_gy))
    fields = {"masks": masks, "dose_gy": dose_gy, "prescription_gy": prescribed}
    return dataclasses.replace(case, case_id=case_id, site=clinic.site, protocol=clinic, **fields)


def test_four_targets_and_any_organs_give_channels_and_a_vector(clinic):
    case = clinic_case(clinic)
    sample = make_sample(case, Grid(1))
    names = ("ct", "PTV_A", "PTV_B", "PTV_C", "PTV_D", "Kidney_L", "Kidney_R", "dose mask")
    assert sample.channels.names == names and len(sample.cond) == len(names)
    assert constraint_vector(case) == [66 / 70, 60 / 70, 50 / 70, 45 / 70, 1, 1, 1, 1, 1, 0]


def test_a_case_and_its_cohort_keep_the_protocol_with_them(clinic, tmp_path):
    case = clinic_case(clinic)
    save_case(case, tmp_path / "a.npz")
    (tmp_path / "clinic.yaml").unlink()
    back = load_case(tmp_path / "a.npz")
    assert (
        back.protocol == clinic
        and hash(back.protocol) == hash(clinic)
        and back.protocol.goals == clinic.goals
    )
    source = Source("clinic", {f"p_{k}": tmp_path / "a.npz" for k in range(3)}, load_case)
    cohort = make_cohort(tmp_path / "cohort", source, workers=1)
    assert open_cohort(tmp_path / "cohort").protocol == clinic and cohort.card["site"] == "clinic"


def test_a_kept_sample_has_the_protocol_as_well(clinic, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_case(clinic_case(clinic), tmp_path / "a.npz")
    cohort = make_cohort(tmp_path / "c", Source("clinic", {"p_1": tmp_path / "a.npz"}, load_case), workers=1)
    made, kept = (load_sample(cohort, "p_1", Grid(1)) for _ in range(2))
    assert made.channels == kept.channels and kept.channels.protocol == clinic


def test_a_case_of_a_protocol_of_this_code_keeps_only_its_name(tmp_path):
    assert toy_case().protocol.stored == "prostate"
    changed = make_protocol("prostate", PROTOCOLS["prostate"].content | {"title": "ours"}, "")
    assert changed.stored["title"] == "ours" and protocol_of(changed.stored) == changed


def test_flags_follow_their_structures_in_the_mirror_image(clinic):
    sample = make_sample(clinic_case(clinic), Grid(1))
    image = mirror(sample)
    assert image.constraints.tolist() == [*sample.constraints.tolist()[:4], 1, 1, 1, 1, 0, 1]
    assert bool((image.channels.select(image.cond, ("Kidney_R",)) < 0).any())
    assert not bool((image.channels.select(image.cond, ("Kidney_L",)) < 0).any())


def test_a_training_of_before_is_read_and_known_by_its_key():
    """Its configuration does not say how many constraints there are; it had 13, and is not trained anew."""
    samples = frozen.samples_for("baseline")
    config = frozen.config_for("baseline", samples)
    before = {name: value for name, value in dataclasses.asdict(config).items() if name != "n_constraints"}
    assert config_from(before, "config.json") == config and config.n_constraints == 13
    assert training_key(config) == training_key(dataclasses.replace(config, n_constraints=14))


def test_the_network_takes_as_many_constraints_as_the_protocol_has(clinic):
    batch = make_batch([make_sample(clinic_case(clinic), Grid(1))])
    network = UNet(len(batch.channels.names), 8, False, n_constraints=batch.constraints.shape[1])
    assert network(batch.cond, batch.constraints).shape == batch.dose.shape


# --- goals of the prescription ---


def test_a_relative_goal_is_of_the_targets_or_of_the_highest_prescription(clinic):
    values = goal_values(clinic_case(clinic, lacking=()), clinic_case(clinic, lacking=()).dose_gy)
    assert values["PTV_B V95 % ≥ 95 %"] == (100.0, True)  # of its 60 Gy, not of 66
    assert values["Kidney_R D0.1 cc ≤ 50 %"] == (pytest.approx(100 * 20 / 66), True)


def test_two_prescriptions_in_one_cohort_are_each_judged_by_their_own(clinic):
    for rx_gy in (60.0, 70.0):
        case = clinic_case(clinic, rx_gy=(66.0, rx_gy, 50.0, 45.0))
        for share, met in ((0.949, False), (0.951, True)):
            dose_gy = np.where(case.masks["PTV_B"], np.float32(share * rx_gy), case.dose_gy)
            assert goal_values(case, dose_gy)["PTV_B V95 % ≥ 95 %"] == (100.0 * met, met)


def test_goals_in_gy_are_not_judged_where_the_plan_prescribes_otherwise(clinic):
    """A 60 Gy plan by V70 of a protocol of 70 Gy; a target's own decides for it, the highest for organs."""
    case = toy_case()
    lower = dataclasses.replace(case, prescription_gy={"PTV70": 60.0, "PTV56": 56.0})
    values = goal_values(lower, lower.dose_gy)
    judged = {text for text, (value, _) in values.items() if value is not None}
    assert judged == {"PTV56 V56 Gy ≥ 95 %", "PTV56 beyond 10 mm of PTV70 D2 % ≤ 59.92 Gy"}
    sentence = "PTV70: the plan prescribes 60 Gy, the protocol prostate 70 Gy: 16 goals in Gy are not judged"
    assert sentence in find_oddities(lower)
    near = dataclasses.replace(case, prescription_gy={"PTV70": 69.0, "PTV56": 56.0})
    assert None not in [value for value, _ in goal_values(near, near.dose_gy).values()]
    as_planned = clinic_case(clinic, rx_gy=(60.0, 66.0, 50.0, 45.0))  # PTV_B is the highest, and as planned
    values = goal_values(as_planned, as_planned.dose_gy)
    assert values["Kidney_L Dmean ≤ 18 Gy"] == (20.0, False) and values["PTV_A D50 % ≥ 66 Gy"] == (None, None)


# --- bad input ---

GOOD = {"title": "t", "targets": {"PTV": 60}, "organs": ["Heart", "Lung_L", "Lung_R"]}
BAD = {
    "there is no key 'target'": {"target": {}},
    "it lacks 'organs'": {"organs": []},
    "title must be words, not 5": {"title": 5},
    r"the prescription of PTV must be a dose in Gy such as 60, or from the plan, not 7000": {
        "targets": {"PTV": 7000}
    },
    "the prescription of PTV must be .* not 0": {"targets": {"PTV": 0}},
    "the prescription of PTV must be .* not None": {"targets": {"PTV": None}},
    "PTV and ptv_ are two structures of one name": {"targets": {"PTV": 60, "ptv_": 50}},
    "PTV and PTV are two structures of one name": {"organs": ["PTV"]},
    "'ct' cannot be a structure's name": {"organs": ["ct"]},
    "'../x' cannot be a structure's name": {"organs": ["../x"]},
    "the goal 'Rectum Dmax <= 5 Gy' is on Rectum, which is not among PTV, Heart": {
        "goals": ["Rectum Dmax <= 5 Gy"]
    },
    "the goal 'Heart V20 <= 5 %' is not clear": {"goals": ["Heart V20 <= 5 %"]},
    "the goal 'Heart V20 Gy <= 5 Gy' is not clear": {"goals": ["Heart V20 Gy <= 5 Gy"]},
    "the goal 'Heart Dmean <= 5 cc' is not clear": {"goals": ["Heart Dmean <= 5 cc"]},
    "the goal 'Heart V2.0.1 Gy <= 5 %' is not clear": {"goals": ["Heart V2.0.1 Gy <= 5 %"]},
    r"aliases.Heart must be structure names such as \[Rectum\], not None": {"aliases": {"Heart": None}},
    "aliases: Rectum is not among PTV, Heart": {"aliases": {"Rectum": ["a"]}},
    "aliases: 'lung' would stand for two structures": {"aliases": {"Lung_L": ["Lung"], "Lung_R": "lung"}},
    "mirrored must be pairs": {"mirrored": [["Heart", "Rectum"]]},
    "mirrored must be pairs .*": {"mirrored": ["Heart"]},
    "mirrored must be .* pairs|mirrored must be pairs": {"mirrored": [["Heart", "Heart"]]},
    "ct must be like": {"ct": {"window_hu": [3000, -1000]}},
    "ct must be like .*window": {"ct": {"scale_hu": 0}},
    "ct must be like .* not": {"ct": {"scale": 5}},
    "fractions must be a number, not -1": {"fractions": -1},
    "dose_mask_channel must be true or false": {"dose_mask_channel": "no"},
    "constraint_vector: '50 Gu' is neither": {"constraint_vector": ["50 Gu"]},
}


@pytest.mark.parametrize("words", BAD)
def test_a_wrong_protocol_is_refused_in_a_sentence(words):
    with pytest.raises(UserError, match=f"^my.yaml: .*{words}"):
        make_protocol("my", GOOD | BAD[words], "my.yaml")


def test_a_key_twice_and_no_yaml_are_refused(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("title: t\ntargets: {PTV: 60, PTV: 50}\norgans: [Heart]\n")
    with pytest.raises(
        UserError, match=r"my.yaml is not readable as YAML: the key 'PTV' stands twice \(line 2\)"
    ):
        read_protocol(path)
    with pytest.raises(UserError, match="does not exist"):
        read_protocol(tmp_path / "none.yaml")
