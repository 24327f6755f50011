"""Hyperparameters: presets and their sources, EasyEdit's files as they are, overrides, the rule by depth."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace

import pytest
import torch
from conftest import FAMILIES_TO_ASK, SIZES, make_config, same

import editunlearn_lib as eu
from editunlearn_lib.hparams import GUESS, TUNED, WITHOUT_MEANING, resolve
from editunlearn_lib.methods import METHODS
from editunlearn_lib.methods.registry import EASYEDIT, OURS, PISTOL, Method

TRAINED = ("ga", "gd", "kl", "dpo", "idk")
EDITS = ("rome", "memit", "alphaedit", "grace", "wise")


def settle(method: str, hparams=None, *, depth: int = 32, model: str = "somebody/model"):
    """`resolve` for a model of that name and depth."""
    config = SimpleNamespace(_name_or_path=model, num_hidden_layers=depth)
    return resolve(method, config, hparams)


# ---------------------------------------------------------------- presets

LORA = {
    "lr": 1e-5,
    "num_epochs": 20,
    "batch_size": 4,
    "weight_decay": 0.01,
    "rank": 8,
    "lora_alpha": 32.0,
    "lora_dropout": 0.05,
}
VALUE = {"v_num_grad_steps": 25, "v_lr": 0.5, "v_weight_decay": 1e-3, "clamp_norm_factor": 4.0, "kl_factor": 0.0625}
VALUE_8B = VALUE | {"v_lr": 0.1, "v_weight_decay": 0.5, "clamp_norm_factor": 0.75}
ROME = {"layers": (5,), "mom2_adjustment": False, **VALUE}
EARLY = {"layers": (4, 5, 6, 7, 8)}
NULLSPACE = {"nullspace_threshold": 0.02, "L2": 10.0}
GRACE = {"layers": (27,), "edit_lr": 1.0, "n_iter": 50, "eps": 1.0}
WISE = {
    "layers": (27,),
    "edit_lr": 1.0,
    "n_iter": 70,
    "act_margin": (5.0, 20.0, 10.0),
    "act_ratio": 0.88,
    "mask_ratio": 0.2,
    "norm_constraint": 1.0,
}
LLAMA2, MISTRAL, LLAMA31 = "meta-llama/Llama-2-7b-chat-hf", "Mistral-7B", "meta-llama/Llama-3.1-8B-Instruct"
TABLE = [  # the table of methods.md, typed a second time: method, model, values, a part of the source of each
    *((method, model, LORA, PISTOL) for method in TRAINED for model in (LLAMA2, MISTRAL, LLAMA31)),
    ("rome", LLAMA2, ROME, EASYEDIT),
    ("rome", MISTRAL, ROME, EASYEDIT),
    ("rome", LLAMA31, ROME, "Llama-3-8B"),
    ("memit", LLAMA2, {**EARLY, **VALUE, "mom2_update_weight": 15000.0}, EASYEDIT),
    ("memit", MISTRAL, {**EARLY, **VALUE, "mom2_update_weight": 15000.0}, EASYEDIT),
    ("memit", LLAMA31, {**EARLY, **VALUE_8B, "mom2_update_weight": 15000.0}, "AlphaEdit authors'"),
    *(
        ("alphaedit", model, values, source)
        for model in (LLAMA2, MISTRAL)
        for values, source in (
            ({**EARLY, **VALUE}, "ours: nobody published one; MEMIT's"),
            (NULLSPACE, "AlphaEdit authors'"),
        )
    ),
    ("alphaedit", LLAMA31, {**EARLY, **VALUE_8B, **NULLSPACE}, "AlphaEdit authors'"),
    ("grace", LLAMA2, GRACE, EASYEDIT),
    ("grace", MISTRAL, GRACE, OURS),
    ("grace", LLAMA31, GRACE, OURS),
    ("wise", LLAMA2, WISE, EASYEDIT),
    ("wise", MISTRAL, WISE, EASYEDIT),
    (
        "wise",
        LLAMA31,
        WISE | {"layers": (29,), "edit_lr": 0.9, "n_iter": 30, "act_margin": (5.0, 10.0, 10.0)},
        EASYEDIT,
    ),
]


@pytest.mark.parametrize("method, model, values, source", TABLE)
def test_presets_are_the_published_ones(method, model, values, source):
    found = eu.preset(method, model)
    assert {name: found[name]["value"] for name in values} == values
    assert all(source in found[name]["source"] for name in values)
    assert list(found) == [f.name for f in fields(METHODS[method].config)] and all(
        row["source"] for row in found.values()
    )
    assert settle(method, model=model) == METHODS[method].config(**{name: row["value"] for name, row in found.items()})


def test_every_preset_is_complete_and_of_the_right_type():
    models = {"llama-2-7b-chat", "mistral-7b-instruct", "llama-3.1-8b-instruct"}
    assert {name: set(METHODS[name].presets) for name in (*TRAINED, *EDITS)} == dict.fromkeys(
        (*TRAINED, *EDITS), set(models)
    )
    for method, model in ((name, key) for name in METHODS for key in METHODS[name].presets):
        found = {name: row["value"] for name, row in eu.preset(method, model).items()}
        again = settle(method, found)  # goes through the checks that a user's values go through
        assert again == METHODS[method].config(**found)
        assert all(type(getattr(again, name)) is type(value) for name, value in found.items())


def test_each_value_has_its_own_source():
    found = eu.preset("alphaedit", LLAMA2)
    assert found["L2"]["source"] != found["v_lr"]["source"] != found["fact_token"]["source"]
    assert all("ours" in found[name]["source"] for name in ("L2", "v_lr", "layers", "nullspace_threshold"))
    found = eu.preset("wise", LLAMA2)
    assert all("ours" in found[name]["source"] for name in ("routing", "distance_activation", "context_templates"))
    assert "ours" in eu.preset("grace", LLAMA2)["replacement"]["source"]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_model_without_preset_gets_the_defaults_marked_as_a_guess(method):
    for name in ("somebody/llama-2-7b-chat-finetuned", "gpt2"):  # a name is no preset's because it holds one
        found = eu.preset(method, name)
        assert {row["source"] for row in found.values()} == {GUESS}
        assert METHODS[method].config() == METHODS[method].config(
            **{field: row["value"] for field, row in found.items()}
        )


def test_pocket_presets_are_the_tuned_ones(monkeypatch):
    monkeypatch.setattr(
        "editunlearn_lib.hparams._tuned",
        lambda: {
            "pocket": {"memit": {"layers": [1], "v_lr": 3.0}, "grace": {"eps": 7.0}},
            "pocket-contracts": {"memit": {"v_lr": 4.0}},
        },
    )
    found = eu.preset("memit", "pocket")
    assert found["layers"] == {"value": (1,), "source": TUNED} and found["v_lr"] == {"value": 3.0, "source": TUNED}
    assert found["kl_factor"]["source"] not in (TUNED, GUESS)
    assert eu.preset("memit", "pocket-contracts")["v_lr"] == {"value": 4.0, "source": TUNED}
    assert eu.preset("grace", "pocket-contracts")["eps"] == {"value": 7.0, "source": TUNED + ", on the facts"}
    # tuned without a layer: the layer by rule, not one of a model of 32
    assert eu.preset("grace", "pocket")["layers"]["source"] == GUESS
    assert settle("grace", model="pocket", depth=6) == replace(METHODS["grace"].config(), eps=7.0, layers=(5,))


def test_unknown_method():
    with pytest.raises(eu.UnknownNameError, match="memit"):
        eu.preset("memti", "pocket")


# ---------------------------------------------------------------- the rule by depth


@pytest.mark.parametrize(
    "depth, rome, early, late",
    [
        (1, (0,), (0,), (0,)),
        (2, (0,), (0,), (1,)),
        (6, (1,), (1, 2), (5,)),
        (12, (2,), (2, 3), (10,)),
        (32, (5,), (4, 5, 6, 7, 8), (27,)),
        (40, (6,), (5, 6, 8, 9, 10), (34,)),
    ],
)
def test_other_models_get_the_same_fractions_of_depth(depth, rome, early, late):
    expected = {"rome": rome, "memit": early, "alphaedit": early, "grace": late, "wise": late}
    for method, layers in expected.items():
        assert settle(method, depth=depth) == replace(METHODS[method].config(), layers=layers)
        assert settle(method, {"layers": [0]}, depth=depth).layers == (0,)  # an override wins
    assert settle("ga", depth=depth) == METHODS["ga"].config()


@pytest.mark.parametrize("family", FAMILIES_TO_ASK)
@pytest.mark.parametrize("method", EDITS)
def test_layers_are_valid_for_small_models_of_every_family(family, method):
    for config in (
        make_config(family, 100),
        make_config(family, 100, **{"n_layer" if family == "gpt2" else "num_hidden_layers": 2}),
    ):
        layers = resolve(method, config, None).layers
        assert layers and len(set(layers)) == len(layers)
        assert all(0 <= layer < config.num_hidden_layers for layer in layers)


# ---------------------------------------------------------------- EasyEdit's files

MODULES = """
rewrite_module_tmp: "model.layers.{}.mlp.down_proj"
layer_module_tmp: "model.layers.{}"
mlp_module_tmp: "model.layers.{}.mlp"
attn_module_tmp: "model.layers.{}.self_attn"
ln_f_module: "model.norm"
lm_head_module: "lm_head"
mom2_dataset: "wikipedia"
mom2_n_samples: 100000
mom2_dtype: "float32"
model_parallel: false
"""
FILES = {  # typical files for llama-2-7b; the values with a meaning differ from every default
    "rome": """
