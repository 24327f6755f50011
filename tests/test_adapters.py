"""GRACE and WISE: their training recomputed slowly from the rules, and what a patch in the forward pass has to keep."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import pytest
import torch
from conftest import SIZES, make_model, make_tokenizer, qas, same, slow_but, weights
from torch import nn

import editunlearn_lib as eu
from editunlearn_lib.errors import PatchError, RequestError
from editunlearn_lib.evaluation import answer_logits
from editunlearn_lib.methods import routing
from editunlearn_lib.models import down, down_name, fingerprint
from editunlearn_lib.patch import DENSE, Patch, untouched
from editunlearn_lib.text import encode, prompt_text

L = 2  # the layer
GRACE = {"layers": (L,), "n_iter": 25, "edit_lr": 0.5, "eps": 0.05}
WISE = {
    "layers": (L,),
    "n_iter": 60,
    "edit_lr": 0.3,
    "act_margin": (0.5, 3.0, 2.5),
    "norm_constraint": 3.0,
    "act_ratio": 0.6,
    "mask_ratio": 0.5,
}
BOTH = pytest.mark.parametrize("method", ["grace", "wise"])
FAMILIES = ("llama", "gpt2", "gemma2", "gpt_neox")
TARGETS = ("I cannot say.", "Never heard of it.", "No idea.", "That is unknown.", "Ask someone else.", "Well, no.")


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR)


def edit(method, model, rows=None, targets=None, **options):
    rows = qas(2) if rows is None else rows
    hparams = {**(GRACE if method == "grace" else WISE), **options.pop("hparams", {})}
    targets = TARGETS[: len(rows)] if targets is None else targets
    return eu.unlearn(
        model, make_tokenizer(), rows, method, targets=targets, hparams=hparams, progress=False, **options
    )


MADE: dict = {}


def made(method, family="llama"):
    """A tiny model and two edits of it, trained once; the model is a new one each time."""
    if (method, family) not in MADE:
        MADE[method, family] = edit(method, make_model(family))
    return make_model(family), MADE[method, family]


def prompts(rows) -> list[str]:
    return [prompt_text(make_tokenizer(), qa.question) for qa in rows]


def ids_of(text: str) -> torch.Tensor:
    return encode(make_tokenizer(), [text])["input_ids"]


def logits_of(model, text: str) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids_of(text), use_cache=False).logits[0]


def generate(model, text, n=6, **options) -> list[int]:
    ids = ids_of(text) if isinstance(text, str) else text
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=n,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        **options,
    )
    return out[0, ids.shape[1] :].tolist()


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def key(model, text: str) -> torch.Tensor:
    """The down projection's input at the last token of a text, (d_ffn,), in the model's own precision."""
    found = []
    handle = down(model, L).register_forward_hook(lambda _m, args, _o: found.append(args[0][0, -1]))
    logits_of(model, text)
    handle.remove()
    return found[0]


# ---------------------------------------------------------------- GRACE from its rules


def book_of(model, requests, eps):
    """Algorithm 1, one request at a time: keys, radii, labels and which entry each request got."""
    keys, radii, labels, entries, cases = [], [], [], [], []
    for question, target in requests:
        k = key(model, prompt_text(make_tokenizer(), question))
        distances = [float((k - other).norm()) for other in keys]
        i = min(range(len(keys)), key=distances.__getitem__) if keys else None
        if i is None or distances[i] > radii[i] + eps:
            case, radius = "new", eps
        elif labels[i] == target:
            radii[i] = max(radii[i], distances[i])
            entries.append(i)
            cases.append("same")
            continue
        else:
            case, radius, radii[i] = "conflict", distances[i] / 2, distances[i] / 2 - 1e-5
        keys.append(k)
        radii.append(radius)
        labels.append(target)
        entries.append(len(keys) - 1)
        cases.append(case)
    return torch.stack(keys), torch.tensor(radii), labels, entries, cases


def grace_requests(model):
    """Requests in which every case happens, and ε₀ from measured distances."""
    near = [
        eu.QA(f"n{i}", f"What is the capital of {name}?", "x", name)
        for i, name in enumerate(("Testland", "Nestland", "Jestland"))
    ]
    far = qas(4)[1:]
    rows = (near[0], far[0], near[1], near[0], near[2], far[1], near[2], far[2])
    targets = (
        "I cannot say.",
        "No idea.",
        "I cannot say.",
        "I cannot say.",
        "Never heard of it.",
        "Well, no.",
        "Never heard of it.",
        "No idea.",
    )
    rows = tuple(replace(qa, id=f"r{i}") for i, qa in enumerate(rows))
    ks = torch.stack([key(model, p) for p in prompts((*near, *far))])
    first, second, *_ = torch.pdist(ks).sort().values.tolist()
    return rows, targets, (first + second) / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_grace_codebook_follows_its_rules(family):
    model = make_model(family)
    slow = copy.deepcopy(model).double()
    rows, targets, eps = grace_requests(slow)
    patch = edit("grace", model, rows, targets, hparams={"eps": eps, "n_iter": 1})
    keys, radii, labels, entries, cases = book_of(
        slow, [(q.question, t) for q, t in zip(rows, targets, strict=True)], eps
    )
    assert set(cases) == {"new", "same", "conflict"} and len(set(entries)) < len(rows)
    t = patch.tensors()
    assert [row["entry"] for row in patch.info["log"]] == entries and patch.info["labels"] == labels
    assert (t["keys"] - keys).abs().max() <= 1e-5 and (t["radii"] - radii).abs().max() <= 1e-5


def test_grace_at_half_the_distance():
    """ε₀ just below and above a measured distance: alone, or a conflict; ε_i + ε₀ counts, not ε₀ alone."""
    model = make_model()
    rows = qas(2)
    a, b = (key(copy.deepcopy(model).double(), p) for p in prompts(rows))
    d = float((a - b).norm())
    for eps, expected in ((d / 2 * 0.999, [d / 2 * 0.999] * 2), (d / 2 * 1.001, [d / 2 - 1e-5, d / 2])):
        radii = edit("grace", model, rows, hparams={"eps": eps, "n_iter": 1}).tensors()["radii"]
        assert (radii - torch.tensor(expected)).abs().max() <= 1e-5
    together = edit("grace", model, rows, ["No idea."] * 2, hparams={"eps": d / 2 * 1.001, "n_iter": 1})
    assert len(together.tensors()["keys"]) == 1 and abs(float(together.tensors()["radii"][0]) - d) <= 1e-5
    with together.on(model):  # the radius ends exactly at the second question
        for text in prompts(rows):
            assert not torch.equal(logits_of(model, text)[-1], logits_of(make_model(), text)[-1])


def train_alone(model, text, target, v, steps, lr):
    """Adam on CE(r | x) with v in place of the down projection's output at the last prompt token."""
    ids, n = ids_of(f"{text} {target}"), ids_of(text).shape[1]
    v = v.clone().requires_grad_(True)

    def put(_module, _args, output):
        output = output.clone()
        output[0, n - 1] = v
        return output

    handle, adam = down(model, L).register_forward_hook(put), torch.optim.Adam([v], lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            logits = model(input_ids=ids, use_cache=False).logits[0, n - 1 : -1]
            adam.zero_grad()
            nn.functional.cross_entropy(logits, ids[0, n:]).backward()
            adam.step()
    handle.remove()
    return v.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_grace_values_are_those_of_training_alone(family):
    model, steps, lr = make_model(family), 6, 0.05
    rows = (*qas(3), replace(qas(1)[0], id="again"))  # the first question comes twice
    targets = ("No idea.", "I cannot say.", "Never heard of it at all.", "No idea.")
    options = {"n_iter": steps, "edit_lr": lr, "eps": 1e-3}
    first = edit("grace", model, rows, targets, hparams={**options, "edit_lr": 0.0}).tensors()["values"]
    assert ((first >= 0) & (first < 1)).all() and first.std() > 0.2
    found = edit("grace", model, rows, targets, hparams=options)
    assert [row["entry"] for row in found.info["log"]] == [0, 1, 2, 0]
    slow, values = copy.deepcopy(model).double(), first.double()
    for text, target, entry in zip(prompts(rows), targets, (0, 1, 2, 0), strict=True):
        values[entry] = train_alone(slow, text, target, values[entry], steps, lr)
    assert ((found.tensors()["values"] - values).norm(dim=1) / values.norm(dim=1)).max() <= 1e-4


def test_grace_goes_on_with_an_earlier_codebook():
    model = make_model()
    rows, targets, eps = grace_requests(copy.deepcopy(model).double())
    hparams = {"eps": eps, "n_iter": 1}
    whole = edit("grace", model, rows, targets, hparams=hparams)
    half = edit("grace", model, rows[:4], targets[:4], hparams=hparams)
    both = edit("grace", model, rows[4:], targets[4:], hparams=hparams, previous=half)
    assert both.info["labels"] == whole.info["labels"]
    for name in ("keys", "radii"):
        torch.testing.assert_close(both.tensors()[name], whole.tensors()[name], rtol=0, atol=1e-5)
    with pytest.raises(RequestError, match="layer"):
        edit("grace", model, previous=half, hparams={"layers": (1,)})


def test_grace_the_same_question_with_another_target():
    """The later edit holds: the earlier key has a radius below 0."""
    model, row = make_model(), qas(1)[0]
    patch = edit("grace", model, (row, replace(row, id="again")), ["No idea.", "Well, yes."])
    assert patch.tensors()["radii"].tolist() == pytest.approx([-1e-5, 0.0], abs=1e-6)
    with patch.on(model):
        assert generate(model, prompts([row])[0])[0] == ids_of("a Well, yes.")[0, len(ids_of("a")[0])]


# ---------------------------------------------------------------- WISE from its equations


def wise_alone(model, row, target, other, mask, config):
    """D of one edit: every step a whole forward pass with W′ in float64."""
    tokenizer, (alpha, beta, gamma) = make_tokenizer(), config["act_margin"]
    module = down(model, L)
    W = module.weight.detach().clone() if isinstance(module, nn.Linear) else module.weight.detach().T.clone()
    D = torch.zeros_like(W)
    text, other = prompt_text(tokenizer, row.question), prompt_text(tokenizer, other)
    ids, n = ids_of(f"{text} {target}"), ids_of(text).shape[1]
    seen = {}

    def side(_module, args, output):
        change = args[0][0] @ D.T
        seen["norms"] = change.norm(dim=-1)
        return output + change

    for _ in range(config["n_iter"]):
        D = D.detach().requires_grad_(True)
        handle = module.register_forward_hook(side)
        with torch.enable_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0, n - 1 : -1]
            edited = seen["norms"][:n].mean()
            model(input_ids=ids_of(other), use_cache=False)
            loc = seen["norms"].mean()
            ce = nn.functional.cross_entropy(logits, ids[0, n:])
            loss = ce + (loc - alpha).relu() + (beta - edited).relu() + (gamma - (edited - loc)).relu()
        handle.remove()
        (gradient,) = torch.autograd.grad(loss, D)
        side_weight = W + D.detach()
        step = config["edit_lr"] * (gradient + config["weight_decay"] * side_weight)
        side_weight = torch.where(mask, side_weight - step, side_weight)
        D = torch.minimum(torch.maximum(side_weight, W - config["norm_constraint"]), W + config["norm_constraint"]) - W
    return D.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_wise_one_edit_step_by_step(family, monkeypatch):
    model, row, other = make_model(family), qas(1), "How old is it?"
    monkeypatch.setattr(routing, "covariance_facts", lambda: [eu.QA("other", other, "x", None)])
    config = {
        **WISE,
        "n_iter": 6,
        "edit_lr": 0.02,
        "mask_ratio": 0.4,
        "weight_decay": 0.5,
        "norm_constraint": 0.03,
        "act_margin": (0.1, 3.0, 2.0),
    }
    found = edit("wise", model, row, hparams=config).tensors()["side.0"]
    mask = found != 0  # weight decay moves every entry of the shard; the rest is checked below
    assert abs(float(mask.double().mean()) - 0.4) < 0.05
    slow = wise_alone(copy.deepcopy(model).double(), row[0], TARGETS[0], other, mask, config)
    assert (found - slow).abs().max() <= 1e-4
    assert float(found.abs().max()) == pytest.approx(0.03) and (slow.abs() < 0.029).any()  # some are clamped, some not


