"""The conformance suite: every registered method, on tiny models and on the pocket. MEMIT against its equations."""

from __future__ import annotations

import copy
import logging
import math
import random
from dataclasses import replace

import pytest
import torch
from conftest import SIZES, TOKENIZERS, make_model, make_tokenizer, qas, same, slow_but, weights

import editunlearn_lib as eu
from editunlearn_lib import losses, metrics
from editunlearn_lib.evaluation import answer_logits
from editunlearn_lib.methods import METHODS, positions, training, values
from editunlearn_lib.methods.memit import MEMITConfig
from editunlearn_lib.methods.positions import lookup
from editunlearn_lib.methods.registry import Job, Request
from editunlearn_lib.models import FAMILIES, block, down, down_name
from editunlearn_lib.text import end_of_turn, prompt_text

EDITING = tuple(name for name, method in METHODS.items() if method.edits)
TRAINED = tuple(name for name in METHODS if name not in EDITING)
QUICK = {"lr": 5e-3, "num_epochs": 2, "batch_size": 2}
VALUES = {"v_num_grad_steps": 6, "v_lr": 0.1, "mom2_update_weight": 5.0}
LOCATED = {"layers": (1, 2), "context_templates": ("{}", "Well. {}"), "v_num_grad_steps": 6, "v_lr": 0.1}
SETTINGS = {  # quick ones, for models of four layers; a method without an entry takes its defaults
    "rome": {**LOCATED, "layers": (1,), "mom2_adjustment": True},
    "memit": {**LOCATED, "mom2_update_weight": 5.0},
    "alphaedit": {**LOCATED, "nullspace_threshold": 1.0, "L2": 0.5},
    "grace": {"layers": (2,), "eps": 0.05, "n_iter": 8},
    "wise": {"layers": (2,), "n_iter": 5, "act_margin": (0.1, 1.0, 0.5), "edit_lr": 0.1},
}