alg_name: "ROME"
model_name: "./hugging_cache/llama-2-7b"
stats_dir: "./data/stats"
device: 0
layers: [6]
fact_token: "question_last"
v_num_grad_steps: 24
v_lr: 4e-1
v_loss_layer: 31
v_weight_decay: 2e-3
clamp_norm_factor: 3
kl_factor: 0.125
mom2_adjustment: true
context_template_length_params: [[5, 10], [10, 10]]
fp16: false
"""
    + MODULES,
    "memit": """
alg_name: "MEMIT"
model_name: "./hugging_cache/llama-2-7b"
stats_dir: "./data/stats"
device: 0
layers: [3, 4, 5]
clamp_norm_factor: 3
layer_selection: "all"
fact_token: "question_last"
v_num_grad_steps: 24
v_lr: 4e-1
v_loss_layer: 31
v_weight_decay: 2e-3
kl_factor: 0.125
mom2_adjustment: true
mom2_update_weight: 20000
batch_size: 8
"""
    + MODULES,
    "alphaedit": """
alg_name: "AlphaEdit"
model_name: "./hugging_cache/llama-2-7b"
stats_dir: "./data/stats"
device: 0
layers: [3, 4, 5]
clamp_norm_factor: 0.5
layer_selection: "all"
fact_token: "question_last"
v_num_grad_steps: 24
v_lr: 2e-1
v_loss_layer: 31
v_weight_decay: 0.25
kl_factor: 0.125
mom2_adjustment: true
mom2_update_weight: 15000
nullspace_threshold: 3e-2
L2: 11
P_loc: "./null_space_project.pt"
"""
    + MODULES,
    "grace": """
