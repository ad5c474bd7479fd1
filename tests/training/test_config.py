"""Pipelines: every key is checked, and the shipped numbers are the published ones."""

import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, is_dataclass
from typing import get_type_hints

import pytest
import yaml

from cardiac_attrivae.training.config import (
    Pipeline,
    Speed,
    load_pipeline,
    parse_pipeline,
    shipped_pipelines,
)
from cardiac_attrivae.training.config_text import render_pipeline
from cardiac_attrivae.training.objectives import (
    OBJECTIVES,
    AttributeObjective,
    AttriVAEObjective,
    SoftIntroObjective,
)

SHIPPED = sorted(shipped_pipelines())
MINIMAL = {"method": "mine", "attributes": ["LVEDV"]}


def rules(kind, where=""):
    """Dotted key -> what its value may be, of the keys that accept less than their type."""
    hints = get_type_hints(kind)
    for f in fields(kind):
        if is_dataclass(hints[f.name]):
            yield from rules(hints[f.name], f"{where}{f.name}.")
        elif f.metadata.get("rule"):
            yield where + f.name, f.metadata["rule"]


RULES = dict(rules(Pipeline))


@pytest.fixture
def written(tmp_path):
    """Writes a YAML file and gives back its path."""

    def write(name, text):
        (tmp_path / name).write_text(text if isinstance(text, str) else yaml.safe_dump(text))
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_pipeline_loads_and_is_named_after_its_file(name):
    assert load_pipeline(name).method == name


def test_reading_a_pipeline_imports_no_heavy_library():
    program = (
        "import sys; from cardiac_attrivae.training.config import load_pipeline as load;"
        "load('attri_sivae_unguided'); print(*{m.split('.')[0] for m in sys.modules})"
    )
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert "yaml" in loaded
    assert not {"torch", "monai", "ignite", "pandas", "matplotlib", "scipy"} & set(loaded)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_file_opens_with_a_comment_and_holds_no_tag(name):
    text = shipped_pipelines()[name].read_text()
    assert text.startswith("# ")
    assert "!" not in text  # no tags: a pipeline is data


@pytest.mark.parametrize("name", SHIPPED)
def test_a_resolved_pipeline_survives_yaml(name):
    pipeline = load_pipeline(name)
    again = parse_pipeline(yaml.safe_load(yaml.safe_dump(pipeline.to_dict())))
    assert again == pipeline
    assert again.to_dict() == pipeline.to_dict()


def test_beta_vae_has_the_numbers_of_the_paper():
    """Di Folco et al. (2023), section 3 and appendix A."""
    pipeline = load_pipeline("beta_vae")
    assert (pipeline.objective.beta, pipeline.objective.gamma) == (2, 0)
    assert (pipeline.optimiser.lr, pipeline.data.batch_size) == (5e-5, 16)
    assert (pipeline.schedule.epochs, pipeline.schedule.patience) == (3000, 500)
    assert pipeline.network.arguments["latent_size"] == 32
    assert pipeline.attributes == ("LVEDV", "MEDV", "RVEDV")
    assert pipeline.optimiser.schedule == "constant"
    assert pipeline.precision == "auto"


def test_attri_vae_differs_from_beta_vae_in_its_name_and_the_attribute_term():
    beta, attri = load_pipeline("beta_vae").to_dict(), load_pipeline("attri_vae").to_dict()
    assert (attri["objective"]["gamma"], attri["objective"]["delta"]) == (10, 10)
    assert attri["objective"]["attribute_target"] == "sign"
    assert attri["objective"]["attribute_codes"] == "sampled"
    assert {key for key in beta if beta[key] != attri[key]} == {"method", "objective"}
    assert attri["objective"]["beta"] == 2


def test_attributes_are_trained_on_the_dimension_of_their_place():
    attri, beta = load_pipeline("attri_vae"), load_pipeline("beta_vae")
    assert attri.dimensions(["RVEDV", "LVEDA", "LVEDV"]) == (2, None, 0)
    assert beta.dimensions(beta.attributes) == (None, None, None)