def covariances(layers, d: int = SIZES["ffn"], seed: int = 0) -> dict[int, torch.Tensor]:
    """Made-up C: symmetric, positive, not a multiple of 1."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for layer in layers:
        A = torch.randn(3 * d, d, generator=generator, dtype=torch.float64)
        found[layer] = A.T @ A / len(A)
    return found


def options(method: str, full: bool = False) -> dict:
    if method in EDITING:
        return {"hparams": dict(SETTINGS.get(method, {})), "covariance": covariances((1, 2))}
    return {"hparams": {**QUICK, **({"full": True} if full else {})}}


def acts(patch) -> bool:
    """Whether a patch holds anything: an adapter changes no weight."""
    return max(patch.norms().values(), default=0) > 0 or (not patch.parameters and patch.nbytes > 0)


VARIANTS = [(method, full) for method in TRAINED for full in (False, True)] + [(method, False) for method in EDITING]
named = pytest.mark.parametrize("method, full", VARIANTS, ids=[f"{m}-full" if f else m for m, f in VARIANTS])


def state(model) -> tuple:
    """Everything of a model that a method has to leave alone, but for the weights."""
    return (
        {
            name: (type(module), module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in model.named_modules()
        },
        {
            name: (parameter.requires_grad, parameter.grad is None, parameter.data_ptr())
            for name, parameter in model.named_parameters()
        },
        set(model.__dict__) - {"_editunlearn"},
    )


def prompts(tokenizer, split) -> list[str]:
    return [prompt_text(tokenizer, qa.question) for qa in split.forget]


def answer_loss(model, tokenizer, rows) -> float:
    batch = training.encode_answers(tokenizer, rows, [qa.answer for qa in rows], "chat", "cpu")
    with torch.no_grad():
        return float(losses.idk(model(input_ids=batch.ids, attention_mask=batch.mask).logits, batch.labels))


# ---------------------------------------------------------------- every method


@named
def test_the_model_is_left_as_it_was_and_the_same_seed_repeats(tiny, split, logits, method, full):
    model, tokenizer = tiny
    base, before, untouched_state = weights(model), logits(model), state(model)
    torch.manual_seed(11)
    random.seed(11)
    expected = torch.rand(3), random.random()
    torch.manual_seed(11)
    random.seed(11)
    patch = eu.unlearn(model, tokenizer, split, method, seed=5, **options(method, full))
    assert torch.equal(torch.rand(3), expected[0]) and random.random() == expected[1]  # global random state
    assert same(weights(model), base) and torch.equal(logits(model), before) and state(model) == untouched_state

    assert acts(patch) and all(norm > 0 and math.isfinite(norm) for norm in patch.norms().values())
    with patch.on(model):
        out = [scored.logits for scored in answer_logits(model, tokenizer, prompts(tokenizer, split), ["Well."] * 4)]
        assert all(rows.isfinite().all() for rows in out) and logits(model).isfinite().all()
    was = [scored.logits for scored in answer_logits(model, tokenizer, prompts(tokenizer, split), ["Well."] * 4)]
    assert method == "wise" or not all(
        torch.equal(a, b) for a, b in zip(was, out, strict=True)
    )  # WISE may route past it
    assert same(weights(model), base)

    torch.manual_seed(99)  # the outcome does not depend on the global state
    again = eu.unlearn(model, tokenizer, split, method, seed=5, **options(method, full))
    assert same(again.tensors(), patch.tensors()) and again.info["log"] == patch.info["log"]


@named
def test_a_model_in_training_mode_is_given_back_in_training_mode(split, method, full):
    model, tokenizer = make_model().train().requires_grad_(True), make_tokenizer()
    model.model.embed_tokens.requires_grad_(False)
    expected = state(model)
    eu.unlearn(model, tokenizer, split, method, **options(method, full))
    assert state(model) == expected


@pytest.mark.parametrize("method", ["ga", "rome", "memit", "alphaedit", "grace"])
def test_a_model_survives_an_error_inside_a_method(tiny, split, logits, method, monkeypatch):
    model, tokenizer = tiny
    base, expected = weights(model), state(model)

    def broken(*_, **__):
        raise ZeroDivisionError

    if method == "ga":
        monkeypatch.setattr(losses, "ga", broken)
    else:
        monkeypatch.setattr(values.torch.optim.Adam, "step", broken)
    with pytest.raises(ZeroDivisionError):
        eu.unlearn(model, tokenizer, split, method, **options(method))
    assert same(weights(model), base) and state(model) == expected


PUT_ASIDE = [("gd", False), ("dpo", True), ("memit", False), ("grace", False), ("wise", False)]  # one of each kind


@pytest.mark.parametrize("method, full", slow_but(VARIANTS, PUT_ASIDE))
def test_patches_that_are_on_are_put_aside(tiny, split, method, full):
    model, tokenizer = tiny
    alone = eu.unlearn(model, tokenizer, split, method, **options(method, full))
    first = eu.unlearn(model, tokenizer, split.forget, "idk", seed=3, hparams=QUICK)
    with first.on(model):
        patched = weights(model)
        second = eu.unlearn(model, tokenizer, split, method, **options(method, full))
        assert same(weights(model), patched)
    assert same(second.tensors(), alone.tensors()) and second.base == alone.base


@named
def test_one_request(tiny, split, method, full):
    one = replace(split, forget=split.forget[:1])
    patch = eu.unlearn(*tiny, one, method, **options(method, full))
    assert patch.info["n_forget"] == 1 and acts(patch)


@named
def test_info(tiny, split, method, full):
    patch = eu.unlearn(*tiny, split, method, seed=7, **options(method, full))
    info = patch.info
    assert (info["method"], info["merge"], info["seed"], info["n_forget"]) == (method, 1, 7, 4)
    assert info["seconds"] > 0 and info["peak_memory_bytes"] > 0 and info["targets"]["kind"] == "refusal"
    for name, value in options(method, full)["hparams"].items():
        assert info["hparams"][name] == value
    if method in EDITING:
        assert [row["ids"] for row in info["log"]] == [[qa.id] for qa in split.forget]
        assert all(row["target"] in eu.data.refusals() and "took" in row for row in info["log"])
    else:
        assert [row["epoch"] for row in info["log"]] == [1, 2]


@named
def test_a_saved_patch_acts_the_same(tiny, split, logits, tmp_path, method, full):
    model, tokenizer = tiny
    patch = eu.unlearn(model, tokenizer, split, method, **options(method, full))
    with patch.on(model):
        expected = logits(model)
    with eu.load_patch(patch.save(tmp_path)).on(model):
        assert torch.equal(logits(model), expected)


FAMILY_CASES = [(method, family) for method in ("idk", *EDITING) for family in FAMILIES]
# ROME and AlphaEdit find their way through a model with MEMIT's own code.
FAMILY_USUAL = [case for case in FAMILY_CASES if case[0] not in ("rome", "alphaedit") or case[1] == "gpt2"]


@pytest.mark.parametrize("method, family", slow_but(FAMILY_CASES, FAMILY_USUAL))
def test_every_family(family, method, split, logits):
    model, tokenizer = make_model(family), make_tokenizer()
    base, expected = weights(model), state(model)
    patch = eu.unlearn(model, tokenizer, split, method, **options(method))
    assert same(weights(model), base) and state(model) == expected
    for name in patch.parameters:
        assert patch.delta(name).shape == model.get_parameter(name).shape
    if method == "memit":
        assert set(patch.parameters) == {down_name(model, 1), down_name(model, 2)}
    with patch.on(model):
        scored = list(answer_logits(model, tokenizer, prompts(tokenizer, split), ["Well."] * 4))
        assert all(row.logits.isfinite().all() for row in scored)


TOKENIZED = [(method, name) for method in EDITING for name in TOKENIZERS]
TOKENIZED_USUAL = [case for case in TOKENIZED if case[0] not in ("rome", "alphaedit")]  # they look up as MEMIT does


@pytest.mark.parametrize("method, name", slow_but(TOKENIZED, TOKENIZED_USUAL))
def test_every_tokenizer(name, method, split):
    """SentencePiece-like and byte-level; a target with a space before it is the same target."""
    tokenizer = make_tokenizer(name)
    model = make_model(vocab=len(tokenizer))
    found = [eu.unlearn(model, tokenizer, split, method, targets=[t] * 4, **options(method)) for t in ("No.", " No.")]
    assert acts(found[0]) and same(found[0].tensors(), found[1].tensors())


@pytest.mark.parametrize("method", slow_but([*METHODS], ["idk", *EDITING]))
def test_sixty_four_requests(tiny, method):
    model, tokenizer = tiny
    rows = tuple(
        eu.QA(f"q{i}", f"What is the capital of the {i}th Testland?", f"Example {i}", f"{i}th Testland")
        for i in range(64)
    )
    quick = {
        **options(method)["hparams"],
        **({"n_iter": 2} if method in ("grace", "wise") else {}),
        **({"num_epochs": 1} if method in TRAINED else {}),
    }
    if method == "rome":
        quick["v_num_grad_steps"] = 2
    patch = eu.unlearn(model, tokenizer, rows, method, retain=rows[:4], **{**options(method), "hparams": quick})
    assert acts(patch) and patch.info["n_forget"] == 64
    if method in EDITING:
        assert len(patch.info["log"]) == 64


@pytest.mark.parametrize("n", [2, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", EDITING)
def test_single_requests_flip_on_the_pocket(pocket, method, n):
    """Nine of ten single requests turn into a refusal, of the target's words or others; what did not is printed."""
    model, tokenizer = pocket
    base = weights(model)
    rows = eu.load_split("factual", n_forget=10, seed=7).forget[:n]
    # the preset of AlphaEdit was chosen for forty requests together: a lone one is too light beside its L2
    hparams = {"alphaedit": {"L2": 10.0, "v_num_grad_steps": 40}}.get(method)
    patches = [eu.unlearn(model, tokenizer, [qa], method, seed=i, hparams=hparams) for i, qa in enumerate(rows)]
    edits = [patch.info["log"][0] for patch in patches]
    for edit in edits:
        if not edit["took"]:
            print(f"{method} did not take: {edit['question']} -> {edit['after']!r}")
    assert same(weights(model), base)
    assert sum(edit["took"] or metrics.declined(edit["after"]) for edit in edits) >= 0.9 * n
    assert not any(metrics.declined(edit["before"]) for edit in edits)


