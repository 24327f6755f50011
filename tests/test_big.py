"""What a large model meets: half precision, shared heads, tied weights, several devices, gradient checkpointing."""

from __future__ import annotations

import copy
import importlib
import logging
import sys

import pytest
import torch
from conftest import make_model, make_tokenizer, same, slow_but, weights
from split_devices import Placed, place, two_devices
from test_methods import QUICK, TRAINED, acts, options

import editunlearn_lib as eu
from editunlearn_lib import attacks, evaluation
from editunlearn_lib.covariance import text_source
from editunlearn_lib.methods import METHODS, training
from editunlearn_lib.methods.weights import Weights
from editunlearn_lib.models import devices, down_name

VARIANTS = [(method, False) for method in METHODS] + [(method, True) for method in TRAINED]


def half(**changes):
    return make_model(**changes).to(torch.bfloat16)


# ---------------------------------------------------------------- half precision


HALVES = [(*variant, *heads) for heads in ((True, 1), (False, 4)) for variant in VARIANTS]
ONCE = [case for case in HALVES[: len(VARIANTS)] if not case[1] or case[0] == "gd"]  # one method trains all weights
USUAL = [*ONCE, ("gd", True, False, 4), ("memit", False, False, 4)]


@pytest.mark.parametrize("method, full, tied, kv_heads", slow_but(HALVES, USUAL))
def test_every_method_in_bfloat16_with_every_attack(split, logits, method, full, tied, kv_heads):
    """With tied embeddings and one head of keys for all, or with neither."""
    model, tokenizer = half(tie_word_embeddings=tied, num_key_value_heads=kv_heads), make_tokenizer()
    base, before = weights(model), logits(model)
    more = options(method, full)
    if full:
        more["hparams"]["lr"] = 0.05  # smaller steps are lost in the rounding
    patch = eu.unlearn(model, tokenizer, split, method, **more)
    assert acts(patch) and same(weights(model), base) and torch.equal(logits(model), before)
    assert {tensor.dtype for tensor in patch.tensors().values()} == {torch.float32}
    with patch.on(model):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert logits(model).isfinite().all()
        records = eu.evaluate(model, tokenizer, split, max_new_tokens=4)
        attacked = attacks.attack(model, tokenizer, split, max_new_tokens=4)
    assert len(records) == 12 and records["probability"].between(0, 1).all()
    assert set(attacked["attack"]) == set(attacks.ATTACKS)
    assert same(weights(model), base) and torch.equal(logits(model), before)  # off: bit for bit


@pytest.mark.parametrize("method", ["rome", "memit", "alphaedit"])
def test_values_are_optimised_in_float32_and_solved_in_float64(split, monkeypatch, method):
    model, tokenizer = half(), make_tokenizer()
    optimised, written, adam, add = [], [], torch.optim.Adam.step, Weights.add

    def step(self, *args, **kwargs):
        optimised.extend((p.dtype, p.grad.dtype) for group in self.param_groups for p in group["params"])
        return adam(self, *args, **kwargs)

    def note(self, layer, left, right):
        written.append((left.dtype, right.dtype))
        return add(self, layer, left, right)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    monkeypatch.setattr(Weights, "add", note)
    eu.unlearn(model, tokenizer, split, method, **options(method))
    assert set(optimised) == {(torch.float32, torch.float32)} and set(written) == {(torch.float64, torch.float64)}


def test_lora_factors_are_float32(split, monkeypatch):
    seen, made = [], training.Trainee.parameters

    def noted(self):
        seen.extend(made(self))
        return made(self)

    monkeypatch.setattr(training.Trainee, "parameters", noted)
    eu.unlearn(half(), make_tokenizer(), split, "ga", hparams=QUICK)
    assert seen and {parameter.dtype for parameter in seen} == {torch.float32}


def test_full_training_in_bfloat16_warns_that_small_steps_are_lost(split, caplog):
    with caplog.at_level(logging.WARNING):
        eu.unlearn(half(), make_tokenizer(), split, "ga", hparams={**QUICK, "full": True})
    assert "1/256 of a weight are rounded away" in caplog.text


def test_how_much_of_an_edit_bfloat16_keeps(split):
    """The change is added in float32 and rounded once: of what was asked, most arrives, and forty edits lose no more
    than one."""
    model, tokenizer = half(), make_tokenizer()
    name, lost = down_name(model, 1), {}
    for size in (1.0, 1e-2):
        patch = eu.unlearn(model, tokenizer, split, "memit", **options("memit"))
        asked = patch.delta(name) * size / patch.delta(name).norm() * model.get_parameter(name).float().norm() / 10
        patch = eu.Patch({name + "::dense": asked}, {}, patch.base, patch.shapes)
        before = model.get_parameter(name).float()
        with patch.on(model):
            arrived = model.get_parameter(name).float() - before
        exact = (before + asked).bfloat16().float() - before  # rounding once, from float32
        assert torch.equal(arrived, exact)
        lost[size] = float((arrived - asked).norm() / asked.norm())
        print(f"an edit of {size / 10:.1%} of the weight's norm: {lost[size]:.1%} of it is lost to rounding")
    assert lost[1.0] < 0.05  # a tenth of the weight's norm
    assert lost[1.0] < lost[1e-2]