BAD = [
    (
        "objective.betta=1",
        "unknown key objective.betta, did you mean 'beta'?; expected one of gamma",
    ),
    ("gamma=1", "unknown key gamma, did you mean 'objective.gamma'?; expected one of method"),
    (
        "network.arguments.latent_size=.nan",
        "network.arguments.latent_size is nan; expected a finite",
    ),
    ("network.arguments.filters=[8, .inf]", "network.arguments.filters is inf; expected a finite"),
    (
        "network.arguments={1: 2}",
        "network.arguments has the key 1, which is no text; write it in quotes",
    ),
    ('method="a\\nb"', "expected a line of 1 to 64 printable characters"),
    (f"method={'a' * 65}", "expected a line of 1 to 64 printable characters"),
    ("optimiser.lr=fast", "optimiser.lr is 'fast'; expected a number"),
    ("optimiser.lr=true", "optimiser.lr is True; expected a number"),
    ("optimiser.lr=0", "optimiser.lr is 0; expected a number from 1e-09 to 10"),
    ("optimiser.lr=.nan", "optimiser.lr is nan; expected a number from 1e-09 to 10"),
    ("optimiser.betas=[0.9]", "optimiser.betas is [0.9]; expected a list of 2 values"),
    ("optimiser.betas=[0.9, 1]", "optimiser.betas is 1; expected a number from 0 to 0.999999"),
    ("optimiser.warmup=2", "optimiser.warmup is 2; expected a number from 0 to 1"),
    (
        "optimiser.milestones=[0]",
        "optimiser.milestones is 0; expected a whole number from 1 to 10000000",
    ),
    ("optimiser.milestones=3", "optimiser.milestones is 3; expected a list"),
    ("speed.fused=1", "speed.fused is 1; expected true or false"),
    (
        "speed.shared_passes=off course",
        "speed.shared_passes is 'off course'; expected true or false",
    ),
    ("speed.compiled=true", "unknown key speed.compiled, did you mean 'compile'?; expected one of"),
    ("optimiser.milestones=[1.5]", "optimiser.milestones is 1.5; expected a whole number"),
    (
        "objective.beta_neg=1",
        "unknown key objective.beta_neg, did you mean 'beta'?; expected one of gamma",
    ),
    ("objective.name=[SoftIntro]", "objective.name is ['SoftIntro']; expected one of AttriVAE"),
    (
        "objective.name=GAN",
        "objective.name is 'GAN'; expected one of AttriVAE, BetaTCVAE, Capacity, S",
    ),
    ("optimiser.average=1", "optimiser.average is 1; expected a number from 0 to 0.999999"),
    ("optimiser.schedule=linear", "is 'linear'; expected one of constant, cosine"),
    ("optimiser=3", "optimiser is 3; expected keys and values"),
    ("optimiser=null", "optimiser is None; expected keys and values"),
    ("network.arguments=[1]", "network.arguments is [1]; expected keys and values"),
    ("network.name=3", "network.name is 3; expected text"),
    ("data.batch_size=1", "data.batch_size is 1; expected a whole number from 2 to 65536"),
    ("data.batch_size=16.5", "data.batch_size is 16.5; expected a whole number"),
    ("data.slices=apical", "data.slices is 'apical'; expected one of basal, all"),
    ("data.residual=1.5", "data.residual is 1.5; expected a number from 0 to 1"),
    ("data.basal_weight=-1", "data.basal_weight is -1; expected a number, 0 or more"),
    ("objective.gamma=-1", "objective.gamma is -1; expected a number, 0 or more"),
    ("objective.gamma=.inf", "objective.gamma is inf; expected a number, 0 or more"),
    ("objective.delta=0", "objective.delta is 0; expected a number from 1e-06 to"),
    ("objective.attribute_target=rank", "is 'rank'; expected one of sign, graded"),
    ("objective.attribute_codes=z", "is 'z'; expected one of sampled, mean"),
    ("schedule.epochs=0", "schedule.epochs is 0; expected a whole number from 1 to"),
    ("schedule.epochs=many", "schedule.epochs is 'many'; expected a whole number"),
    (
        "schedule.evaluate_every=0",
        "schedule.evaluate_every is 0; expected a whole number from 1 to",
    ),
    ("schedule.keep=first", "schedule.keep is 'first'; expected one of best, last"),
    ("augmentation.zoom=-0.1", "augmentation.zoom is -0.1; expected a number, 0 or more"),
    ("objective.guided_from=1.5", "objective.guided_from is 1.5; expected a number from 0 to 1"),
    ("attributes=[]", "attributes is []; expected one name or more"),
    ("attributes=LVEDV", "attributes is 'LVEDV'; expected a list"),
    ("attributes=[LVEDV, QRS]", "unknown attribute 'QRS'; expected some of LVEDV"),
    ("attributes=[LVEDV, LVEDV]", "expected one or more, each once"),
    ("precision=float16", "precision is 'float16'; expected one of auto, float32, bfloat16"),
    ("codes=median", "codes is 'median'; expected one of mean, sampled"),
    ("objective.beta", "a change (--set) is 'objective.beta'; expected KEY=VALUE"),
    ("=3", "a change (--set) is '=3'; expected KEY=VALUE"),
    ("objective.beta={1", "the change (--set) 'objective.beta={1' is no YAML"),
]