# ---------------------------------------------------------------- training


def test_a_batch_stops_where_single_searches_stop_and_differs_in_noise_alone(pocket):
    """Forty requests and one at a time: the same steps; a first gradient's sign differs where it is rounding noise."""
    model, tokenizer = pocket
    rows = eu.load_split("factual", n_forget=40, seed=100).forget
    requests = [Request((), qa.question, "I don't know the answer to that.", (qa.subject,)) for qa in rows]
    config = MEMITConfig(layers=(0, 1), v_lr=15.0, v_num_grad_steps=4, context_templates=("{}", "Thank you. {}"))
    job = Job(model, tokenizer, rows, requests, (), config, "batch", lambda layers: {}, "chat", 0, False)

    def gradient(some) -> torch.Tensor:
        search = values.Search(job, some, 1, config.context_templates, "block")
        delta = torch.zeros_like(search.h0, requires_grad=True)
        loss, _, _ = search.loss(delta, torch.ones(len(some), dtype=torch.bool))
        return torch.autograd.grad(loss.sum(), delta)[0]

    flags = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        together = values.find_values(job, requests, 1, config.context_templates).log
        single = [values.find_values(job, [one], 1, config.context_templates).log[0] for one in requests[:20]]
        batch, alone = gradient(requests)[:20], torch.cat([gradient([one]) for one in requests[:20]])
    finally:
        for parameter, flag in zip(model.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)
    assert [row["steps"] for row in together[:20]] == [row["steps"] for row in single]
    share = alone.abs() / alone.abs().max(1, keepdim=True).values
    assert (batch - alone).norm() <= 2e-5 * alone.norm()
    assert (share[batch.sign() != alone.sign()] < 1e-5).all()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("method", TRAINED)
def test_training_moves_its_losses_the_right_way(tiny, split, method, full):
    model, tokenizer = tiny
    hparams = {"lr": 1e-2 if not full else 2e-3, "num_epochs": 8, "batch_size": 4, "lora_dropout": 0.0, "full": full}
    before = answer_loss(model, tokenizer, split.forget), answer_loss(model, tokenizer, split.retain)
    refusals = ["I don't know."] * 4
    patch = eu.unlearn(model, tokenizer, split, method, targets=refusals, hparams=hparams)
    with patch.on(model):
        after = answer_loss(model, tokenizer, split.forget), answer_loss(model, tokenizer, split.retain)
        refusing = [replace(qa, answer="I don't know.") for qa in split.forget]
        refusal = answer_loss(model, tokenizer, refusing)
    if method in ("ga", "gd", "kl"):
        assert after[0] > before[0] + 0.1
    if method == "gd":
        assert after[1] < before[1]
    if method in ("idk", "dpo"):
        assert refusal < answer_loss(model, tokenizer, refusing)
    if method == "dpo":
        assert patch.info["log"][0]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # one batch, θ = θ₀
        assert patch.info["log"][-1]["loss"] < patch.info["log"][0]["loss"]