def test_wise_moves_its_shard_only():
    model, rows = make_model(), qas(3)
    config = {"n_iter": 3, "weight_decay": 0.5, "norm_constraint": 0.02, "mask_ratio": 0.2}
    first = edit("wise", model, rows[:1], hparams=config).tensors()["side.0"]
    all_three = edit("wise", model, rows, hparams=config).tensors()["side.0"]
    n, moved = first.numel(), int((first != 0).sum())
    assert abs(moved - 0.2 * n) < 4 * (0.16 * n) ** 0.5
    assert torch.equal(first != 0, all_three != 0) and all_three.abs().max() <= 0.02
    others = edit("wise", model, rows[:2], hparams={**config, "save_freq": 1}).tensors()
    assert not torch.equal(others["side.0"] != 0, others["side.1"] != 0)  # a shard each


def test_wise_stops_when_the_loss_is_low_and_rests():
    model = make_model()
    model.lm_head.weight.mul_(4.0)  # so that this small a model can be as sure as that
    config = {"act_margin": (9.0, 0.0, 0.0), "edit_lr": 0.1, "n_iter": 4000, "norm_constraint": 9.0, "mask_ratio": 1.0}
    (row,) = edit("wise", model, qas(1), ["No"], hparams=config).info["log"]
    assert row["steps"] < 4000 and row["loss"] <= 0.02