alg_name: "GRACE"
model_name: "./hugging_cache/llama-2-7b"
device: 0

inner_params:
- model.layers[26].mlp.down_proj.weight

edit_lr: 5e-1
n_iter: 40
eps: 2
dist_fn: euc # euc, mmd, cos
val_init: cold # cold, warm
val_train: sgd # sgd, pert
val_reg: None # early
reg: early_stop # early_stop
replacement: replace_last # replace_last, replace_all, replace_prompt
eps_expand: coverage # , moving_avg, decay
num_pert: 8 # only matters when using perturbation training
dropout: 0.0
model_parallel: false
""",
    "wise": """
alg_name: "WISE"
model_name: "./hugging_cache/llama-2-7b-chat"
device: 0

mask_ratio: 0.25
edit_lr: 5e-1
n_iter: 40
norm_constraint: 2
act_margin: [6, 2e1, 1.5] # alpha, beta, gamma
act_ratio: 0.75
save_freq: 10
merge_freq: 20
merge_alg: 'linear'
objective_optimization: 'only_label'
inner_params:
- model.layers[26].mlp.down_proj.weight

## alternative: WISE-Merge, WISE-Retrieve

# for merge (if merge)
densities: 0.5
weights: 2

# for retrieve (if retrieve, pls set to True)
retrieve: False
replay: False # True --> will replay the past editing instances

