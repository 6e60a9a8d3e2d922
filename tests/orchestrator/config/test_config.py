"""Settings of a sweep: all problems are reported before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import load_sweep
from orchestrator.config import ModelConfig, resolve_trial
from search_spaces import ConstantDomain
from tests.support.sweeps.settings import ADAPTIVE, BASE, BIASED, PLAIN, faults, write

NETWORKS = "Networks are those of `spatialsweep models`, all of timm, and FILE.py:FACTORY of your own."
SWEEPS = Path(__file__).parents[3] / "sweeps"


def test_all_problems_are_reported_at_once_with_file_place_and_remedy(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        name: a b
        dataset: {name: digts, validation_fraction: 1.5}
        trails: 10
        trials: 0
        objective: {metric: val/acc1}
        training: {epochs: ten, optimizer: adamww, batch_size: 5}
        resources: {workers: 2, gpus_per_worker: 0.5}
        search:
          model: [conv_resnet26_smal, sb_resnet29_cifar]
          lr: {type: float, low: 1.0, high: 0.1}
          bias_chanels: 3
        """,
    )
    assert sorted(faults(path)) == sorted(
        f"sweep.yaml: {text}"
        for text in (
            "name: got 'a b'; must be 1 to 64 letters, digits, '-' and '_', the first a letter or a digit. Use a-b",
            "dataset.validation_fraction: got 1.5; should be less than 1",
            "trails: unknown setting. Did you mean 'trials'?",
            "trials: got 0; should be greater than 0",
            "objective.metric: unknown 'val/acc1'. Did you mean 'val/top1'?",
            "training.epochs: got 'ten'; should be a valid integer",
            "training.batch_size: unknown setting. Did you mean 'global_batch_size'?",
            "resources.gpus_per_worker: got 0.5; workers of one trial cannot share a GPU (NCCL refuses it). "
            "Use a whole number, or workers: 1",
            f"search.model: unknown 'conv_resnet26_smal'. Did you mean 'conv_resnet26_small'? {NETWORKS}",
            "search.lr: low is 1.0 and high is 0.1; low must not exceed high",
            "search.bias_chanels: neither a training setting nor an option of sb_resnet29_cifar. "
            "Did you mean 'bias_channels'?",
        )
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"dataset": {"name": "digit"}}, "dataset.name: unknown 'digit'. Did you mean 'digits'?"),
        ({"dataset": "digits"}, "dataset: got 'digits'; must be a group of settings. Write {name: digits}"),
        ({"model": PLAIN}, f"model: got '{PLAIN}'; must be a group of settings. Write {{name: {PLAIN}}}"),
        ({"objective": "val/top1"}, "objective: got 'val/top1'; must be a group of settings. Write {metric: val/top1}"),
        ({"keep": 3}, "keep: got 3; must be a group of settings. Known: best, last, paused."),
        ({"constraints": "params <= 2e6"}, "constraints: got 'params <= 2e6'; must be a list. Write [params <= 2e6]"),
        ({"constraints": {"params": 2}}, "constraints: must be a list"),
        (
            {"name": "-é/"},
            "name: got '-é/'; must be 1 to 64 letters, digits, '-' and '_', the first a letter or a digit",
        ),
        ({"name": None}, "name: is missing; every sweep needs it"),
        ({"training": {"epoch": None}}, "training.epoch: unknown setting. Did you mean 'epochs'?"),
        ({"trials": 1e3}, "trials: got 1000.0; should be a valid integer. Write 1000"),
        ({"trials": 1.5}, "trials: got 1.5; should be a valid integer"),
        (
            {"search": {"channels_last": ["true"]}},
            "search.channels_last: got 'true'; should be a valid boolean. Write true ",
        ),
        ({"search": {"lr": {"type": "loguniform"}}}, "search.lr: type is 'loguniform'; a domain is {type: float, low,"),
        (
            {"tracking": {"uri": "http://"}},
            "tracking.uri: got 'http://'; must name a server or a database. Use http://",
        ),
        (
            {"tracking": {"uri": "http://a:99999"}},
            "tracking.uri: got 'http://a:99999'; must name a server or a database",
        ),
        ({"tracking": {"uri": "http://a b"}}, "tracking.uri: got 'http://a b'; must name a server or a database"),
        (
            {"dataset": {}},
            "dataset.name: is missing. Use name: digits, or the uri of a dataset that `spatialsweep data prepare`",
        ),
        ({"dataset": {"name": "digits", "uri": "x"}}, "dataset.name: give one of name and uri, not both. Use"),
        ({"dataset": {"uri": "/nowhere"}}, "dataset.uri: /nowhere/manifest.json: no such file. Make it: spatialsweep"),
        ({"model": None}, "model: is missing; name a network under model.name, or several under search.model.choices"),
        (
            {"model": {"name": "conv_resnet26_lage"}},
            f"model.name: unknown 'conv_resnet26_lage'. Did you mean 'conv_resnet26_large'? {NETWORKS}",
        ),
        ({"model": {"name": PLAIN, "options": {"stemm": 1}}}, "model.options.stemm: got 1 for conv_resnet26_small; "),
        ({"trials": True}, "trials: got True; should be a valid integer"),
        ({"trials": 2.0}, "trials: got 2.0; should be a valid integer. Write 2"),
        ({"sampler": {"rules": True}}, "sampler.rules: got True; should be a valid integer"),
        ({"sampler": {"rules": 5}}, "sampler.rules: got 5; should be less than or equal to 4"),
        ({"training": {"lr": "0.1"}}, "training.lr: got '0.1'; should be a valid number. Write it without quotes"),
        ({"training": {"lr": float("inf")}}, "training.lr: got inf; should be a finite number"),
        ({"training": {"optimizer": "adamww"}}, "training.optimizer: unknown 'adamww'. Did you mean 'adamw'?"),
        (
            {"training": {"lr_schedule": "cosin"}},
            "training.lr_schedule: got 'cosin'; should be 'cosine', 'multistep', 'constant', 'poly', 'step' or",
        ),
        (
            {"training": {"precision": "bfloat"}},
            "training.precision: got 'bfloat'; should be 'float32', 'bfloat16' or 'float16'. Did you mean 'bfloat16'?",
        ),
        ({"training": {"clip_grad_norm": 0.0}}, "training.clip_grad_norm: got 0.0; should be greater than 0"),
        ({"training": {"ema_decay": 1.0}}, "training.ema_decay: got 1.0; should be less than 1"),
        ({"training": {"accumulate_steps": 2}}, "training.accumulate_steps: unknown setting. Did you mean 'accumulat"),
        (
            {"training": {"accumulation_steps": 4, "global_batch_size": 16}},
            "training.global_batch_size: got 16; each of the 2 workers, in each of 4 parts of its share, needs at "
            "least 2 images a step, also where a batch is one image short. Use 17 or more, or fewer accumulation_steps",
        ),
        (
            {"training": {"bce_target_threshold": 0.2}},
            "training.bce_target_threshold: got 0.2; only binary cross-entropy has a threshold. Add training.loss: ",
        ),
        (
            {"search": {"ema_warmup": [True, False]}},
            "search.ema_warmup: got True; there is no average of the weights to warm up. Add training.ema_decay: ",
        ),
        (
            {"search": {"momentum": [0.0, 0.9]}},
            "search.momentum: got 0; sgd looks ahead along its momentum and needs some. Use 0.9, or training.optimizer",
        ),
        (
            {"training": {"decay_milestones": [3, 4]}},
            "training.decay_milestones: got [3, 4]; only multistep has some. Add training.lr_schedule: multistep",
        ),
        (
            {"training": {"lr_schedule": "multistep", "decay_milestones": [4, 3]}},
            "training.decay_milestones: got [4, 3]; each epoch comes once, in rising order",
        ),
        (
            {"training": {"epochs": 3, "cooldown_epochs": 3}},
            "training.cooldown_epochs: got 3; they are the last of 3 epochs, of which at least one comes before. Use ",
        ),
        (
            {"training": {"anneal_epochs": 3, "lr_schedule": "step"}},
            "training.anneal_epochs: got 3; it is a setting of cosine and poly, not of step. Add training.lr_schedule: "
            "cosine, or leave it out",
        ),
        (
            {"training": {"poly_power": 0.9}},
            "training.poly_power: got 0.9; it is a setting of poly, not of cosine. Add training.lr_schedule: poly, or",
        ),
        (
            {"training": {"decay_epochs": 2}, "search": {"lr_schedule": ["cosine", "poly"]}},
            "training.decay_epochs: got 2; it is a setting of step, not of cosine. Add training.lr_schedule: step, or",
        ),
        (
            {"search": {"plateau_patience": [2, 3]}},
            "search.plateau_patience: got 2; it is a setting of plateau, not of cosine. Add training.lr_schedule: plat",
        ),
        ({"training": {"layer_decay": 1.5}}, "training.layer_decay: got 1.5; should be less than or equal to 1"),
        (
            {"training": {"betas": [0.9, 0.95]}},
            "training.betas: got [0.9, 0.95]; sgd has none. Use training.optimizer: adamw, or leave them out",
        ),
        (
            {"training": {"betas": [0.9], "optimizer": "adamw"}},
            "training.betas: got [0.9]; adamw has 2. Write 2 numbers",
        ),
        ({"training": {"betas": [0.9, 1.0], "optimizer": "adamw"}}, "training.betas.1: got 1.0; should be less than 1"),
        (
            {"training": {"agc_factor": 0.01, "clip_grad_norm": 1.0}},
            "training.agc_factor: got 0.01; training.clip_grad_norm clips the same gradients. Leave one of them out",
        ),
        ({"training": {"validate_every": 0}}, "training.validate_every: got 0; should be greater than 0"),
        (
            {
                "training": {"validate_every": 3},
                "trial_scheduler": {"name": "pbt", "perturb_every": 4},
                "search": {"lr": {"type": "float", "low": 0.1, "high": 1.0}},
                "trials": 8,
            },
            "trial_scheduler.perturb_every: got 4; trials are compared when they report, which training.validate_every "
            "has them do every 3 epochs. Use a multiple of 3",
        ),
        ({"training": {1: 2}}, "training.1: got 1; a name is text. Write it in quotes"),
        ({"search": {"optimizer": ["sgd", "adamww"]}}, "search.optimizer: unknown 'adamww'. Did you mean 'adamw'?"),
        ({"search": {"optimizer": ["sgd", "adahessian"]}}, "search.optimizer: got adahessian; it needs second"),
        ({"training": {"optimizer": "adahessian"}}, "training.optimizer: got adahessian; it needs second derivatives"),
        ({"search": [1]}, "search: got [1]; must map names to domains, such as lr: {type: float, ...}"),
        ({"search": {True: 1}}, "search.True: got True; a name is text. Write it in quotes"),
        ({"search": {"lr": None}}, "search.lr: got None; a domain is {type: float, low, high}, {type: int,"),
        ({"search": {"lr": {"type": "float", "low": 1.0, "hihg": 2}}}, "search.lr.high: is missing"),
        ({"search": {"lr": {"choices": [[1]]}}}, "search.lr.choices.0: got [1]; must be a number, a text, true or"),
        ({"search": {"lr": {"type": "float", "low": 0.0, "high": 1.0}}}, "search.lr: got 0.0; should be greater than"),
        ({"search": {"epochs": {"type": "float", "low": 1.0, "high": 3.0}}}, "search.epochs: got 1.0; should be a val"),
        ({"search": {"lrr": 0.1}}, "search.lrr: neither a training setting nor an option of conv_resnet26_small. Did "),
        ({"search": {"model": 5}}, "search.model: unknown 5. Networks are those of "),
    ],
)
def test_each_problem_is_reported_in_full(raw: dict[str, Any], message: str) -> None:
    assert faults(raw)[0].startswith(message)