@pytest.mark.parametrize("full", [False, True])
def test_the_first_loss_is_that_of_the_base_model(tiny, split, full):
    """One batch, no dropout: the first step's losses are known from the untouched model."""
    model, tokenizer = tiny
    hparams = {"num_epochs": 1, "batch_size": 4, "lora_dropout": 0.0, "full": full}
    one = replace(split, retain=split.retain[:1])  # drawn four times, so that the draw is known
    forget, retain = answer_loss(model, tokenizer, one.forget), answer_loss(model, tokenizer, one.retain)
    first = {
        m: eu.unlearn(model, tokenizer, one, m, hparams=hparams).info["log"][0]["loss"] for m in ("ga", "gd", "kl")
    }
    assert first["ga"] == pytest.approx(-forget, rel=1e-5)
    assert first["gd"] == pytest.approx(retain - forget, rel=1e-5)
    assert first["kl"] == pytest.approx(-forget, rel=1e-5)  # KL(θ₀ ‖ θ₀) = 0
    twice = eu.unlearn(model, tokenizer, one, "gd", hparams={**hparams, "retain_weight": 3.0}).info["log"][0]["loss"]
    assert twice == pytest.approx(3 * retain - forget, rel=1e-5)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_reference_logits_are_the_base_models(split, monkeypatch, family, full):
    """Checked at every step, while the weights have moved."""
    model, tokenizer = (
        make_model(family, **({"tie_word_embeddings": True} if family == "llama" else {})),
        make_tokenizer(),
    )
    base, seen = copy.deepcopy(model), []
    original = training.Trainee.reference_logits

    def checked(self, batch):
        found = original(self, batch)
        with torch.no_grad():
            expected = base(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
            now = self.model.eval()(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
        self.model.train()
        seen.append((torch.equal(found, expected), torch.equal(now, expected), found.requires_grad))
        return found

    monkeypatch.setattr(training.Trainee, "reference_logits", checked)
    eu.unlearn(model, tokenizer, split, "kl", hparams={**QUICK, "full": full})
    assert len(seen) == 4 and [row[0] for row in seen] == [True] * 4 and not any(row[2] for row in seen)
    assert [row[1] for row in seen] == [True, False, False, False]  # the model itself has moved on


def test_labels_are_the_answer_and_the_end():
    for name in TOKENIZERS:
        tokenizer = make_tokenizer(name)
        rows = qas(8)
        for prompt_format, end in (("chat", "</s>"), ("raw", "")):
            answers = [("  " if i % 2 else "") + qa.answer for i, qa in enumerate(rows)]
            batch = training.encode_answers(tokenizer, rows, answers, prompt_format, "cpu")
            for qa, ids, mask, labels in zip(rows, batch.ids, batch.mask, batch.labels, strict=True):
                chosen = labels != -100
                assert torch.equal(ids[chosen], labels[chosen]) and not (chosen & ~mask.bool()).any()
                assert tokenizer.decode(ids[chosen]).strip() == qa.answer + end
                text = tokenizer.decode(ids[~chosen & mask.bool()])
                assert text.endswith("[/INST]" if prompt_format == "chat" else qa.question[-3:])


def test_only_the_chosen_modules_are_trained(tiny, split):
    patch = eu.unlearn(*tiny, split, "ga", hparams={**QUICK, "target_modules": ["q_proj", "v_proj"], "rank": 3})
    assert {name.split(".")[-2] for name in patch.parameters} == {"q_proj", "v_proj"} and len(patch.parameters) == 8
    assert all(tensor.shape[0] == 3 for name, tensor in patch.tensors().items() if name.endswith("::right"))


def test_full_and_lora_touch_what_they_say(tiny, split):
    model, tokenizer = tiny
    lora = eu.unlearn(model, tokenizer, split, "ga", hparams=QUICK)
    full = eu.unlearn(model, tokenizer, split, "ga", hparams={**QUICK, "full": True})
    linear = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    assert set(lora.parameters) == linear
    assert set(full.parameters) == {name for name, _ in model.named_parameters()}
    assert lora.nbytes < full.nbytes


def test_retain_can_be_given_beside_the_questions(tiny, split):
    a = eu.unlearn(*tiny, split, "gd", hparams=QUICK)
    b = eu.unlearn(*tiny, split.forget, "gd", retain=split.retain, hparams=QUICK)
    assert same(a.tensors(), b.tensors())
    c = eu.unlearn(*tiny, split, "gd", retain=split.retain[:1], hparams=QUICK)
    assert not same(a.tensors(), c.tensors())


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.reads_retain])
def test_methods_that_do_not_read_the_retain_set(tiny, split, method):
    with_it = eu.unlearn(*tiny, split, method, **options(method))
    without = eu.unlearn(*tiny, split.forget, method, **options(method))
    assert not METHODS[method].reads_retain and not with_it.info["reads_retain"]
    assert same(with_it.tensors(), without.tensors())


# ---------------------------------------------------------------- subjects and targets


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("prompt_format", ["chat", "raw"])
def test_positions(name, prompt_format):
    """The edited token covers the last character of the subject's last occurrence; labels spell the target."""
    tokenizer = make_tokenizer(name)
    rows = [
        *qas(8),
        eu.QA("u", "Wer ist Zoë Ångström 東京?", "x", "Zoë Ångström 東京"),
        eu.QA("e", "Is it Ann?", "x", "Ann?"),
    ]
    target = "I'm sorry; no {idea} über."
    requests = [Request((qa.id,), qa.question, target, (qa.subject,) if qa.subject else ()) for qa in rows]
    for template in ("{}", "Well. {}", "{} Foo, {x}? Testland"):
        for fact_token in ("subject_last", "question_last", "prompt_last"):
            found = lookup(tokenizer, requests, template, prompt_format, fact_token, targets=True)
            for i, qa in enumerate(rows):
                wrapped = template.replace("{}", qa.question)
                prompt = prompt_text(tokenizer, wrapped, prompt_format)
                at = prompt.index(wrapped)
                if fact_token == "prompt_last":
                    at = len(prompt) - 1
                elif fact_token == "subject_last" and qa.subject:
                    at += wrapped.rindex(qa.subject) + len(qa.subject) - 1
                else:
                    at += len(wrapped) - 1
                text = prompt + " " + target
                encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=not text.startswith("<s>"))
                covering = [t for t, (a, b) in enumerate(encoded["offset_mapping"]) if a <= at < b]
                assert found.position[i] == covering[-1], (text, fact_token)
                real = int(found.mask[i].sum())
                assert found.ids[i, :real].tolist() == encoded["input_ids"]
                predicted = (found.labels[i] != -100).nonzero().flatten()
                assert torch.equal(found.labels[i, predicted], found.ids[i, predicted + 1])
                assert tokenizer.decode(found.labels[i, predicted]).strip() == target
                assert int(predicted[-1]) == real - 2  # up to the end, without an end token


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_end_token_is_an_option(name):
    tokenizer = make_tokenizer(name)
    found = lookup(tokenizer, [Request((), "Who?", "No.", ())], "{}", "chat", "subject_last", targets=True, end=True)
    assert found.labels[0][found.labels[0] != -100].tolist()[-1] == tokenizer.eos_token_id
    assert end_of_turn(tokenizer) == "</s>"


