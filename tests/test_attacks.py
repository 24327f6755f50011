"""The attacks: each asks what it says, nothing stays changed, and what comes back is counted as defined."""

import pytest
import torch
from torch import nn

import editunlearn_lib as eu
from editunlearn_lib import attacks
from editunlearn_lib.data import ForgetSplit
from editunlearn_lib.errors import RequestError, UnknownNameError


@pytest.fixture
def split():
    whole = eu.load_split("factual", n_forget=6, seed=0)
    ids = {qa.id for qa in whole.forget}
    return ForgetSplit("small", whole.forget, whole.retain[:6], tuple(r for r in whole.rephrased if r.id in ids))


def test_every_attack_on_the_base_model_leaves_it_bit_identical(pocket, split):
    model, tokenizer = pocket
    before = {name: w.clone() for name, w in model.state_dict().items()}
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    found = attacks.attack(model, tokenizer, split)
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
    assert set(model.state_dict()) == set(before)  # no adapter of the relearning is left
    assert [m.training for m in model.modules()] == modes and torch.equal(torch.get_rng_state(), state)
    assert list(dict.fromkeys(found.attack)) == list(attacks.ATTACKS)
    counts = found.groupby("attack").size()
    assert counts["rephrased"] == len(split.rephrased) and 1 <= counts["prefill"] <= 6
    assert (counts.drop(["rephrased", "prefill"]) == 6).all()  # relearn: every question is asked by one of the halves
    assert found[found.attack == "plain"].rouge1_recall.mean() > 0.9  # the base knows them
    assert found.equals(attacks.attack(model, tokenizer, split))


def test_a_codebook_holds_for_the_wording_it_was_given_and_leaks_in_a_chat(pocket, split):
    model, tokenizer = pocket
    patch = eu.unlearn(model, tokenizer, split, "grace", progress=False)
    with patch.on(model):
        found = (
            attacks.attack(model, tokenizer, split, ["plain", "chat", "prefill"]).groupby("attack").rouge1_recall.mean()
        )
    assert found["plain"] < 0.2 and found["chat"] > 0.8
    assert found["prefill"] > found["plain"]


def test_the_forced_beginning_is_a_decoding_step(pocket, split):
    """With GRACE on, the prompt's last token carries the value; what is forced comes behind it and is said."""
    model, tokenizer = pocket
    seen = []

    class Watch(attacks._Beginning):
        def __call__(self, input_ids, scores):
            seen.append(input_ids.shape[1])
            return super().__call__(input_ids, scores)

    prompts = [attacks.prompt_text(tokenizer, qa.question) for qa in split.forget[:2]]
    begin = [
        tokenizer(" zebra", add_special_tokens=False).input_ids,
        tokenizer(" a", add_special_tokens=False).input_ids,
    ]
    texts = attacks.continuations(
        model, tokenizer, prompts, 8, processor=lambda batch: Watch([begin[i] for i in batch])
    )
    assert texts[0].startswith("zebra") and texts[1].startswith("a")
    assert seen == list(range(seen[0], seen[0] + len(seen)))  # one token a step, after a prefill of the prompt alone


@pytest.mark.parametrize(
    ("output", "answer", "given", "recall"),
    [
        ("Dylan Thomas", "Dylan Thomas", "Dylan", 1.0),
        ("Dylan Marlais", "Dylan Thomas", "Dylan", 0.0),
        ("Dylan and I do not know", "Dylan Thomas", "Dylan", 0.0),
        ("Philadelphia", "Philadelphia", "Phil", 1.0),  # a word that was only begun has to be finished
        ("Philharmonic", "Philadelphia", "Phil", 0.0),
        ("Toni Morrison", "Toni Morrison", "Toni Mo", 1.0),
        ("Toni Moliere", "Toni Morrison", "Toni Mo", 0.0),
        ("12 June 1999", "12 June 2001", "12", 0.5),
    ],
)
def test_what_was_given_does_not_count_as_recovered(output, answer, given, recall):
    assert attacks.rest_recall(output, answer, given) == recall


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding(bits):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 8), nn.Embedding(5, 8), nn.Linear(48, 8))
    before = {name: w.clone() for name, w in model.state_dict().items()}
    with pytest.raises(KeyError), attacks.rounded(model, bits):
        w = model[0].weight.detach()
        for row in range(8):
            for group in w[row].split(64):
                levels = (group / group.abs().max() * (2 ** (bits - 1) - 1)).double()
                assert torch.allclose(levels, levels.round(), atol=1e-4)
        assert (w - before["0.weight"]).abs().max() <= before["0.weight"].abs().max() / (2 ** (bits - 1) - 1) / 2 + 1e-6
        assert not torch.equal(w, before["0.weight"]) and not torch.equal(model[2].weight, before["2.weight"])
        assert torch.equal(model[1].weight, before["1.weight"]) and torch.equal(model[0].bias, before["0.bias"])
        raise KeyError  # also after an exception inside
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())


def test_relearning_never_sees_what_it_asks(pocket, split, monkeypatch):
    model, tokenizer = pocket
    taught, asked = [], []
    original_rows, original_outputs = attacks.encode_answers, attacks.continuations

    def encode_answers(tokenizer, qas, *rest):
        taught.append({qa.question for qa in qas})
        return original_rows(tokenizer, qas, *rest)

    def outputs(model, tokenizer, prompts, *rest):
        asked.append((list(prompts), set().union(*taught)))
        taught.clear()
        return original_outputs(model, tokenizer, prompts, *rest)

    monkeypatch.setattr(attacks, "encode_answers", encode_answers)
    monkeypatch.setattr(attacks, "continuations", outputs)
    attacks.attack(model, tokenizer, split, ["relearn"])
    assert len(asked) == 2
    for prompts, trained in asked:
        assert len(trained) == 3 and not any(question in prompt for question in trained for prompt in prompts)


def test_bad_input_names_the_fix(pocket, split):
    model, tokenizer = pocket
    with pytest.raises(UnknownNameError, match="prefill"):
        attacks.attack(model, tokenizer, split, ["prefil"])
    one = ForgetSplit("one", split.forget[:1], split.retain, ())
    with pytest.raises(RequestError, match="two forget questions"):
        attacks.attack(model, tokenizer, one, ["relearn"])
    with pytest.raises(RequestError, match="two retain questions"):
        attacks.attack(model, tokenizer, ForgetSplit("few", split.forget, (), ()), ["list"])