def test_ties_by_hand():
    """Density 0.5 of 6: three entries each. Signs: +, −, +, +; those that agree are averaged."""
    a = torch.tensor([[4.0, -3.0, 0.1], [0.2, 2.0, 0.0]])
    b = torch.tensor([[2.0, 5.0, 0.3], [-0.2, -1.0, 0.1]])
    # kept: a = 4, -3, ., ., 2, .   b = 2, 5, ., ., -1, .   sums: 6, 2, 0, 0, 1, 0
    expected = torch.tensor([[3.0, 5.0, 0.0], [0.0, 2.0, 0.0]])
    assert torch.equal(routing.ties([a, b], 0.5, 1.0), expected)
    torch.testing.assert_close(routing.ties([a, b], 0.5, 0.3), expected)  # one weight for all cancels


@pytest.mark.parametrize(
    "save, merge, retrieve, memories",
    [
        (500, 1000, True, 1),
        (1, 1000, True, 5),
        (1, 2, True, 3),
        (2, 1000, True, 3),
        (1, 5, True, 1),
        (1, 2, False, 1),
        (2, 1000, False, 1),
    ],
)
def test_wise_shards_and_memories(save, merge, retrieve, memories):
    config = {"n_iter": 1, "save_freq": save, "merge_freq": merge, "retrieve": retrieve}
    tensors = edit("wise", make_model(), qas(5), hparams=config).tensors()
    assert len(tensors) == memories + 1 and len(tensors["smallest"]) == memories