batch_size: 1
max_length: 40
model_parallel: False
use_chat_template: False
save_path: "./wise_checkpoint/wise.pt"
load_path: "./wise_checkpoint/wise.pt"
""",
    "ga": """
alg_name: "LoRA"
model_name: "./hugging_cache/llama-2-7b"
device: 0
lora_type: "adalora"
layers: []
num_steps: 70
batch_size: 1
max_length: 30
lr: 5e-3
weight_decay: 0.02
kl_factor: 0
rank: 16
lora_alpha: 64
lora_dropout: 0.1
norm_constraint: false
target_modules: ["q_proj", "v_proj"]
model_parallel: false
""",
}
SHARED = {"v_num_grad_steps": 24, "v_weight_decay": 2e-3, "kl_factor": 0.125, "fact_token": "question_last"}
READ = {
    "rome": {"layers": (6,), "v_lr": 0.4, "clamp_norm_factor": 3.0, "mom2_adjustment": True, **SHARED},
    "memit": {
        "layers": (3, 4, 5),
        "v_lr": 0.4,
        "clamp_norm_factor": 3.0,
        "mom2_update_weight": 20000.0,
        "batch_size": 8,
        **SHARED,
    },
    "alphaedit": {
        "layers": (3, 4, 5),
        "v_lr": 0.2,
        "clamp_norm_factor": 0.5,
        "nullspace_threshold": 0.03,
        "L2": 11.0,
        **SHARED,
        "v_weight_decay": 0.25,
    },
    "grace": {"layers": (26,), "edit_lr": 0.5, "n_iter": 40, "eps": 2.0, "replacement": "replace_last"},
    "wise": {
        "layers": (26,),
        "edit_lr": 0.5,
        "n_iter": 40,
        "mask_ratio": 0.25,
        "norm_constraint": 2.0,
        "act_margin": (6.0, 20.0, 1.5),
        "act_ratio": 0.75,
        "save_freq": 10,
        "merge_freq": 20,
        "merge_alg": "linear",
        "densities": 0.5,
        "weights": 2.0,
        "retrieve": False,
    },
    "ga": {
        "batch_size": 1,
        "lr": 5e-3,
        "weight_decay": 0.02,
        "rank": 16,
        "lora_alpha": 64.0,
        "lora_dropout": 0.1,
        "target_modules": ("q_proj", "v_proj"),
    },
}


def names_of(text: str) -> set[str]:
    """The fields of a YAML file."""
    return {line.split(":")[0] for line in text.splitlines() if ":" in line and line[0] not in "# -"}


@pytest.mark.parametrize("method", FILES)
def test_easyedit_files_load_as_they_are(method, tmp_path, caplog):
    path = tmp_path / f"{method}.yaml"
    path.write_text(FILES[method])
    with caplog.at_level(logging.WARNING):
        found = settle(method, str(path))
    expected = replace(settle(method), **READ[method])
    assert found == expected
    for name in READ[method]:
        value, wanted = getattr(found, name), READ[method][name]
        assert type(value) is type(wanted)
        assert not isinstance(value, tuple) or [type(v) for v in value] == [type(v) for v in wanted]
    (record,) = caplog.records  # one warning, which names all that was not taken
    said = record.getMessage()
    assert str(path) in said and method in said
    ignored = set(said.rsplit(": ", 1)[1].split(", "))
    assert ignored == names_of(FILES[method]) - READ[method].keys() - ({"inner_params"} if method != "ga" else set())


def test_fields_of_other_methods_warn_and_unknown_ones_raise(caplog):
    with caplog.at_level(logging.WARNING):
        assert settle("ga", {"v_lr": 1, "inner_params": ["no layers here"], "layer": 3}) == settle("ga")
    assert "have no meaning for ga" in caplog.text and "v_lr, inner_params, layer" in caplog.text
    for method, name, near in (
        ("memit", "v_lrr", "v_lr"),
        ("ga", "num_epoch", "num_epochs"),
        ("rome", "mom2_adjust", "mom2_adjustment"),
        ("alphaedit", "nullspace_treshold", "nullspace_threshold"),
        ("grace", "edit_learning_lr", "edit_lr"),
        ("wise", "act_margins", "act_margin"),
        ("grace", "layrs", "layers"),
        ("ga", "lm_head_modul", "lm_head_module"),
    ):
        with pytest.raises(eu.UnknownNameError, match=f"{method} has no field '{name}'. Did you mean '{near}'"):
            settle(method, {name: 1})
    with pytest.raises(eu.UnknownNameError, match="Known: layers"):
        settle("rome", {"zzz": 1})


def test_fields_without_meaning_are_sorted(request):
    source = (request.config.rootpath / "editunlearn_lib" / "hparams.py").read_text()
    written = source.split("WITHOUT_MEANING = frozenset(")[1].split('"""')[1].split()
    assert written == sorted(WITHOUT_MEANING, key=str.lower)


