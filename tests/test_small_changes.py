"""What is too small to do anything is said: a training that changed nothing, a change that rounding swallows."""

from __future__ import annotations

import logging

import pytest
import torch
from conftest import make_model, make_tokenizer, qas, same, weights

import editunlearn_lib as eu
from editunlearn_lib.adapter import Beside
from editunlearn_lib.methods import METHODS
from editunlearn_lib.methods.training import Trainee
from editunlearn_lib.patch import DENSE, Patch

TRAINING = [name for name, method in METHODS.items() if not method.edits]
HALF = (torch.bfloat16, torch.float16)
SHORT = {"num_epochs": 2, "batch_size": 2, "lora_dropout": 0.0}


def train(model, method="idk", **hparams):
    rows = qas(8)
    return eu.unlearn(
        model, make_tokenizer(), rows[:4], method, retain=rows[4:], hparams={**SHORT, **hparams}, progress=False
    )


def logits(model) -> torch.Tensor:
    ids = make_tokenizer()("What is the capital of Testland? Nobody knows.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


# ---------------------------------------------------------------- a training that changed nothing


@pytest.mark.parametrize("method", TRAINING)
def test_a_training_that_changed_nothing_is_said(method, caplog):
    with caplog.at_level(logging.WARNING):
        patch = train(make_model(), method, lr=1e-12)
    assert patch.info["changed"] == 0
    (message,) = [r.getMessage() for r in caplog.records if "changed nothing" in r.getMessage()]
    assert method in message and "all 4 forget questions" in message and "1e-12" in message and "Testland" in message


def test_a_training_that_changed_something_says_how_much(caplog):
    model = make_model()
    with caplog.at_level(logging.WARNING):
        patch = train(model, "idk", lr=5e-2)
    rows = qas(4)
    before = eu.generate(model, make_tokenizer(), [qa.question for qa in rows])
    with patch.on(model):
        after = eu.generate(model, make_tokenizer(), [qa.question for qa in rows])
    assert patch.info["changed"] == sum(a != b for a, b in zip(before, after, strict=True)) / 4 > 0
    assert "changed nothing" not in caplog.text


# ---------------------------------------------------------------- a change that rounding swallows


def dense(model, scale: float) -> Patch:
    """A patch whose ΔW is W · scale, of one matrix."""
    name = "model.layers.1.mlp.down_proj.weight"
    shapes = {n: list(p.shape) for n, p in model.named_parameters()}
    base = eu.models.fingerprint(model)
    return Patch({name + DENSE: model.get_parameter(name).float() * scale}, {"method": "mine"}, base, shapes)


@pytest.mark.parametrize("dtype", HALF)
def test_by_hand_what_is_left_of_a_change(dtype):
    """A step of bf16 at W is |W|/256 to |W|/128 (of fp16: /2048 to /1024): less than half of it is nothing."""
    model = make_model().to(dtype)
    step = torch.finfo(dtype).eps
    assert dense(model, step / 5).kept_in_dtype(model) == 0
    assert dense(model, 100 * step).kept_in_dtype(model) > 0.99
    patch = dense(model, step / 1.8)
    (name,) = patch.parameters
    W, delta = model.get_parameter(name).detach().double(), patch.delta(name).double()
    rounded = (W + delta).to(dtype).double() - W
    by_hand = 1 - float((rounded - delta).norm() / delta.norm())
    assert patch.kept_in_dtype(model) == pytest.approx(by_hand, abs=1e-5) and 0.2 < by_hand < 0.8
    assert dense(make_model(), step / 5).kept_in_dtype(make_model()) > 0.999  # float32 keeps it


def test_it_is_in_info_and_warned_about_below_a_half(caplog):
    model = make_model().to(torch.bfloat16)
    rows = qas(2)
    hparams = {"layers": [1], "v_num_grad_steps": 3, "v_lr": 1e-4, "context_templates": ["{}"]}
    with caplog.at_level(logging.WARNING):
        patch = eu.unlearn(model, make_tokenizer(), rows, "rome", hparams=hparams, progress=False)
    assert patch.info["kept_in_dtype"] == patch.kept_in_dtype(model) < 0.5
    assert "bfloat16 keeps only" in caplog.text and "dtype='float32'" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        patch = eu.unlearn(make_model(), make_tokenizer(), rows, "rome", hparams=hparams, progress=False)
    assert patch.info["kept_in_dtype"] > 0.999 and "keeps only" not in caplog.text


def test_a_patch_that_is_switched_on_in_another_dtype_warns_too(caplog):
    patch = dense(make_model().to(torch.bfloat16).float(), 1e-4)
    patch.info["dtype"] = "torch.float32"
    model = make_model().to(torch.bfloat16)
    with caplog.at_level(logging.WARNING), patch.on(model):
        pass
    assert "bfloat16 keeps only 0 %" in caplog.text


# ---------------------------------------------------------------- kept beside the weights


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", HALF)
def test_a_small_trained_change_in_half_precision_is_kept_beside_the_weights(family, dtype, monkeypatch):
    """With the patch on the model says what the trained one said, though rounded into the weights nothing were left."""
    model = make_model(family).to(dtype)
    before, untouched = weights(model), logits(model)
    trained = {}
    outcome = Trainee.outcome

    def watch(self, log):
        self.model.eval()
        trained["logits"] = logits(self.model)
        return outcome(self, log)

    monkeypatch.setattr(Trainee, "outcome", watch)
    patch = train(model, lr=2e-4, target_modules=["c_proj" if family == "gpt2" else "down_proj"])
    assert isinstance(patch, Beside) and patch.info["kept_in_dtype"] == 1.0
    assert same(weights(model), before) and torch.equal(logits(model), untouched)
    with patch.on(model):
        assert same(weights(model), before)  # it is beside them
        on = logits(model)
    assert not torch.equal(on, untouched)
    step = torch.finfo(dtype).eps * untouched.abs().max()
    assert (
        on - trained["logits"]
    ).abs().max() <= 2 * step  # α/r is multiplied into the factor, peft does it afterwards
    assert torch.equal(logits(model), untouched)


def test_it_has_the_verbs_of_a_patch(tmp_path, caplog):
    model = make_model().to(torch.bfloat16)
    patch = train(model, lr=1e-3)
    with patch.on(model):
        on = logits(model)
        with pytest.raises(eu.PatchError, match="on already"):
            patch.apply(model)
    patch.save(tmp_path / "p")
    again = eu.load_patch(tmp_path / "p")
    assert type(again) is Beside and again.parameters == patch.parameters
    with again.on(model):
        assert torch.equal(logits(model), on)
    name = patch.parameters[0]
    assert torch.equal(again.delta(name), patch.delta(name)) and patch.delta(name).any()
    compiled = torch.compile(model, backend="eager")
    with again.on(compiled):
        assert torch.equal(logits(compiled), on)
    with caplog.at_level(logging.WARNING):
        merged = patch.merge_into(make_model().to(torch.bfloat16))
    changed = merged.get_parameter(name).float() - model.get_parameter(name).float()
    assert (changed - patch.delta(name)).abs().max() <= torch.finfo(torch.bfloat16).eps * model.get_parameter(
        name
    ).abs().max()


def test_two_of_them_add_up_and_one_stands_beside_an_edit():
    """In float32, where rounding between hooks does not show: the same as written into the weights, in any order."""
    model = make_model()
    one, two = train(model, lr=1e-3), train(model, "dpo", lr=1e-3)
    assert type(one) is Patch
    beside = [Beside(p.tensors(), p.info, p.base, p.shapes) for p in (one, two)]
    edit, off = dense(model, 0.1), logits(model)
    with one.on(model), two.on(model), edit.on(model):
        together = logits(model)
    with edit.on(model), beside[1].on(model), beside[0].on(model):
        torch.testing.assert_close(logits(model), together, atol=1e-5, rtol=1e-5)
    with beside[0].on(model), two.on(model), edit.on(model):
        torch.testing.assert_close(logits(model), together, atol=1e-5, rtol=1e-5)
    with beside[0].on(model):
        assert not torch.allclose(logits(model), together, atol=1e-4)
    assert torch.equal(logits(model), off)


def test_in_generation_and_batches_it_is_as_alone():
    model, tokenizer = make_model().to(torch.bfloat16), make_tokenizer()
    patch = train(model, lr=5e-2)
    questions = [qa.question for qa in qas(3)]
    with patch.on(model):
        together = eu.generate(model, tokenizer, questions, max_new_tokens=6)
        alone = [eu.generate(model, tokenizer, [question], max_new_tokens=6)[0] for question in questions]
    assert together == alone != eu.generate(model, tokenizer, questions, max_new_tokens=6)


def test_dense_tensors_cannot_be_beside():
    model = make_model()
    patch = dense(model, 0.1)
    with pytest.raises(eu.PatchError, match="no factor"):
        Beside(patch.tensors(), {}, patch.base, patch.shapes)