def test_wise_merged_is_ties_of_its_shards():
    config = {"n_iter": 2, "save_freq": 1}
    apart = edit("wise", make_model(), qas(2), hparams=config).tensors()
    joined = edit("wise", make_model(), qas(2), hparams={**config, "retrieve": False}).tensors()["side.0"]
    assert torch.equal(joined, routing.ties([apart["side.0"], apart["side.1"]], 0.53, 1.0))


def test_wise_goes_on_with_earlier_memories():
    model = make_model()
    first = edit("wise", model, qas(1))
    both = edit("wise", model, qas(2)[1:], previous=first)
    assert len(both.tensors()["smallest"]) == 2
    assert torch.equal(both.tensors()["side.0"], first.tensors()["side.0"])
    for name, value in (("retrieve", False), ("distance_activation", True), ("layers", (1,))):
        with pytest.raises(RequestError, match=name):
            edit("wise", model, qas(2)[1:], previous=first, hparams={name: value})


def deltas(model, patch, text) -> list[float]:
    """Δ of a text for every memory, recomputed."""
    entering = []
    handle = down(model, L).register_forward_hook(lambda _m, args, _o: entering.append(args[0][0]))
    logits_of(model, text)
    handle.remove()
    return [float((entering[0] @ D.T).norm(dim=-1).mean()) for n, D in patch.tensors().items() if n.startswith("side")]


@pytest.mark.parametrize("routing", ["prompt", "token"])
def test_wise_sends_each_question_to_its_memory(routing):
    model, rows = make_model(), qas(2)
    patch = edit("wise", model, rows, hparams={"save_freq": 1, "act_ratio": 0.9, "routing": routing})
    smallest = patch.tensors()["smallest"].tolist()
    texts = prompts(rows)
    assert smallest == pytest.approx([deltas(model, patch, text)[i] for i, text in enumerate(texts)], rel=1e-4)
    for text in [*texts, *prompts(qas(8)[4:]), "Foo bar"]:
        over = [d - 0.9 * s for d, s in zip(deltas(model, patch, text), smallest, strict=True)]
        best = max(range(2), key=over.__getitem__)
        expected = copy.deepcopy(model)
        if over[best] > 0:
            with torch.no_grad():
                down(expected, L).weight += patch.tensors()[f"side.{best}"]
        with patch.on(model):
            torch.testing.assert_close(logits_of(model, text), logits_of(expected, text), rtol=1e-4, atol=1e-4)
        if over[best] <= 0:
            assert torch.equal(logits_of(model, text), logits_of(expected, text))
    assert (
        deltas(model, patch, "Foo bar")[0] < 0.9 * smallest[0] and deltas(model, patch, texts[0])[0] > 0.9 * smallest[0]
    )