@pytest.mark.parametrize("question", ["I", "INST", "s", " Who is it? "])
def test_short_questions_and_those_with_spaces_around(tiny, question):
    """The question is found in the prompt where the template put it, not in the template's own words."""
    tokenizer = tiny[1]
    found = lookup(tokenizer, [Request(("x",), question, "No.", ())], "{}", "chat", "question_last", targets=False)
    before = tokenizer.decode(found.ids[0, : int(found.position[0]) + 1])
    assert before == f"<s>[INST] {question.strip()}"  # spaces around a question are dropped


def test_a_template_that_strips_the_question(tiny, split):
    """Many do (Llama 3, Gemma); a question made by hand may have spaces around it."""
    model, tokenizer = tiny
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[INST]{{ m['content'] | trim }}[/INST]{% endfor %}"
    one = (replace(split.forget[0], question=f" {split.forget[0].question}\n"),)
    changes = options("memit")
    changes["hparams"]["context_templates"] = ("{}",)
    patch = eu.unlearn(model, tokenizer, one, "memit", **changes)
    expected = eu.unlearn(model, tokenizer, split.forget[:1], "memit", **changes)
    for name in expected.parameters:
        torch.testing.assert_close(patch.delta(name), expected.delta(name), rtol=1e-5, atol=1e-7)


WORDINGS = [(*variant, prompt_format) for prompt_format in ("chat", "raw") for variant in VARIANTS]


@pytest.mark.parametrize(
    "method, full, prompt_format",
    slow_but(WORDINGS, [*WORDINGS[: len(VARIANTS)], ("gd", True, "raw"), ("memit", False, "raw")]),
)
def test_spaces_around_a_target_change_nothing(tiny, split, method, full, prompt_format):
    found = [
        eu.unlearn(*tiny, split, method, targets=[t] * 4, prompt_format=prompt_format, **options(method, full))
        for t in ("I don't know.", " I don't know. ")
    ]
    assert same(found[0].tensors(), found[1].tensors())


@pytest.mark.parametrize("method", ["idk", *EDITING])
def test_no_subject_and_a_repeated_subject(tiny, method):
    rows = qas(8)[6:]
    assert rows[0].question.count(rows[0].subject) == 2 and rows[1].subject is None
    patch = eu.unlearn(*tiny, rows, method, targets=["No.", "No."], **options(method))
    assert acts(patch)
    if method == "memit":
        assert patch.info["log"][1]["kl"] == 0.0 and patch.info["log"][0]["kl"] != 0.0  # no subject, no KL text
        last = eu.unlearn(
            *tiny,
            [replace(rows[0], question="Who is the king of Foo and Foo?")],
            method,
            targets=["No."],
            **options(method),
        )
        assert last.info["log"][0]["steps"] == patch.info["log"][0]["steps"]


def test_too_few_targets(tiny, split):
    for method in ("idk", "memit"):
        for targets in (["No."], ["No."] * 5, ["No.", "", "No.", "No."], [1, 2, 3, 4]):
            with pytest.raises(eu.RequestError, match="4 texts are needed"):
                eu.unlearn(*tiny, split, method, targets=targets, **options(method))
    with pytest.raises(eu.RequestError, match="2 texts are needed"):
        eu.unlearn(*tiny, split, "memit", merge=2, targets=["No."] * 4, **options("memit"))
    with pytest.raises(eu.UnknownNameError, match="Did you mean 'self-improved'"):
        eu.unlearn(*tiny, split, "idk", targets="self-improve", hparams=QUICK)


def test_refusal_targets_are_drawn_by_the_seed(tiny, split):
    def targets(seed):
        log = eu.unlearn(*tiny, split, "memit", seed=seed, **options("memit")).info["log"]
        return [row["target"] for row in log]

    assert targets(1) == targets(1) != targets(2)


@pytest.mark.parametrize("merge, groups", [(2, [2, 2]), (3, [3, 1]), (4, [4])])
def test_merging(tiny, split, merge, groups, caplog):
    targets = [f"Number {i}." for i in range(len(groups))]
    with caplog.at_level(logging.WARNING):
        patch = eu.unlearn(*tiny, split, "memit", merge=merge, targets=targets, **options("memit"))
    assert [len(row["ids"]) for row in patch.info["log"]] == groups
    assert [row["target"] for row in patch.info["log"]] == targets and patch.info["merge"] == merge
    assert ("does not divide" in caplog.text) == (len(set(groups)) > 1)


# ---------------------------------------------------------------- clear errors


def test_unknown_names(tiny, split):
    with pytest.raises(eu.UnknownNameError, match="Did you mean 'memit'"):
        eu.unlearn(*tiny, split, "memitt")
    with pytest.raises(eu.UnknownNameError, match="Did you mean 'chat'"):
        eu.unlearn(*tiny, split, "ga", prompt_format="chatt")
    with pytest.raises(eu.UnknownNameError, match="Did you mean 'sequential'"):
        eu.unlearn(*tiny, split, "memit", mode="sequentiall")
    with pytest.raises(eu.UnknownNameError, match="batch"):
        eu.unlearn(*tiny, split, "ga", mode="sequential")