@pytest.mark.parametrize(
    "raw",
    [
        {"training": {"decay_epochs": 2, "poly_power": 0.9}, "search": {"lr_schedule": ["step", "poly"]}},
        {"training": {"betas": [0.9, 0.95]}, "search": {"optimizer": ["sgd", "adamw"]}},
        {"training": {"agc_factor": 0.01, "layer_decay": 0.7, "gradient_checkpointing": True, "validate_every": 4}},
        {
            "search": {
                "layer_decay": {"type": "float", "low": 0.5, "high": 1.0},
                "decay_norms_and_biases": [True, False],
            }
        },
    ],
)
def test_settings_of_the_optimiser_step_go_together(raw: dict[str, Any]) -> None:
    assert load_sweep({**BASE, **raw}).name == "t"


def test_a_misspelt_key_of_a_domain_is_reported_with_the_nearest() -> None:
    message = faults({"search": {"lr": {"type": "float", "low": 0.1, "high": 1.0, "setp": 0.1}}})
    assert message == ["search.lr.setp: unknown setting. Did you mean 'step'?"]


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (
            {"model": ADAPTIVE, "ramp": {"type": "float", "low": 0.0, "high": 2.0}},
            f"search.ramp: got 0.0 for {ADAPTIVE}; ramp is a finite number above 0 to 32. Use 2.0.",
        ),
        (
            {"model": BIASED, "pooled_size": {"type": "int", "low": 2, "high": 64}},
            f"search.pooled_size: got 64 for {BIASED}; pooled_size is an int from 1 to 32. Use 32.",
        ),
        (
            {"model": "local_resnet26_small", "kernel_size": [3, 6]},
            "search.kernel_size: got 6 for local_resnet26_small; kernel_size is an odd int from 3 to 33. Use 7.",
        ),
        (
            {"model": ADAPTIVE, "num_heads": [4, 3]},
            f"search.num_heads: got 3 for {ADAPTIVE}; num_heads divides the 32 channels of the narrowest stage. Use 2.",
        ),
    ],
)
def test_a_corner_that_the_network_rejects_is_reported_before_it_is_drawn(search: dict[str, Any], message: str) -> None:
    assert faults({"search": search}) == [message]