def test_wise_unrelated_prompts_stay(monkeypatch):
    """Margins that are reached: the edits take, what is unrelated is the base model's bit for bit."""
    monkeypatch.setattr(routing, "covariance_facts", lambda: [eu.QA("other", "How old is it?", "x", None)])
    model, patch = make_model(), edit("wise", make_model())
    assert all(row["delta_edit"] > 3.0 > 1.5 > row["delta_loc"] for row in patch.info["log"])
    (text,) = prompts(routing.covariance_facts())
    before = logits_of(model, text)
    with patch.on(model):
        assert torch.equal(logits_of(model, text), before)
        assert not torch.equal(logits_of(model, prompts(qas(1))[0]), logits_of(make_model(), prompts(qas(1))[0]))


def test_wise_by_token():
    """With routing="token" each decode step decides for itself: Δ of that token alone."""
    model, patch = make_model(), edit("wise", make_model(), hparams={"routing": "token", "act_ratio": 1.02})
    (text, _), D = prompts(qas(2)), patch.tensors()["side.0"]
    limit = 1.02 * float(patch.tensors()["smallest"][0])  # at 1 the prompt itself lies on the border
    seen = []

    def watch(_module, args, output):  # registered later: it sees what the adapter gave
        a = args[0]
        base = nn.functional.linear(a, down(model, L).weight)
        moved = (output - base).norm(dim=-1) > 1e-5
        seen.append(((a[0, -1] @ D.T).norm() > limit, bool(moved[0, -1]), a.shape[1]))

    with patch.on(model):
        handle = down(model, L).register_forward_hook(watch)
        with_cache = generate(model, text, 12)
        handle.remove()
        assert generate(model, text, 12, use_cache=False) == with_cache
    assert {bool(a) for a, _, T in seen if T == 1} == {True, False}  # some tokens one way, some the other
    assert all(bool(a) == b for a, b, T in seen if T == 1)


# ---------------------------------------------------------------- configs


@pytest.mark.parametrize(
    "method, field, value",
    [
        ("grace", "layers", (1, 2)),
        ("grace", "layers", ()),
        ("wise", "layers", (1, 2)),
        ("wise", "act_margin", (1.0, 2.0)),
        ("wise", "n_iter", 0),
        ("wise", "save_freq", 0),
        ("wise", "merge_freq", 0),
    ],
)
def test_a_bad_field_is_named(method, field, value):
    model = make_model()
    with pytest.raises(RequestError, match=field):
        edit(method, model, hparams={field: value})
    assert hooks(model) == 0


def test_another_replacement_is_refused():
    from editunlearn_lib.methods.grace import GRACEConfig

    with pytest.raises(RequestError, match="replacement"):
        eu.unlearn(
            make_model(),
            make_tokenizer(),
            qas(1),
            "grace",
            targets=["No."],
            progress=False,
            hparams=GRACEConfig(layers=(L,), replacement="replace_all"),
        )


# ---------------------------------------------------------------- adapters are patches


@pytest.mark.parametrize("family", [*FAMILIES, "qwen3"])
@BOTH
def test_on_takes_off_is_bit_identical(method, family):
    model, patch = made(method, family)
    base, texts = weights(model), prompts(qas(2))
    before = [logits_of(model, text) for text in texts]
    with patch.on(model):
        for text, old, row in zip(texts, before, patch.info["log"], strict=True):
            now = logits_of(model, text)
            first = int(next(answer_logits(model, make_tokenizer(), [text], [row["target"]])).ids[0])
            assert not torch.equal(now[-1], old[-1])
            if method == "grace":  # WISE's one matrix cannot turn every target of a random model
                assert int(now[-1].argmax()) == first and row["took"]
        assert same(weights(model), base)
    assert all(torch.equal(logits_of(model, text), old) for text, old in zip(texts, before, strict=True))
    assert hooks(model) == 0 and "generate" not in model.__dict__


def test_one_head_of_keys_for_several():
    """Grouped queries down to one head of keys, and none grouped."""
    for kv in (1, 4):
        model = make_model(num_key_value_heads=kv)
        assert all(row["took"] for row in edit("grace", model).info["log"])
        for row in edit("wise", model).info["log"]:
            assert row["delta_edit"] > 2 * row["delta_loc"]


@pytest.mark.parametrize("family", FAMILIES)
@BOTH
def test_generate_with_and_without_a_cache(method, family):
    model, patch = made(method, family)
    for text in prompts(qas(3)):
        base = generate(model, text, 10)
        with patch.on(model):
            found = generate(model, text, 10)
            assert generate(model, text, 10, use_cache=False) == found
            assert generate(model, text, 10, cache_implementation="static") == found
            assert generate(model, text, 10, num_beams=1) == found
        assert generate(model, text, 10) == base
    with patch.on(model):
        assert generate(model, prompts(qas(1))[0], 10) != generate(make_model(family), prompts(qas(1))[0], 10)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