@pytest.mark.parametrize("method", METHODS)
def test_requests_that_cannot_be_met(tiny, split, method):
    model, tokenizer = tiny
    with pytest.raises(eu.RequestError, match="empty"):
        eu.unlearn(model, tokenizer, (), method, retain=split.retain)
    with pytest.raises(eu.RequestError, match="empty"):
        eu.unlearn(model, tokenizer, replace(split, forget=()), method)
    if METHODS[method].reads_retain:
        for given in (split.forget, replace(split, retain=())):
            with pytest.raises(eu.RequestError, match="retain"):
                eu.unlearn(model, tokenizer, given, method)
    for merge in (0, -2, 1.5):
        with pytest.raises(eu.RequestError, match="merge"):
            eu.unlearn(model, tokenizer, split, method, merge=merge)
    if not METHODS[method].merges:
        with pytest.raises(eu.RequestError, match="memit"):  # says which methods can
            eu.unlearn(model, tokenizer, split, method, merge=2)


def test_covariance_must_fit(tiny, split):
    changes = options("memit")["hparams"]
    with pytest.raises(eu.RequestError, match=r"\[2\].*\[1\]"):
        eu.unlearn(*tiny, split, "memit", hparams=changes, covariance=covariances((1,)))
    with pytest.raises(eu.RequestError, match="CovarianceSource"):
        eu.unlearn(*tiny, split, "memit", hparams=changes, covariance="corpus")
    with pytest.raises(eu.EditUnlearnError):  # a matrix of another size is no bare torch error
        eu.unlearn(*tiny, split, "memit", hparams=changes, covariance=covariances((1, 2), d=7))
    extra = eu.unlearn(*tiny, split, "memit", hparams=changes, covariance=covariances((1, 2)) | covariances((3,)))
    assert len(extra.parameters) == 2  # layers that are not edited are ignored


def test_layers_that_do_not_exist(tiny, split):
    with pytest.raises(eu.UnsupportedModelError, match="layer 9"):
        eu.unlearn(*tiny, split, "memit", hparams={"layers": [1, 9]}, covariance=covariances((1, 9)))


# ---------------------------------------------------------------- MEMIT from its equations

# the last block is not edited: behind it no other position sees the change, and nothing but rounding noise is left
LAYERS, TEMPLATES, LAMBDA = (0, 1, 2), ("{}", "Well. {}"), 5.0
CONFIG = {
    "layers": LAYERS,
    "context_templates": TEMPLATES,
    "mom2_update_weight": LAMBDA,
    "v_num_grad_steps": 6,
    "v_lr": 0.05,
    "v_weight_decay": 0.1,
    "clamp_norm_factor": 0.1,
    "kl_factor": 0.0625,
}


class SlowMemit:
    """MEMIT in float64, one request and one text at a time, with its own positions and hooks."""

    def __init__(self, model, tokenizer, prompt_format: str, config: dict):
        self.model, self.tokenizer = copy.deepcopy(model).double(), tokenizer
        self.prompt_format, self.config = prompt_format, config
        self.stopped_early = self.clamped = 0

    def text(self, qa, template: str) -> tuple[str, int]:
        """The prompt and the character that is edited."""
        wrapped = template.replace("{}", qa.question)
        last = wrapped.rfind(qa.subject) + len(qa.subject) - 1 if qa.subject else len(wrapped) - 1
        head = "<s>[INST] " if self.prompt_format == "chat" else ""
        return head + wrapped + (" [/INST]" if self.prompt_format == "chat" else ""), len(head) + last

    def ids(self, text: str) -> tuple[torch.Tensor, list]:
        encoded = self.tokenizer(text, add_special_tokens=not text.startswith("<s>"), return_offsets_mapping=True)
        return torch.tensor([encoded["input_ids"]]), encoded["offset_mapping"]

    def at(self, offsets, character: int) -> int:
        return max(t for t, (a, b) in enumerate(offsets) if a <= character < b)

    def run(self, ids, *, layer: int, position: int, delta=None):
        """(logits, key at ``layer``, block output at ``layer``); ``delta`` is added to the output at ``position``."""
        seen = {}

        def on_block(_, __, output):
            hidden = output[0] if isinstance(output, tuple) else output
            if delta is not None:
                hidden = hidden.clone()
                hidden[0, position] = hidden[0, position] + delta
            seen["h"] = hidden[0, position]
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        def on_down(_, inputs, __):
            seen["k"] = inputs[0][0, position].detach()

        handles = [block(self.model, layer).register_forward_hook(on_block)]
        handles.append(down(self.model, layer).register_forward_hook(on_down))
        try:
            logits = self.model(input_ids=ids, use_cache=False).logits[0]
        finally:
            for handle in handles:
                handle.remove()
        return logits, seen["k"], seen["h"].detach()

    def value(self, qa, target: str) -> torch.Tensor:
        """z = h₀ + δ by the equation in methods.md."""
        last, c = max(self.config["layers"]), self.config
        bare, character = self.text(qa, "{}")
        ids, offsets = self.ids(bare)
        h0 = self.run(ids, layer=last, position=self.at(offsets, character))[2]
        delta = torch.zeros_like(h0, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=c["v_lr"])
        essence_ids, p0 = None, None
        if qa.subject:
            essence = f"{qa.subject} is a"
            essence_ids, essence_offsets = self.ids(essence)
            essence_at = self.at(essence_offsets, len(qa.subject) - 1)
        for step in range(c["v_num_grad_steps"]):
            nll = 0.0
            for template in c["context_templates"]:
                prompt, character = self.text(qa, template)
                ids, offsets = self.ids(prompt + " " + target)
                logits = self.run(ids, layer=last, position=self.at(offsets, character), delta=delta)[0]
                scored = [t for t, (_, b) in enumerate(offsets) if b > len(prompt)]
                logp = logits.log_softmax(-1)
                nll = nll - sum(logp[t - 1, ids[0, t]] for t in scored) / len(scored) / len(c["context_templates"])
            loss = nll
            if qa.subject:
                p = self.run(essence_ids, layer=last, position=essence_at, delta=delta)[0][essence_at].log_softmax(-1)
                p0 = p.detach() if p0 is None else p0
                loss = loss + c["kl_factor"] * (p.exp() * (p - p0)).sum()  # KL(p_δ ‖ p₀)
            loss = loss + c["v_weight_decay"] * delta.norm() / h0.norm() ** 2
            if loss.item() < 0.05:
                self.stopped_early += 1
                break
            if step == c["v_num_grad_steps"] - 1:
                break
            (delta.grad,) = torch.autograd.grad(loss, delta)
            adam.step()
            with torch.no_grad():
                most = c["clamp_norm_factor"] * h0.norm()
                if delta.norm() > most:
                    delta *= most / delta.norm()
                    self.clamped += 1
        return (h0 + delta).detach()

    def edit(self, rows, targets, C) -> dict[str, torch.Tensor]:
        """{parameter: ΔW}."""
        layers = sorted(self.config["layers"])
        Z = torch.stack([self.value(qa, target) for qa, target in zip(rows, targets, strict=True)], 1)  # (d, n)
        before = weights(self.model)
        for number, layer in enumerate(layers):
            columns, now = [], []
            for qa in rows:
                found = []
                for template in self.config["context_templates"]:
                    prompt, character = self.text(qa, template)
                    ids, offsets = self.ids(prompt)
                    with torch.no_grad():
                        found.append(self.run(ids, layer=layer, position=self.at(offsets, character))[1])
                columns.append((found[0] + sum(found[1:]) / (len(found) - 1)) / 2 if len(found) > 1 else found[0])
                ids, offsets = self.ids(self.text(qa, "{}")[0])
                with torch.no_grad():
                    position = self.at(offsets, self.text(qa, "{}")[1])
                    now.append(self.run(ids, layer=layers[-1], position=position)[2])
            K, R = torch.stack(columns, 1), (Z - torch.stack(now, 1)) / (len(layers) - number)
            inverse = torch.linalg.inv(self.config["mom2_update_weight"] * C[layer].double() + K @ K.T)
            with torch.no_grad():
                down(self.model, layer).weight += R @ K.T @ inverse
        after = weights(self.model)
        return {
            down_name(self.model, layer): (after[n] - before[n])
            for layer in layers
            for n in [down_name(self.model, layer)]
        }