@pytest.mark.parametrize(("override", "message"), BAD, ids=[override for override, _ in BAD])
def test_a_bad_override_is_refused_with_key_value_and_what_is_accepted(override, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is compared below
        load_pipeline("attri_vae", [override])
    assert message in str(error.value)


def test_one_override_that_is_no_list_is_refused_as_such():
    with pytest.raises(ValueError, match=r"expected a list: \['objective.beta=3'\]"):
        load_pipeline("attri_vae", "objective.beta=3")


@pytest.mark.parametrize("key", sorted(RULES))
def test_both_ends_and_every_choice_are_accepted_and_a_bad_value_is_in_the_table_above(key):
    for value in RULES[key].ends:
        lists = {"optimiser.betas": [0.9, value], "optimiser.milestones": [value]}
        load_pipeline("attri_vae", [f"{key}={lists.get(key, value)}"])
    assert any(override.startswith(f"{key}=") for override, _ in BAD)


def test_overrides_reach_nested_values_and_leave_their_neighbours():
    before = load_pipeline("attri_vae")
    after = load_pipeline(
        "attri_vae",
        ["objective.gamma=3", "network.arguments.latent_size=8", "attributes=[RVEDA]",
         "optimiser.betas=[0.5, 0.9]", "optimiser.lr=1e-3"],
    )  # fmt: skip
    assert after.objective.gamma == 3
    assert after.objective.delta == before.objective.delta
    assert after.network.arguments == before.network.arguments | {"latent_size": 8}
    assert after.attributes == ("RVEDA",)
    assert after.optimiser.betas == (0.5, 0.9)
    assert after.optimiser.lr == 1e-3  # YAML 1.1 reads 1e-3 as text


def test_a_later_override_wins():
    pipeline = load_pipeline("beta_vae", ["objective.beta=3", "objective.beta=4"])
    assert pipeline.objective.beta == 4


def test_a_base_is_laid_under_key_by_key(written):
    file = written("mine.yaml", {"base": "attri_vae", "objective": {"gamma": 1}})
    pipeline, below = load_pipeline(file), load_pipeline("attri_vae")
    assert pipeline.objective.gamma == 1
    assert pipeline.objective.beta == below.objective.beta
    assert pipeline.schedule == below.schedule


def test_a_base_may_be_a_file_beside_the_one_that_names_it(written):
    written("below.yaml", MINIMAL | {"optimiser": {"lr": 0.5}})
    file = written("above.yaml", {"base": "below.yaml", "method": "above"})
    pipeline = load_pipeline(file)
    assert (pipeline.method, pipeline.optimiser.lr) == ("above", 0.5)


def test_a_circle_of_bases_is_named(written):
    one = written("one.yaml", {"base": "two.yaml"})
    written("two.yaml", {"base": "one.yaml"})
    with pytest.raises(ValueError, match=r"is its own base: .*one\.yaml -> .*two\.yaml -> "):
        load_pipeline(one)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no YAML"),
        ("- 1", r"holds \[1\]; expected keys and values"),
        ("", "holds None; expected keys and values"),
        ("method: mine", "attributes is missing"),
        ("attributes: [LVEDV]", "method is missing"),
        ("method: !!python/tuple [1]", "is no YAML"),
        ("base: no_such\nmethod: mine", "no pipeline 'no_such'"),
    ],
)
def test_a_file_that_is_no_pipeline_is_refused(written, text, message):
    with pytest.raises(ValueError, match=message):
        load_pipeline(written("mine.yaml", text))