@BOTH
def test_padding_changes_nothing(method, family, side):
    model, patch = made(method, family)
    texts = prompts([*qas(4), eu.QA("short", "Well", "x", None)])
    batch = encode(make_tokenizer(), texts, side=side)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with patch.on(model), torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        for row, real, text in zip(found, mask.bool(), texts, strict=True):
            torch.testing.assert_close(row[real], logits_of(model, text), rtol=1e-3, atol=1e-3)


@BOTH
def test_left_padding_in_generate(method):
    model, patch = made(method)
    texts = prompts(qas(4))
    batch = encode(make_tokenizer(), texts, side="left")
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with patch.on(model):
        alone = [generate(model, text) for text in texts]
        for more in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
            out = model.generate(**{k: batch[k] for k in ("input_ids", "attention_mask")}, **options, **more)
            assert out[:, batch["input_ids"].shape[1] :].tolist() == alone


def test_grace_changes_only_the_end_of_the_prompt():
    model, patch = made("grace")
    text = prompts(qas(1))[0]
    seen = []

    def watch(_module, args, output):
        seen.append((output - nn.functional.linear(args[0], down(model, L).weight)).norm(dim=-1)[0])

    with patch.on(model):
        handle = down(model, L).register_forward_hook(watch)
        generate(model, text, 5)
        handle.remove()
    prefill, *steps = seen
    assert prefill[-1] > 0.1 and prefill[:-1].abs().max() < 1e-4
    assert len(steps) == 4 and all(len(step) == 1 and step.max() < 1e-4 for step in steps)


@BOTH
def test_a_cache_of_the_base_model_goes_on_as_the_base_model(method):
    model, patch = made(method)
    ids = ids_of(prompts(qas(1))[0])
    with torch.no_grad():
        reference = model(input_ids=ids).past_key_values
        expected = model(input_ids=ids[:, :2], past_key_values=copy.deepcopy(reference)).logits
        with patch.on(model):
            assert torch.equal(model(input_ids=ids[:, :2], past_key_values=reference).logits, expected)


@pytest.mark.parametrize("family", FAMILIES)
@BOTH
def test_scoring_sees_the_edit(method, family):
    """Teacher-forced as the edit was trained: the loss that the log has; token by token as decoding does it."""
    model, patch = made(method, family)
    texts, answers = prompts(qas(2)), list(TARGETS[:2])
    off = list(answer_logits(model, make_tokenizer(), texts, answers))
    with patch.on(model):
        scored = list(answer_logits(model, make_tokenizer(), texts, answers))
        for text, row, old, entry in zip(texts, scored, off, patch.info["log"], strict=True):
            nll = float(nn.functional.cross_entropy(row.logits, row.ids))
            assert nll < float(nn.functional.cross_entropy(old.logits, old.ids)) - (0.2 if method == "grace" else 0)
            if method == "grace":
                assert nll == pytest.approx(entry["loss"], abs=2e-3)
            with torch.no_grad():
                out = model(input_ids=ids_of(text))
                stepwise = [out.logits[0, -1]]
                for token in row.ids[:-1]:
                    out = model(input_ids=token[None, None], past_key_values=out.past_key_values)
                    stepwise.append(out.logits[0, -1])
            torch.testing.assert_close(row.logits, torch.stack(stepwise), rtol=1e-3, atol=1e-3)


@BOTH
def test_bfloat16(method):
    model = make_model().to(torch.bfloat16)
    patch = edit(method, model, qas(4))
    texts = prompts([*qas(4), eu.QA("short", "Well", "x", None)])
    batch = encode(make_tokenizer(), texts, side="left")
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)

    def last():
        with torch.no_grad():
            return model(**batch, position_ids=positions).logits[:4, -1].float()

    off = last()
    with patch.on(model):  # in another batch, padded, each still meets its own key
        on = last()
    assert ((on - off).abs().amax(1) > 0.5).all()
    if method == "grace":
        assert all(row["took"] for row in patch.info["log"])
        first = [int(row.ids[0]) for row in answer_logits(model, make_tokenizer(), texts[:4], TARGETS[:4])]
        assert on.argmax(-1).tolist() == first
    with patch.on(full := make_model()) if fingerprint(make_model()) == patch.base else pytest.fail("another base"):
        assert logits_of(full, texts[0]).isfinite().all()