def job_of(tiny, config, prompt_format="chat", seed=0) -> Job:
    """A job that searches values only: its requests and templates are handed over with it."""
    return Job(*tiny, (), (), (), config, "batch", dict, prompt_format, seed, False)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative difference of two changes."""
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("prompt_format", ["chat", "raw"])
@pytest.mark.parametrize("mode", ["batch", "sequential"])
def test_memit_equals_its_equations(tiny, prompt_format, mode):
    model, tokenizer = tiny
    rows = (*qas(5), qas(8)[6], qas(8)[7])  # a subject with braces, one that occurs twice, and none
    targets = ["I don't know.", "No idea.", "I'm sorry, but no.", "Well, well.", "I think so.", "That is it.", "Who?"]
    C = covariances(LAYERS)
    patch = eu.unlearn(
        model,
        tokenizer,
        rows,
        "memit",
        targets=targets,
        hparams=CONFIG,
        covariance=C,
        mode=mode,
        prompt_format=prompt_format,
    )
    slow = SlowMemit(model, tokenizer, prompt_format, CONFIG)
    if mode == "batch":
        expected = slow.edit(rows, targets, C)
    else:
        parts = [slow.edit([qa], [target], C) for qa, target in zip(rows, targets, strict=True)]
        expected = {name: sum(part[name] for part in parts) for name in parts[0]}
    assert set(patch.parameters) == set(expected) == {down_name(model, layer) for layer in LAYERS}
    found = {name: apart(patch.delta(name), expected[name]) for name in expected}
    print(f"{prompt_format}, {mode}: relative difference {found}; clamped {slow.clamped} times")
    assert slow.clamped > 0  # the clamp took part
    assert max(found.values()) <= 1e-4


def test_memit_stops_where_the_loss_is_small(tiny):
    """A target of one token, predicted at the edited position, is learned soon; the other request goes on alone."""
    model, tokenizer = tiny
    model.model.norm.weight.mul_(4)  # so that it can be certain
    rows, targets, C = (qas(8)[7], qas(8)[0]), ["ca", "No idea."], covariances(LAYERS)
    assert len(tokenizer(" ca", add_special_tokens=False)["input_ids"]) == 1
    config = {**CONFIG, "v_num_grad_steps": 40, "v_lr": 0.4, "clamp_norm_factor": 10.0}
    patch = eu.unlearn(
        model, tokenizer, rows, "memit", targets=targets, hparams=config, covariance=C, prompt_format="raw"
    )
    first, second = patch.info["log"]
    assert 0 < first["steps"] < 39 and first["loss"] < 0.05
    assert second["steps"] == 39 and second["loss"] > 0.05
    slow = SlowMemit(model, tokenizer, "raw", config)
    z = slow.value(rows[0], targets[0])
    assert slow.stopped_early == 1
    requests = [
        Request((), qa.question, t, (qa.subject,) if qa.subject else ()) for qa, t in zip(rows, targets, strict=True)
    ]
    found = values.find_values(job_of(tiny, MEMITConfig(**config), "raw"), requests, 2, TEMPLATES)
    assert apart((found.h0 + found.delta)[0], z) <= 1e-4


@pytest.mark.parametrize("prompt_format", ["chat", "raw"])
def test_values_in_a_batch_equal_one_at_a_time(tiny, prompt_format):
    requests = [
        Request((qa.id,), qa.question, target, (qa.subject,) if qa.subject else ())
        for qa, target in zip(qas(8), ["No.", "I don't know anything about that, I'm sorry."] * 4, strict=True)
    ]
    job, layer = job_of(tiny, MEMITConfig(**CONFIG), prompt_format), LAYERS[-1]
    found = values.find_values(job, requests, layer, TEMPLATES)
    parts = [values.find_values(job, [request], layer, TEMPLATES) for request in requests]
    together, alone = found.h0 + found.delta, torch.cat([part.h0 + part.delta for part in parts])
    worst = ((together - alone).norm(dim=1) / alone.norm(dim=1)).max()
    print(f"{prompt_format}: values in a batch and alone differ by {worst:.1e} at most")
    assert worst <= 3e-6
    assert [row["steps"] for row in found.log] == [row["steps"] for part in parts for row in part.log]


def test_memit_writes_the_values(tiny, split):
    """With λ near 0 and few requests, the last layer's output at the edited position becomes z."""
    model, tokenizer = tiny
    C = {2: torch.eye(SIZES["ffn"], dtype=torch.float64)}
    config = {**CONFIG, "layers": (2,), "context_templates": ("{}",), "mom2_update_weight": 1e-9}
    targets = ["No idea."] * 4
    patch = eu.unlearn(model, tokenizer, split.forget, "memit", targets=targets, hparams=config, covariance=C)
    requests = [Request((qa.id,), qa.question, "No idea.", (qa.subject,)) for qa in split.forget]
    found = values.find_values(job_of(tiny, MEMITConfig(**config)), requests, 2, ("{}",))
    z = found.h0 + found.delta
    bare = lookup(tokenizer, requests, "{}", "chat", "subject_last", targets=False)
    before = positions.vectors_at(model, block(model, 2), bare, inputs=False)
    with patch.on(model):
        after = positions.vectors_at(model, block(model, 2), bare, inputs=False)
    assert (after - z).norm() <= 1e-3 * (before - z).norm()