def test_a_misspelt_pipeline_is_met_with_the_nearest_name_and_all_names():
    with pytest.raises(ValueError, match=r"'atri_vae', did you mean 'attri_vae'\?; .*beta_vae"):
        load_pipeline("atri_vae")


def test_a_pipeline_cannot_be_changed_after_it_was_checked():
    with pytest.raises(FrozenInstanceError):
        parse_pipeline(MINIMAL).method = "other"


def test_every_number_is_of_the_type_that_its_key_says():
    pipeline = load_pipeline("beta_vae", ["objective.beta=2", "optimiser.lr=1"])
    assert isinstance(pipeline.objective.beta, float)
    assert isinstance(pipeline.optimiser.lr, float)
    assert all(math.isfinite(value) for value in vars(pipeline.augmentation).values())


def test_every_key_of_a_pipeline_is_documented():
    for field in fields(Pipeline):
        kind = get_type_hints(Pipeline)[field.name]
        if is_dataclass(kind):
            assert kind.__doc__
            assert not kind.__doc__.startswith(kind.__name__ + "(")  # the generated one


# -- printing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_a_printed_pipeline_is_the_same_pipeline(written, name):
    text = render_pipeline(name, ["optimiser.lr=0.5"])
    assert load_pipeline(written("printed.yaml", text)) == load_pipeline(name, ["optimiser.lr=0.5"])


def test_a_printed_pipeline_says_where_each_value_comes_from(written):
    written("below.yaml", "base: beta_vae\nmethod: below\noptimiser: {lr: 0.5} # tried\n")
    above = written("above.yaml", "base: below.yaml\nobjective: {name: SoftIntro, gamma: 1}\n")
    lines = [line.strip() for line in render_pipeline(above, ["data.residual=0.5"]).splitlines()]
    assert f"method: below  # {above.parent / 'below.yaml'}" in lines
    assert f"lr: 0.5  # {above.parent / 'below.yaml'}: tried" in lines
    assert f"gamma: 1.0  # {above}" in lines
    assert "residual: 0.5  # --set" in lines
    assert "beta_neg: 256.0  # default" in lines
    assert "delta: 10.0  # default" in lines  # that of beta_vae went with its objective
    assert "batch_size: 16  # beta_vae: seed" in lines


# -- objectives by name --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"), [item for item in OBJECTIVES.items() if item[1]().has_codes]
)
def test_the_name_of_an_objective_decides_what_it_is(name, kind):
    pipeline = parse_pipeline(MINIMAL | {"objective": {"name": name, "gamma": 3}})
    assert type(pipeline.objective) is kind
    assert (pipeline.objective.name, pipeline.objective.gamma) == (name, 3.0)
    assert pipeline.to_dict()["objective"]["name"] == name
    assert parse_pipeline(pipeline.to_dict()) == pipeline


@pytest.mark.parametrize("values", [{}, {"objective": {}}, {"objective": {"beta": 3}}])
def test_an_objective_without_a_name_is_that_of_attri_vae(values):
    assert type(parse_pipeline(MINIMAL | values).objective) is AttriVAEObjective


def own_keys(kind):
    return {f.name for f in fields(kind)} - {f.name for f in fields(AttributeObjective)} - {"name"}


def test_the_keys_of_the_objectives_are_different_ones():
    assert own_keys(AttriVAEObjective) == {"beta"}
    assert {"beta_neg", "gamma_r", "vae_epochs"} < own_keys(SoftIntroObjective)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *[("SoftIntro", key) for key in sorted(own_keys(AttriVAEObjective))],
        *[("AttriVAE", key) for key in sorted(own_keys(SoftIntroObjective))],
    ],
)
def test_keys_of_another_objective_are_refused(name, key):
    with pytest.raises(ValueError, match=f"unknown key objective.{key}.*; expected one of gamma"):
        parse_pipeline(MINIMAL | {"objective": {"name": name, key: 1}})


BELOW = MINIMAL | {
    "network": {"name": "BetaVAE", "arguments": {"init": "he", "latent_size": 7}},
    "objective": {"name": "AttriVAE", "beta": 3, "gamma": 5},
    "optimiser": {"lr": 0.5},
}