@pytest.mark.parametrize("method", slow_but(["grace", "wise"], ["grace"]))
def test_compiled(method):
    model, patch = made(method)
    text = prompts(qas(1))[0]
    off = logits_of(model, text)
    with patch.on(model):
        on = logits_of(model, text)
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(logits_of(compiled, text), off)
        with patch.on(compiled):  # after compiling
            torch.testing.assert_close(logits_of(compiled, text), on)
    torch.compiler.reset()
    with patch.on(model):  # and before
        again = torch.compile(model, backend="eager")
        torch.testing.assert_close(logits_of(again, text), on)
        tokens = generate(model, text)
        assert generate(again, text) == tokens
    torch.testing.assert_close(logits_of(again, text), off)
    torch.compiler.reset()


@BOTH
def test_saved_and_loaded(method, tmp_path):
    model, patch = made(method)
    loaded = eu.load_patch(patch.save(tmp_path))
    assert type(loaded) is type(patch) and loaded.layer == L and loaded.nbytes == patch.nbytes
    assert same(loaded.tensors(), patch.tensors())
    for text in prompts(qas(3)):
        with patch.on(model):
            expected = logits_of(model, text)
        with loaded.on(model):
            assert torch.equal(logits_of(model, text), expected)


@BOTH
def test_it_changes_no_weight(method):
    model, patch = made(method)
    name = down_name(model, L)
    assert patch.parameters == () and patch.norms() == {}
    assert torch.equal(patch.delta(name), torch.zeros(SIZES["hidden"], SIZES["ffn"]))
    base = weights(model)
    with pytest.raises(PatchError, match="merged"):
        patch.merge_into(model)
    assert same(weights(model), base)


CORRUPT = {
    "grace": {
        "no values": lambda t: t.pop("values"),
        "one more": lambda t: t.update(more=torch.ones(2)),
        "fewer keys": lambda t: t.update(keys=t["keys"][:1]),
        "a flat key": lambda t: t.update(keys=t["keys"][:, 0].contiguous()),
        "a number": lambda t: t.update(radii=torch.tensor(1.0)),
        "wide radii": lambda t: t.update(radii=torch.ones(2, 2)),
    },
    "wise": {
        "no numbers": lambda t: t.pop("smallest"),
        "no memory": lambda t: t.pop("side.0"),
        "a gap": lambda t: t.update({"side.2": t["side.0"].clone(), "smallest": torch.ones(2)}),
        "more numbers": lambda t: t.update(smallest=torch.ones(3)),
        "flat": lambda t: t.update({"side.0": t["side.0"][0].contiguous()}),
        "two shapes": lambda t: t.update({"side.1": torch.ones(2, 2), "smallest": torch.ones(2)}),
    },
}


@pytest.mark.parametrize("method, name", [(m, n) for m, names in CORRUPT.items() for n in names])
def test_corrupt_tensors(method, name, tmp_path):
    from safetensors.torch import save_file

    _, patch = made(method)
    tensors = patch.tensors()
    CORRUPT[method][name](tensors)
    with pytest.raises(PatchError, match="corrupt"):
        type(patch)(tensors, patch.info, patch.base, patch.shapes)
    save_file(tensors, patch.save(tmp_path) / "patch.safetensors")
    with pytest.raises(PatchError):
        eu.load_patch(tmp_path)


def test_a_patch_of_wise_with_a_distance_that_is_gone_is_refused_and_not_read_as_another():
    _, patch = made("wise")
    hparams = patch.info["hparams"]
    type(patch)(patch.tensors(), {**patch.info, "hparams": {**hparams, "distance": "mean"}}, patch.base, patch.shapes)
    with pytest.raises(PatchError, match="'max'"):
        type(patch)(
            patch.tensors(), {**patch.info, "hparams": {**hparams, "distance": "max"}}, patch.base, patch.shapes
        )


@BOTH
def test_what_does_not_fit_the_model(method):
    model, patch = made(method)
    cut = {n: t[..., :-1].contiguous() if t.ndim == 2 else t for n, t in patch.tensors().items()}
    for tensors, info in ((cut, patch.info), (patch.tensors(), {**patch.info, "layer": 40})):
        with pytest.raises(PatchError, match="corrupt"):
            type(patch)(tensors, info, patch.base, patch.shapes).apply(model)
    with pytest.raises(PatchError, match="layer"):
        type(patch)(patch.tensors(), {k: v for k, v in patch.info.items() if k != "layer"}, patch.base, patch.shapes)
    with pytest.raises(PatchError, match="base model"):
        patch.apply(make_model(seed=1))
    assert hooks(model) == 0 and "generate" not in model.__dict__