@pytest.mark.parametrize("method", EDITS)
@pytest.mark.parametrize(
    "name",
    [
        "model.layers[3].mlp.down_proj.weight",
        "model.layers.3.mlp.down_proj.weight",
        "transformer.h.3.mlp.c_proj.weight",
        "gpt_neox.layers.3.mlp.dense_4h_to_h.weight",
    ],
)
def test_inner_params_name_the_layer(method, name, caplog):
    assert settle(method, {"inner_params": [name]}).layers == (3,)
    assert settle(method, {"inner_params": name}).layers == (3,)
    assert settle(method, {"inner_params": [name, name.replace("3", "14", 1)]}).layers == (3, 14)
    assert not caplog.text


def test_inner_params_of_another_module_warn_and_bad_ones_raise(caplog):
    with caplog.at_level(logging.WARNING):
        assert settle("grace", {"inner_params": ["transformer.h[35].mlp.c_fc.weight"]}, depth=48).layers == (35,)
    assert "c_fc" in caplog.text and "down projection" in caplog.text
    for bad in ("model.norm.weight", ["model.layers.weight"], [27], None, ["a[1].b[2].weight"], [], [None]):
        with pytest.raises(eu.RequestError, match="inner_params"):
            settle("grace", {"inner_params": bad})


def test_one_layer_may_be_a_number():
    assert settle("grace", {"layer": 3}).layers == settle("grace", {"layers": 3}).layers == (3,)
    assert settle("memit", {"layers": range(2, 4)}).layers == (2, 3)
    for same_layer in ({"layer": 3}, {"inner_params": ["model.layers.3.mlp.down_proj.weight"]}):
        assert settle("wise", {"layers": [3], **same_layer}).layers == (3,)
        with pytest.raises(eu.RequestError, match="layers"):
            settle("wise", {"layers": [4], **same_layer})


def test_only_replace_last_is_offered(caplog):
    for value in ("replace_all", "replace_prompt"):
        caplog.clear()
        assert settle("grace", {"replacement": value}).replacement == "replace_last"
        assert value in caplog.text and "replace_last" in caplog.text
    with pytest.raises(eu.UnknownNameError, match="Did you mean 'replace_last'"):
        settle("grace", {"replacement": "replace_lst"})


def test_an_easyedit_file_in_unlearn(tiny, split, tmp_path, caplog):
    path = tmp_path / "memit.yaml"
    path.write_text("alg_name: MEMIT\nlayers: [1, 2]\nv_num_grad_steps: 2\nv_lr: 5e-1\nstats_dir: ./data/stats\n")
    C = {layer: torch.eye(SIZES["ffn"], dtype=torch.float64) for layer in (1, 2)}
    with caplog.at_level(logging.WARNING):
        patch = eu.unlearn(*tiny, split, "memit", hparams=str(path), covariance=C)
    used = patch.info["hparams"]
    assert tuple(used["layers"]) == (1, 2) and used["v_lr"] == 0.5 and used["v_num_grad_steps"] == 2
    assert "alg_name, stats_dir" in caplog.text