def laid_over(written, below, above):
    written("below.yaml", below)
    return load_pipeline(written("above.yaml", {"base": "below.yaml"} | above))


def test_another_objective_has_default_options_and_nothing_else_changes(written):
    pipeline = laid_over(written, BELOW, {"objective": {"name": "SoftIntro", "beta_rec": 0.5}})
    assert pipeline.objective == SoftIntroObjective(beta_rec=0.5)  # gamma 5 is gone, too
    assert pipeline.network.arguments == BELOW["network"]["arguments"]
    assert pipeline.optimiser.lr == 0.5


def test_another_network_has_default_arguments_and_nothing_else_changes(written):
    above = {"network": {"name": "SoftIntroVAE", "arguments": {"filters": [2, 4]}}}
    pipeline = laid_over(written, BELOW, above)
    assert pipeline.network.name == "SoftIntroVAE"
    assert pipeline.network.arguments == {"filters": [2, 4]}
    assert pipeline.objective == AttriVAEObjective(beta=3, gamma=5)


@pytest.mark.parametrize("named", [{}, {"name": "AttriVAE"}])
def test_the_same_objective_inherits_whether_it_is_named_again_or_not(written, named):
    pipeline = laid_over(written, BELOW, {"objective": named | {"gamma": 9}})
    assert pipeline.objective == AttriVAEObjective(beta=3, gamma=9)


@pytest.mark.parametrize("named", [{}, {"name": "BetaVAE"}])
def test_the_same_network_inherits_whether_it_is_named_again_or_not(written, named):
    above = {"network": named | {"arguments": {"latent_size": 9}}}
    pipeline = laid_over(written, BELOW, above)
    assert pipeline.network.arguments == {"init": "he", "latent_size": 9}


def test_to_name_what_is_the_default_anyway_is_to_name_the_same(written):
    below = MINIMAL | {
        "network": {"arguments": {"latent_size": 7}},
        "objective": {"beta": 3},
    }
    above = {
        "network": {"name": "BetaVAE", "arguments": {"init": "he"}},
        "objective": {"name": "AttriVAE", "gamma": 9},
    }
    pipeline = laid_over(written, below, above)
    assert pipeline.objective == AttriVAEObjective(beta=3, gamma=9)
    assert pipeline.network.arguments == {"init": "he", "latent_size": 7}


def test_an_override_may_change_the_objective_and_a_later_one_its_keys():
    overrides = ["objective.name=SoftIntro", "objective.beta_neg=3"]
    assert load_pipeline("attri_vae", overrides).objective == SoftIntroObjective(beta_neg=3)
    pipeline = load_pipeline("attri_sivae_acdc", ["objective.name=AttriVAE"])
    assert pipeline.objective == AttriVAEObjective()


def test_the_nearest_file_decides_where_two_replace_an_objective(written):
    written("one.yaml", BELOW)
    written("two.yaml", {"base": "one.yaml", "objective": {"name": "SoftIntro", "gamma": 2}})
    three = written("three.yaml", {"base": "two.yaml", "objective": {"beta_neg": 4}})
    assert load_pipeline(three).objective == SoftIntroObjective(gamma=2, beta_neg=4)


@pytest.mark.parametrize("key", [f.name for f in fields(Speed)])
@pytest.mark.parametrize("value", [True, False])
def test_every_key_of_speed_is_a_switch(key, value):
    pipeline = load_pipeline("attri_sivae_acdc", [f"speed.{key}={str(value).lower()}"])
    assert getattr(pipeline.speed, key) is value
    assert pipeline.to_dict()["speed"][key] is value
    others = {f.name for f in fields(Speed)} - {key}
    assert all(getattr(pipeline.speed, name) == getattr(Speed(), name) for name in others)


def test_nothing_is_compiled_unless_asked_for():
    assert Speed() == Speed(channels_last=True, fused=True, shared_passes=True, compile=False)


def test_milestones_are_whole_numbers_and_survive_yaml():
    pipeline = load_pipeline("soft_intro_vae_acdc", ["optimiser.milestones=[1, 350]"])
    assert pipeline.optimiser.milestones == (1, 350)
    text = yaml.safe_dump(pipeline.to_dict())
    assert parse_pipeline(yaml.safe_load(text)) == pipeline
    assert load_pipeline("soft_intro_vae_acdc").optimiser.milestones == ()