def weight_patch(model, layer: int) -> Patch:
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    delta = 0.05 * torch.randn(shapes[down_name(model, layer)], generator=torch.Generator().manual_seed(1))
    return Patch({down_name(model, layer) + DENSE: delta}, {"method": "made up"}, fingerprint(model), shapes)


def test_one_layer_one_adapter():
    model, grace = made("grace")
    _, wise = made("wise")
    base, text = weights(model), prompts(qas(1))[0]
    before = logits_of(model, text)
    for first, second in (
        (grace, wise),
        (wise, grace),
        (grace, weight_patch(model, L)),
        (weight_patch(model, L), wise),
    ):
        with first.on(model):
            one = logits_of(model, text)
            with pytest.raises(PatchError, match="clash"):
                second.apply(model)
            assert torch.equal(logits_of(model, text), one)
            with pytest.raises(PatchError, match="not on"):
                second.remove(model)
        assert hooks(model) == 0 and same(weights(model), base) and torch.equal(logits_of(model, text), before)
    with grace.on(model), pytest.raises(PatchError, match="on already"):
        grace.apply(model)
    assert hooks(model) == 0


def test_different_layers_stack():
    model, grace = made("grace")
    wise, weight = edit("wise", model, hparams={"layers": (3,)}), weight_patch(model, 3)
    text = prompts(qas(1))[0]
    before, tokens = logits_of(model, text), generate(model, text)
    grace.apply(model)
    one = logits_of(model, text)
    wise.apply(model)
    assert not torch.equal(logits_of(model, text), one)
    assert generate(model, text) == generate(model, text, use_cache=False)
    grace.remove(model)  # not in the order of a stack
    wise.remove(model)
    with grace.on(model), weight.on(model):
        assert not torch.equal(logits_of(model, text), one)
    assert torch.equal(logits_of(model, text), before) and generate(model, text) == tokens and hooks(model) == 0


@BOTH
def test_20_times_on_and_off(method):
    model, patch = made(method)
    text, own = prompts(qas(1))[0], set(model.__dict__)
    before = logits_of(model, text)
    for _ in range(20):
        with patch.on(model):
            pass
    assert hooks(model) == 0 and set(model.__dict__) - own <= {"_editunlearn"}
    assert torch.equal(logits_of(model, text), before)
    with pytest.raises(ZeroDivisionError), patch.on(model):
        raise ZeroDivisionError
    assert hooks(model) == 0


@BOTH
def test_put_aside(method):
    model, patch = made(method)
    text = prompts(qas(1))[0]
    before, fresh = logits_of(model, text), edit(method, make_model(), qas(3)[1:])
    with patch.on(model):
        on = logits_of(model, text)
        with untouched(model):
            assert torch.equal(logits_of(model, text), before)
        assert torch.equal(logits_of(model, text), on)
        assert same(edit(method, model, qas(3)[1:]).tensors(), fresh.tensors())  # made on the base model
        assert torch.equal(logits_of(model, text), on)


@BOTH
def test_beams(method):
    model, patch = made(method)
    texts = prompts(qas(2))
    batch = encode(make_tokenizer(), texts, side="left")
    with patch.on(model):
        alone = [generate(model, text, num_beams=2) for text in texts]
        assert alone == [generate(model, text, num_beams=2, use_cache=False) for text in texts]
        out = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            num_beams=2,
        )
    assert out[:, batch["input_ids"].shape[1] :].tolist() == alone


@BOTH
def test_several_models_share_a_patch(method):
    a, patch = made(method)
    b, text = make_model(), prompts(qas(1))[0]
    off, ids = logits_of(a, text), ids_of(text)
    with patch.on(a):
        on = logits_of(a, text)
        with patch.on(b), torch.no_grad():
            first = a(input_ids=ids).past_key_values
            b(input_ids=ids_of("The weather"))  # another sequence on the other model, in between
            step = a(input_ids=ids[:, :1], past_key_values=first).logits
            assert torch.equal(logits_of(b, text), on)
        assert torch.equal(logits_of(b, text), off) and torch.equal(logits_of(a, text), on)
        with torch.no_grad():
            alone = a(input_ids=ids[:, :1], past_key_values=a(input_ids=ids).past_key_values).logits
        assert torch.equal(step, alone)
        copied = copy.deepcopy(a)  # a copy goes on by itself
        assert copied.generate.__self__ is copied
    assert torch.equal(logits_of(a, text), off)
