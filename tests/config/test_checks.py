"""Checks across groups, instantiation and the hash of a config."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

import limoe
from limoe.config.checks import check
from limoe.config.objects import config_hash, instantiate, plain
from limoe.config.places import config_dir, experiment_dir, register_resolvers, run_id
from limoe.errors import ConfigError

GOOD: dict[str, Any] = {
    "model": {
        "width": 8,
        "depth": 4,
        "num_heads": 2,
        "mlp_dim": 16,
        "patch_size": 4,
        "image_size": 16,
        "moe_layers": [1, 3],
        "num_experts": 4,
    },
    "routing": {"_target_": "limoe.routing.token_choice.TopKRouter", "k": 1, "noise_std": 1.0, "pairs_per_group": 8},
    "aux_loss": {"load": {"_target_": "limoe.losses.auxiliary.classic.Load", "weight": 1.0}},
    "data": {"batch_size": 16},
    "trainer": {"max_steps": 10},
}


def config(**changes: Any) -> DictConfig:
    cfg = OmegaConf.create(copy.deepcopy(GOOD))
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, merge=False)
    return cfg


def test_good_configs_pass() -> None:
    check(config())
    check(config(model__moe_layers=[], aux_loss={}, data__batch_size=13))
    check(config(data__batch_size=4))  # smaller than a group: one group of 4
    check(config(routing__pairs_per_group=None, data__batch_size=13))
    check(config(micro_batch_size=8))
    check(config(micro_batch_size=2, model__moe_layers=[], aux_loss={}))
    check(config(micro_batch_size=2, routing__pairs_per_group=None))
    check(
        config(routing__noise_std=0, aux_loss={"z": {"_target_": "limoe.losses.auxiliary.classic.ZLoss", "weight": 0}})
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model.width", 9, "model.width must be a multiple of model.num_heads=2, got 9"),
        ("model.width", "8", "model.width must be a whole number > 0, got '8'"),
        ("model.depth", 0, "model.depth must be a whole number > 0"),
        ("model.mlp_dim", -1, "model.mlp_dim"),
        ("model.num_heads", True, "model.num_heads"),
        ("model.image_size", 18, "model.image_size must be a multiple of model.patch_size=4, got 18"),
        ("model.moe_layers", [1, 4], "model.moe_layers must be between 0 and model.depth - 1 = 3"),
        ("model.moe_layers", [1, 1], "model.moe_layers must be without repetition"),
        ("model.moe_layers", 3, "model.moe_layers must be a list"),
        ("model.moe_layers", [], "aux_loss=none"),
        ("model.num_experts", 0, "model.num_experts"),
        ("routing.k", 5, "routing.k must be at most model.num_experts=4, got 5"),
        ("routing.k", 0, "routing.k"),
        ("routing.noise_std", 0, "routing.noise_std must be > 0, since aux_loss.load is undefined without noise"),
        ("routing.pairs_per_group", 0, "routing.pairs_per_group"),
        ("data.batch_size", 12, "data.batch_size must be a multiple of routing.pairs_per_group=8"),
        ("data.batch_size", 1.5, "data.batch_size"),
        ("data.image_size", 64, "data.image_size must be model.image_size=16, got 64"),
        ("trainer.accumulate_grad_batches", 4, "use micro_batch_size instead), got 4"),
        ("micro_batch_size", 0, "micro_batch_size must be a whole number > 0, got 0"),
        ("micro_batch_size", 6, "micro_batch_size must be a divisor of data.batch_size=16 (or null), got 6"),
        ("micro_batch_size", 4, "micro_batch_size must be a multiple of routing.pairs_per_group=8"),
        ("trainer.max_steps", -1, "trainer.max_steps must be a whole number > 0, got -1"),
        ("trainer.max_steps", "???", "trainer.max_steps needs a value"),
        ("aux_loss.load.wieght", 1, "aux_loss.load.wieght: limoe.losses.auxiliary.classic.Load has no such argument"),
        ("aux_loss.load._target_", "limoe.losses.auxiliary.classic.Laod", "aux_loss.load._target_: cannot find"),
        (
            "aux_loss.load._target_",
            "limoe.losses.auxiliary.base.AuxLossSet",
            "must be the path of a class derived from limoe.losses.auxiliary.",
        ),
        (
            "aux_loss.load",
            {"weight": 1.0},
            "aux_loss.load._target_ must be the path of a class derived from limoe.losses.auxiliary.",
        ),
        (
            "aux_loss.load",
            None,
            "aux_loss.load._target_ must be the path of a class derived from limoe.losses.auxiliary.",
        ),
    ],
)
def test_a_broken_rule_names_key_rule_and_value(key: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(config(**{key.replace(".", "__"): value}))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_instantiate_gives_plain_containers() -> None:
    node = OmegaConf.create({"_target_": "types.SimpleNamespace", "layers": [1, 2], "more": {"a": 1}})
    built = instantiate(node)
    assert (type(built.layers), type(built.more)) == (list, dict)
    assert instantiate(node, layers=[3]).layers == [3]
    assert instantiate(None) is None


def test_errors_of_a_constructor_name_the_key() -> None:
    def message(**content: Any) -> str:
        cfg = OmegaConf.create({"optimizer": {"inner": content}})
        with pytest.raises(ConfigError) as error:
            instantiate(cfg.optimizer)
        return str(error.value)

    assert message(_target_="no_such_package.Model").startswith(
        "optimizer.inner: Error loading 'no_such_package.Model'"
    )
    assert message(_target_="torch.nn.Dropuot").startswith("optimizer.inner._target_: cannot find 'torch.nn.Dropuot'")
    assert "optimizer.inner: " in message(_target_="pathlib.PurePath.as_posix")  # no self
    assert "missing 1 required" in message(_target_="pathlib.PurePath.as_posix")
    assert message(_target_="torch.nn.Dropout", p=2) == (
        "optimizer.inner: dropout probability has to be between 0 and 1, but got 2"
    )
    assert message(_target_="torch.nn.Dropout", prob=2).startswith("optimizer.inner.prob: torch.nn.Dropout has no such")
    assert message(_target_="fractions.Fraction", numerator="${gone}") == (
        "optimizer.inner.numerator: Interpolation key 'gone' not found"
    )


def test_a_bug_inside_a_constructor_is_not_dressed_up() -> None:
    """A TypeError from inside the callee (here a regular expression applied to 5) keeps its traceback."""
    with pytest.raises(InstantiationException, match="expected string"):
        instantiate(OmegaConf.create({"_target_": "textwrap.dedent", "text": 5}))


def test_plain_resolves() -> None:
    cfg = OmegaConf.create({"a": {"b": [1, "${c}"]}, "c": 2})
    assert plain(cfg) == {"a": {"b": [1, 2]}, "c": 2}
    assert type(plain(cfg)["a"]["b"]) is list
    with pytest.raises(ConfigError, match=r"a\.b needs a value"):
        plain(OmegaConf.create({"a": {"b": "???"}}))


def test_hash_depends_on_what_a_run_is_and_not_on_where_it_lies() -> None:
    def digest(**changes: Any) -> str:
        content = {"seed": 0, "log": "${paths.output_dir}/csv", "paths": {"output_dir": "/a"}, **changes}
        return config_hash(OmegaConf.create(content))

    assert len(digest()) == 12
    assert digest() == digest(paths={"output_dir": "${limoe_no_such_resolver:}"})
    assert digest() == digest(hydra={"job": 1})
    assert digest() != digest(seed=1)
    assert digest() != digest(log="${paths.output_dir}/other")


def test_run_id_is_shared_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMOE_RUN_ID", "abc")
    register_resolvers()
    assert OmegaConf.create({"id": "${limoe_run_id:}"}).id == "abc"
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert run_id() == "abc"
    monkeypatch.delenv("LIMOE_RUN_ID")
    assert run_id() == "slurm-77"
    monkeypatch.delenv("LIMOE_RUN_ID")
    monkeypatch.delenv("SLURM_JOB_ID")
    stamped = run_id()
    assert stamped[:2] == "20"
    assert run_id() == stamped
    monkeypatch.delenv("LIMOE_RUN_ID")


def test_an_experiment_is_a_folder_or_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results go beside a study of one's own, and never beside one that came with limoe."""
    shipped = Path(limoe.__file__).parents[2] / "experiments" / "02_aux_losses"
    monkeypatch.delenv("LIMOE_CONFIG_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    here = Path("experiments", "02_aux_losses")
    for named in (Path("02_aux_losses"), here):
        assert experiment_dir(named, file="study.yaml") == (shipped, here)
    for named in (Path("02_aux_loss"), Path("other", "02_aux_losses"), Path("02_aux_losses", "results")):
        assert experiment_dir(named, file="study.yaml") == (named, named)
    assert experiment_dir(Path("02_aux_losses"), file="search.yaml")[0] == Path("02_aux_losses")
    assert experiment_dir(shipped, file="study.yaml") == (shipped, shipped)  # a clone of one's own, named by its path
    (here / "results").mkdir(parents=True)
    assert experiment_dir(here, file="study.yaml") == (shipped, here)
    (here / "study.yaml").touch()
    assert experiment_dir(here, file="study.yaml") == (here, here)
    assert experiment_dir(Path("02_aux_losses"), file="study.yaml") == (here, here)


def test_an_installed_experiment_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the wheel lays it out: configs and experiments inside the package."""
    package = tmp_path / "site-packages" / "limoe"
    study = package / "experiments" / "02_aux_losses"
    study.mkdir(parents=True)
    (study / "study.yaml").touch()
    (package / "configs").mkdir()
    (package / "configs" / "study.yaml").touch()
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(limoe, "__file__", str(package / "__init__.py"))
    monkeypatch.delenv("LIMOE_CONFIG_DIR", raising=False)
    monkeypatch.chdir(tmp_path / "work")
    for named in (Path("02_aux_losses"), Path("experiments", "02_aux_losses"), study):
        assert experiment_dir(named, file="study.yaml") == (study, Path("experiments", "02_aux_losses"))


def test_config_dir_prefers_what_is_nearer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = Path(limoe.__file__).parents[2] / "configs"
    monkeypatch.delenv("LIMOE_CONFIG_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert config_dir("report") == checkout
    (tmp_path / "configs").mkdir()
    assert config_dir("report") == checkout  # a folder without the command's config does not count
    (tmp_path / "configs" / "report.yaml").touch()
    assert config_dir("report") == tmp_path / "configs"
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    monkeypatch.setenv("LIMOE_CONFIG_DIR", str(chosen))
    with pytest.raises(ConfigError, match=r"no report\.yaml in .*chosen"):
        config_dir("report")
    (chosen / "report.yaml").touch()
    assert config_dir("report") == chosen