def test_an_option_of_some_networks_is_reported_with_the_condition_it_needs() -> None:
    ramp = {"type": "float", "low": 1.0, "high": 2.0}
    both = [ADAPTIVE, "adaptive_resnet26_large", PLAIN]
    assert faults({"search": {"model": [ADAPTIVE, PLAIN], "ramp": ramp}}) == [
        f"search.ramp: {PLAIN} has no such option. Add when: {{model: {ADAPTIVE}}}"
    ]
    assert faults({"search": {"model": both, "ramp": ramp}}) == [
        f"search.ramp: {PLAIN} has no such option. Add when: {{model: [{ADAPTIVE}, adaptive_resnet26_large]}}"
    ]
    conditional = {"model": both, "ramp": {**ramp, "when": {"model": both[:2]}}}
    assert load_sweep({**BASE, "search": conditional}, [f"search.model={PLAIN}"]).space["model"] == ConstantDomain(
        value=PLAIN
    )
    misspelt = {"model": [ADAPTIVE, PLAIN], "ramp": {**ramp, "when": {"model": "adaptive"}}}
    assert faults({"search": misspelt}) == [
        f"search.ramp.when: its condition needs model = adaptive; 'model' offers {ADAPTIVE}, {PLAIN}"
    ]


def test_rules_between_sections() -> None:
    batch = "got 4; each of the 2 workers needs at least 2 images a step, also where a batch is one image short. Use 5"
    assert faults({"training": {"global_batch_size": 4}})[0].startswith(f"training.global_batch_size: {batch} or more")
    assert faults({"search": {"global_batch_size": [4, 64]}})[0].startswith(f"search.global_batch_size: {batch}")
    assert load_sweep({**BASE, "training": {"global_batch_size": 5}})
    assert load_sweep({**BASE, "training": {"global_batch_size": 4, "drop_last": True}})
    whole = "got 3; each of the 2 workers needs at least 2 images a step. Use 4 or more"
    assert faults({"training": {"global_batch_size": 3, "drop_last": True}}) == [f"training.global_batch_size: {whole}"]
    grace = "trial_scheduler.grace_epochs: got 2; must not exceed"
    asha = {"trial_scheduler": {"name": "asha"}}
    assert faults({**asha, "training": {"epochs": 1}}) == [f"{grace} training.epochs, which is 1"]
    assert faults({**asha, "search": {"epochs": 1}}) == [f"{grace} search.epochs allows at most 1"]
    assert load_sweep({**BASE, "training": {"epochs": 1}}).trial_scheduler.name == "none"
    searched = load_sweep({**BASE, "search": {"epochs": {"type": "int", "low": 2, "high": 30}}})
    assert searched.max_epochs == 30
    assert faults({"dataset": {"name": "digits", "validation_fraction": 0.001}}) == [
        "dataset.validation_fraction: got 0.001; both parts of the 1437 training images need one per class. "
        "Use 0.007 to 0.993"
    ]


def test_a_trial_combines_searched_and_fixed_settings() -> None:
    config = load_sweep(
        {**BASE, "model": {"name": BIASED, "options": {"key_size": 3}}, "training": {"epochs": 7}, "seed": 5}
    )
    trial = resolve_trial(config, 4, {"lr": 0.5, "bias_channels": 2})
    assert trial.model == ModelConfig(name=BIASED, options={"pooled_size": 6, "key_size": 3, "bias_channels": 2})
    assert (trial.training.lr, trial.training.epochs, trial.seed, trial.number) == (0.5, 7, 5, 4)
    assert resolve_trial(config, 0, {"model": PLAIN}).model.name == PLAIN


def test_null_stands_for_the_default_of_a_setting_and_of_a_section(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        name: nulls
        dataset: {name: digits, validation_fraction: null}
        model: {name: conv_resnet26_small}
        training:
        search: ~
        objective: null
        task: null
        trials:
        resources: {workers: null}
        """,
    )
    plain = load_sweep({"name": "nulls", "dataset": {"name": "digits"}, "model": {"name": PLAIN}})
    assert load_sweep(path) == plain
    assert load_sweep(path, ["budget=null", "trials=3", "trials="]) == plain
