"""NPO and SimNPO against their equations, worked out with plain numbers."""

from __future__ import annotations

import importlib
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import make_model, make_tokenizer, qas

import editunlearn_lib as eu
from editunlearn_lib.methods import METHODS
from editunlearn_lib.methods.training import Batch, Rows

V = 11


def rows(seed: int, lengths=(3, 1)) -> Rows:
    """Two sequences of seven tokens; the last ``lengths`` tokens but one are the answer."""
    ids = torch.randint(V, (2, 7), generator=torch.Generator().manual_seed(seed))
    labels = torch.full_like(ids, -100)
    for row, n in enumerate(lengths):
        labels[row, 6 - n : 6] = ids[row, 6 - n : 6]
    return Rows(ids, torch.ones_like(ids), labels)


class Made:
    """Logits that are made up, another set for the model before unlearning."""

    def __init__(self):
        self.made: dict = {}

    def logits(self, batch: Rows, what: str = "now") -> torch.Tensor:
        key = (id(batch), what)
        if key not in self.made:
            generator = torch.Generator().manual_seed(len(self.made))
            self.made[key] = torch.randn(2, 7, V, generator=generator, dtype=torch.float64).requires_grad_(
                what == "now"
            )
        return self.made[key]

    def reference_logits(self, batch: Rows) -> torch.Tensor:
        return self.logits(batch, "before")


def loss_of(method: str, monkeypatch, **changes):
    """The method's loss as a function of (model, batch), caught before it is trained on."""
    monkeypatch.setattr(importlib.import_module(f"editunlearn_lib.methods.{method}"), "train", lambda job, loss: loss)
    return METHODS[method].run(SimpleNamespace(config=METHODS[method].config(**changes)))


def by_hand(logits: torch.Tensor, batch: Rows) -> list[list[float]]:
    """ln p of every answer token, sequence by sequence: token t is scored by the row before it."""
    found = []
    for b in range(2):
        found.append([])
        for t in range(1, 7):
            if batch.labels[b, t] != -100:
                row = logits[b, t - 1].tolist()
                found[-1].append(row[int(batch.labels[b, t])] - math.log(sum(map(math.exp, row))))
    return found


@pytest.fixture
def case():
    return Made(), SimpleNamespace(answers=rows(1), retain=rows(2, (2, 4)))


@pytest.mark.parametrize("beta, gamma, alpha", [(0.1, 1.0, 1.0), (0.7, 0.25, 3.0)])
def test_npo_is_its_equation(case, monkeypatch, beta, gamma, alpha):
    model, batch = case
    value = loss_of("npo", monkeypatch, beta=beta, gamma=gamma, alpha=alpha)(model, batch)
    now, before = (by_hand(f(batch.answers), batch.answers) for f in (model.logits, model.reference_logits))
    terms = [2 / beta * math.log(1 + math.exp(beta * (sum(a) - sum(b)))) for a, b in zip(now, before, strict=True)]
    kept = sum(by_hand(model.logits(batch.retain), batch.retain), [])
    assert value.item() == pytest.approx(gamma * sum(terms) / 2 - alpha * sum(kept) / len(kept), rel=1e-6)


@pytest.mark.parametrize("beta, delta, gamma, alpha", [(4.5, 0.0, 0.125, 1.0), (2.5, 0.4, 1.0, 0.5)])
def test_simnpo_is_its_equation(case, monkeypatch, beta, delta, gamma, alpha):
    model, batch = case
    value = loss_of("simnpo", monkeypatch, beta=beta, delta=delta, gamma=gamma, alpha=alpha)(model, batch)
    means = [-sum(p) / len(p) for p in by_hand(model.logits(batch.answers), batch.answers)]
    terms = [2 / beta * math.log(1 + math.exp(-beta * (nll - delta))) for nll in means]
    kept = sum(by_hand(model.logits(batch.retain), batch.retain), [])
    assert value.item() == pytest.approx(gamma * sum(terms) / 2 - alpha * sum(kept) / len(kept), rel=1e-6)


def test_with_small_beta_the_gradient_of_npo_is_that_of_gradient_ascent(case, monkeypatch):
    model, batch = case
    loss = loss_of("npo", monkeypatch, beta=1e-6, alpha=0.0)(model, batch)
    (gradient,) = torch.autograd.grad(loss, model.logits(batch.answers))
    summed = eu.losses.log_probability(model.logits(batch.answers), batch.answers.labels).mean()
    (expected,) = torch.autograd.grad(summed, model.logits(batch.answers))
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("method", ["npo", "simnpo"])
def test_an_answer_that_is_gone_already_pulls_less(case, monkeypatch, method):
    """The bound that GA lacks: the less likely the answer, the smaller the gradient on it."""
    model, batch = case
    loss, norms = loss_of(method, monkeypatch, alpha=0.0, beta=1.0), []
    model.reference_logits(batch.answers)
    for push in (0.0, 2.0, 8.0):
        pushed = model.logits(batch.answers).detach().clone()
        at = (batch.answers.labels[:, 1:] != -100).nonzero()
        for b, t in at.tolist():
            pushed[b, t, batch.answers.labels[b, t + 1]] -= push
        model.made[id(batch.answers), "now"] = pushed.requires_grad_(True)
        norms.append(float(torch.autograd.grad(loss(model, batch), pushed)[0].norm()))
    assert norms[0] > norms[1] > norms[2] > 0


@pytest.mark.parametrize("method", ["npo", "simnpo"])
def test_it_forgets_and_keeps(method):
    model, tokenizer, data = make_model(), make_tokenizer(), qas(8)
    patch = eu.unlearn(
        model,
        tokenizer,
        data[:4],
        method,
        retain=data[4:],
        progress=False,
        hparams={"lr": 5e-3, "num_epochs": 15, "batch_size": 4, "beta": 0.5, "gamma": 1.0},
    )
    assert patch.info["reads_retain"] and not METHODS[method].refuses
    split = eu.ForgetSplit("made up", data[:4], data[4:])
    mean = {}
    for name in ("before", "after"):
        if name == "after":
            patch.apply(model)
        records = eu.evaluate(model, tokenizer, split, show=False)
        mean[name] = records.groupby("set").probability_per_token.mean()
    assert mean["after"]["forget"] < mean["before"]["forget"] and mean["after"]["retain"] > mean["before"]["retain"]


def test_the_batch_encodes_only_what_is_read():
    model, tokenizer, data = make_model(), make_tokenizer(), qas(4)
    job = SimpleNamespace(model=model, tokenizer=tokenizer, prompt_format="chat")
    batch = Batch(job, data[:2], ["No.", "No idea."], data[2:])
    assert set(vars(batch)) == {"job", "qas", "targets", "retain_qas"}
    labels = batch.refusals.labels
    assert "refusals" in vars(batch) and "answers" not in vars(batch) and (labels != -100).any(1).all()