# ---------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    "method, bad",
    [
        ("memit", {"v_lr": "fast"}),
        ("memit", {"v_lr": True}),
        ("memit", {"v_lr": None}),
        ("memit", {"layers": "1,2"}),
        ("memit", {"layers": []}),
        ("memit", {"layers": [1.5]}),
        ("memit", {"layers": {"a": 1}}),
        ("memit", {"layers": True}),
        ("memit", {"v_num_grad_steps": 2.5}),
        ("memit", {"v_num_grad_steps": float("inf")}),
        ("memit", {"train_end": "yes"}),
        ("memit", {"context_templates": "{}"}),
        ("memit", {"context_templates": [1]}),
        ("memit", {"fact_token": 3}),
        ("rome", {"mom2_adjustment": 1}),
        ("grace", {"layer": "last"}),
        ("memit", {"batch_size": "one"}),
        ("wise", {"act_margin": 5}),
        ("wise", {"act_margin": [5, "wide", 10]}),
        ("wise", {"retrieve": "True"}),
        ("ga", {"target_modules": "q_proj"}),
        ("ga", {"batch_size": [4]}),
    ],
)
def test_values_of_the_wrong_type(method, bad):
    ((name, value),) = bad.items()
    with pytest.raises(eu.RequestError, match=f"'{name}' needs .*{str(value)[:3].replace('[', '.')}"):
        settle(method, bad)


def test_values_are_read_in_the_type_of_their_field():
    found = settle("wise", {"act_margin": ["5e0", 20, 10.0], "n_iter": "30", "edit_lr": "9e-1"})
    assert (found.act_margin, found.n_iter, found.edit_lr) == ((5.0, 20.0, 10.0), 30, 0.9)
    sizes = [settle("memit", {"context_templates": None, "batch_size": size}).batch_size for size in (None, 3.0, 2)]
    assert sizes == [None, 3, 2]


def test_types_that_are_not_texts(monkeypatch):
    """A config written without postponed annotations, as a user may do."""
    kind = type(
        "Mine",
        (),
        {
            "__annotations__": {"layers": tuple[int, ...], "rate": float, "n": int | None},
            "layers": (4,),
            "rate": 1.0,
            "n": None,
        },
    )
    config = dataclass(frozen=True)(kind)
    model = SimpleNamespace(_name_or_path="", num_hidden_layers=8)
    monkeypatch.setitem(METHODS, "mine", Method("mine", config, run=None))
    found = resolve("mine", model, {"layers": 2, "rate": "5e-1", "n": "3"})
    assert (found.layers, found.rate, found.n) == ((2,), 0.5, 3)
    assert resolve("mine", model, None).layers == (1,)


def test_what_is_no_set_of_hyperparameters(tmp_path):
    assert settle("memit", {}) == settle("memit")
    with pytest.raises(eu.RequestError, match="MEMITConfig"):
        settle("memit", METHODS["ga"].config())
    with pytest.raises(eu.RequestError, match="not int"):
        settle("memit", 3)
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(eu.RequestError, match=r"list\.yaml"):
        settle("memit", tmp_path / "list.yaml")
    for name in ("broken.yaml", "none.yaml"):
        with pytest.raises(eu.DatasetError, match=name):
            settle("memit", tmp_path / name)


def test_config_object_and_dict_are_the_same(tiny, split):
    changes = {
        "layers": (1, 2),
        "context_templates": ("{}", "Well. {}"),
        "v_num_grad_steps": 3,
        "v_lr": 0.1,
        "mom2_update_weight": 5.0,
    }
    C = {layer: torch.eye(SIZES["ffn"], dtype=torch.float64) for layer in (1, 2)}
    a = eu.unlearn(*tiny, split, "memit", hparams=changes, covariance=C)
    b = eu.unlearn(*tiny, split, "memit", hparams=METHODS["memit"].config(**changes), covariance=C)
    assert same(a.tensors(), b.tensors())