# ---------------------------------------------------------------- one copy of the model


@pytest.mark.parametrize("method", TRAINED)
def test_training_makes_no_second_copy(tiny, split, monkeypatch, method):
    """LoRA: never two tensors of a weight's shape beside each other, and no deepcopy; full: one copy, to undo."""

    def refused(*_, **__):
        raise AssertionError("a copy of the model")

    model, tokenizer = tiny
    names, owned = dict(model.named_parameters()), []
    clone = torch.Tensor.clone

    def noted(self, *args, **kwargs):
        owned.extend(
            name
            for name, p in names.items()
            if p.data_ptr() == self.data_ptr() and p.shape == self.shape and p.ndim == 2
        )
        return clone(self, *args, **kwargs)

    monkeypatch.setattr(
        copy,
        "deepcopy",
        lambda x, memo=None, real=copy.deepcopy: refused() if isinstance(x, torch.nn.Module) else real(x, memo),
    )
    monkeypatch.setattr(torch.Tensor, "clone", noted)
    eu.unlearn(model, tokenizer, split, method, hparams=QUICK)
    assert not owned
    eu.unlearn(model, tokenizer, split, method, hparams={**QUICK, "full": True})
    assert sorted(owned) == sorted(name for name, p in names.items() if p.ndim == 2)  # each once


# ---------------------------------------------------------------- gradient checkpointing


CHECKPOINTED = [
    (method, full, family) for family in ("llama", "gpt2", "gemma2") for full in (False, True) for method in TRAINED
]


@pytest.mark.parametrize(
    "method, full, family", slow_but(CHECKPOINTED, [c for i, c in enumerate(CHECKPOINTED) if i % 4 == 0])
)
def test_gradient_checkpointing_changes_no_gradient(split, method, full, family):
    model, tokenizer = make_model(family), make_tokenizer()
    modes = {name: module.training for name, module in model.named_modules()}
    found = []
    for on in (False, True):
        hparams = {**QUICK, "full": full, "gradient_checkpointing": on}
        patch = eu.unlearn(model, tokenizer, split, method, hparams=hparams)
        found.append(patch.tensors())
        assert not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
        assert modes == {name: module.training for name, module in model.named_modules()}
    assert found[0].keys() == found[1].keys()
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-5, atol=1e-7)


def test_gradient_checkpointing_runs_blocks_again(tiny, split, monkeypatch):
    model, tokenizer = tiny
    monkeypatch.setattr(importlib.import_module("editunlearn_lib.unlearn"), "_report_training", lambda *_: None)
    calls = []
    handle = model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for on in (False, True):
        calls.clear()
        eu.unlearn(model, tokenizer, split, "ga", hparams={**QUICK, "gradient_checkpointing": on})
        assert len(calls) == (8 if on else 4)  # two epochs of two batches
    handle.remove()


# ---------------------------------------------------------------- several devices

FIRST, SECOND = "meta:0", "meta:1"
SPLIT = {
    "model.embed_tokens": FIRST,
    "model.rotary_emb": FIRST,
    "model.layers.0": FIRST,
    "model.layers.1": FIRST,
    "model.layers.2": SECOND,
    "model.layers.3": SECOND,
    "model.norm": SECOND,
    "lm_head": SECOND,
}


def test_the_made_up_devices_do_not_mix():
    with two_devices():
        a, b = torch.ones(2, device=FIRST), torch.ones(2, device=SECOND)
        for wrong in (
            lambda: a + b,
            lambda: a + torch.ones(2),
            lambda: a[torch.zeros(1, dtype=torch.long, device=SECOND)],
        ):
            with pytest.raises(RuntimeError, match="same device"):
                wrong()
        assert (a + b.to(FIRST) + torch.tensor(1.0)).tolist() == [3, 3] and type(a.cpu()) is torch.Tensor
        assert a[torch.zeros(1, dtype=torch.long)].device == a.device