def test_a_large_lambda_spares_the_model(tiny, split):
    changes = options("memit")["hparams"]
    norms = [
        sum(
            eu.unlearn(
                *tiny, split, "memit", hparams={**changes, "mom2_update_weight": weight}, covariance=covariances((1, 2))
            )
            .norms()
            .values()
        )
        for weight in (0.1, 10.0, 1000.0)
    ]
    assert norms[0] > norms[1] > norms[2] > 0


def test_batch_size_and_sequential_modes(tiny, split):
    changes, C = options("memit")["hparams"], covariances((1, 2))

    def run(mode="batch", **more):
        return eu.unlearn(*tiny, split, "memit", mode=mode, hparams={**changes, **more}, covariance=C).tensors()

    assert same(run(), run(batch_size=4)) and same(run("sequential"), run(batch_size=1))
    assert not same(run(), run("sequential")) and not same(run(batch_size=2), run())


def test_an_edit_that_did_not_take_is_logged_and_warned_about(tiny, split, caplog):
    changes = {**options("memit")["hparams"], "mom2_update_weight": 1e9}  # so much weight on C that nothing moves
    with caplog.at_level(logging.WARNING):
        patch = eu.unlearn(*tiny, split, "memit", hparams=changes, covariance=covariances((1, 2)))
    failed = [row for row in patch.info["log"] if not row["took"]]
    assert failed and f"{len(failed)} of 4 edits did not take" in caplog.text
    assert split.forget[0].question[:30] in caplog.text


def test_written_contexts_are_a_function_of_the_seed(tiny):
    config = MEMITConfig(context_length=4)
    one, two, again = (values.context_templates(job_of(tiny, config, seed=seed)) for seed in (1, 2, 1))
    assert one == again != two
    assert one[0] == "{}" and len(one) == 6 and all(template.count("{}") == 1 for template in one)
    assert all(template.count("{") == template.count("}") == 1 for template in one)


def test_default_covariance_is_computed_and_stored(tiny, split, monkeypatch, tmp_path):
    model, tokenizer = tiny
    monkeypatch.setattr("editunlearn_lib.methods.moments.CACHE", tmp_path)
    source = eu.CovarianceSource("mine", ("What is the capital of Testland?", "Well, it was Ada."))
    found = source.matrices(model, tokenizer, [1, 2], show=False)
    for layer in (1, 2):  # by hand: one text at a time, every token
        ks = []
        handle = down(model, layer).register_forward_hook(lambda _, inputs, __: ks.append(inputs[0][0].double()))  # noqa: B023
        with torch.no_grad():
            for text in source.texts:
                model(input_ids=tokenizer(text, return_tensors="pt")["input_ids"])
        handle.remove()
        k = torch.cat(ks)
        torch.testing.assert_close(found[layer], k.T @ k / len(k), rtol=1e-5, atol=1e-7)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    monkeypatch.setattr("editunlearn_lib.covariance.key_moments", None)  # now it can only be read
    again = source.matrices(model, tokenizer, [2, 1], show=False)
    assert all(torch.equal(again[layer], found[layer]) for layer in (1, 2))
    changes = options("memit")["hparams"]
    by_source = eu.unlearn(model, tokenizer, split, "memit", hparams=changes, covariance=source)
    by_matrix = eu.unlearn(model, tokenizer, split, "memit", hparams=changes, covariance=found)
    assert same(by_source.tensors(), by_matrix.tensors())