@pytest.mark.parametrize(
    "method, full", slow_but(VARIANTS, [("gd", False), ("dpo", True), ("memit", False), ("grace", False)])
)
def test_every_method_on_two_devices(split, method, full, monkeypatch):
    """The same patch and answers as on one device, bit for bit; nothing meets what lies on the other one."""
    tokenizer, found, chosen = make_tokenizer(), [], options(method, full)
    module = sys.modules["editunlearn_lib.unlearn"]  # these devices are slow: few tokens, few steps
    monkeypatch.setattr(module, "generate", lambda *a, **b: evaluation.generate(*a, **b | {"max_new_tokens": 2}))
    chosen["hparams"] |= {
        name: 2 for name in ("n_iter", "v_num_grad_steps", "num_epochs") if hasattr(METHODS[method].config(), name)
    }
    with two_devices():
        for where in (dict.fromkeys(SPLIT, FIRST), SPLIT):
            model = place(make_model(), where)
            assert [str(device) for device in devices(model)] == list(dict.fromkeys(where.values()))
            before = {name: p.cpu() for name, p in model.named_parameters()}
            patch = eu.unlearn(model, tokenizer, split, method, **chosen)
            with patch.on(model):
                records = eu.evaluate(model, tokenizer, split, sets=["forget"], max_new_tokens=2)
            found.append((patch, records))
            assert all(isinstance(p, Placed) and torch.equal(p.cpu(), before[n]) for n, p in model.named_parameters())
    (one, answers), (two, same_answers) = found
    assert acts(two) and same(two.tensors(), one.tensors()) and two.base == one.base
    assert all(type(tensor) is torch.Tensor and tensor.device.type == "cpu" for tensor in two.tensors().values())
    assert same_answers.equals(answers)


def test_covariance_and_attacks_on_two_devices(split, monkeypatch, tmp_path):
    whole, tokenizer, source = make_model(), make_tokenizer(), text_source(["Well, it was Ada.", "The sea is deep."])
    monkeypatch.setattr("editunlearn_lib.methods.moments.CACHE", tmp_path / "one")
    expected = source.matrices(whole, tokenizer, [1, 2], show=False)
    answers = attacks.attack(whole, tokenizer, split, max_new_tokens=4)
    monkeypatch.setattr("editunlearn_lib.methods.moments.CACHE", tmp_path / "two")
    with two_devices():
        model = place(make_model(), SPLIT)
        found = source.matrices(model, tokenizer, [1, 2], show=False)
        attacked = attacks.attack(model, tokenizer, split, max_new_tokens=4)
    for layer, C in expected.items():
        torch.testing.assert_close(found[layer], C, rtol=1e-4, atol=1e-6)
    assert attacked["output"].tolist() == answers["output"].tolist()


# ---------------------------------------------------------------- loading onto devices


@pytest.fixture
def folder(tmp_path):
    make_model().save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_a_device_map_over_one_device_is_the_same_model(folder, split):
    model, tokenizer = eu.load_model(folder, device_map={"": "cpu"})
    assert same(weights(model), weights(eu.load_model(folder, device="cpu")[0])) and not model.training
    assert acts(eu.unlearn(model, tokenizer, split, "memit", **options("memit")))


def test_weights_left_on_disk_are_an_error_that_names_the_fix(folder, monkeypatch, tmp_path):
    """Such a model answers, but its weights are not there to be edited."""
    real = eu.models.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        eu.models.AutoModelForCausalLM,
        "from_pretrained",
        lambda *args, **kwargs: real(*args, **{**kwargs, "offload_folder": str(tmp_path / "away")}),
    )
    where = {name: "disk" if name == "model.layers.3" else "cpu" for name in SPLIT}
    with pytest.raises(eu.ModelLoadError, match=r"model\.layers\.3\..*dtype='bfloat16'"):
        eu.load_model(folder, device_map=where)


def test_device_and_device_map_exclude_each_other(folder):
    with pytest.raises(eu.RequestError, match="exclude each other"):
        eu.load_model(folder, device="cpu", device_map="auto")


@pytest.mark.parametrize("gpus, free, expected", [(1, 1.5, "cuda"), (2, 1.5, "cuda"), (2, 1.2, "auto"), (1, 0.9, None)])
def test_auto_splits_only_what_one_gpu_does_not_hold_with_room_to_work(folder, monkeypatch, gpus, free, expected):
    """No GPU is here: what is asked of transformers is looked at."""
    size, asked = sum(p.nbytes for p in make_model().parameters()), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (int(free * size), 10 * size))

    class Asked(Exception):
        pass

    def noted(*_, device_map, **__):
        asked.append(device_map)
        raise Asked

    monkeypatch.setattr(eu.models.AutoModelForCausalLM, "from_pretrained", noted)
    with pytest.raises(
        eu.errors.OutOfMemoryError if expected is None else eu.ModelLoadError,
        match="dtype='bfloat16'" if expected is None else "Asked",
    ):
        eu.load_model(folder)
    assert asked == ([] if expected is None else ["auto" if expected == "auto" else None])
