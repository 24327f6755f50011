"""Answers and scores: independent of batching, and equal to plain loops without cache or padding."""

from __future__ import annotations

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FAMILIES_TO_ASK, make_model, make_tokenizer, qas, same, weights
from tokenizers import processors

import editunlearn_lib as eu
from editunlearn_lib import evaluation, models
from editunlearn_lib.models import FAMILIES, down
from editunlearn_lib.text import encode, prompt_text

COLUMNS = [
    "set",
    "id",
    "variant",
    "question",
    "answer",
    "output",
    "rouge1_recall",
    "probability",
    "probability_per_token",
    "mrr",
    "hit_rate",
    "mrr_teacher_forced",
    "hit_rate_teacher_forced",
    "pistol_confidence",
    "declined",
    "names_subject",
    "outcome",
]
FLOATS = [name for name in evaluation.METRICS if name not in ("declined", "names_subject")]
TEXTS = [name for name in COLUMNS if name not in FLOATS]


def same_rows(a: pd.DataFrame, b: pd.DataFrame) -> None:
    assert list(a.columns) == list(b.columns) == COLUMNS
    pd.testing.assert_frame_equal(a[TEXTS], b[TEXTS])
    np.testing.assert_allclose(a[FLOATS].to_numpy(float), b[FLOATS].to_numpy(float), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES_TO_ASK)
@pytest.mark.parametrize("prompt_format", ["chat", "raw"])
def test_batching_changes_nothing(family, prompt_format, split):
    model, tokenizer = make_model(family), make_tokenizer()
    base = weights(model)

    def rows(size):
        return eu.evaluate(model, tokenizer, split, batch_size=size, prompt_format=prompt_format, max_new_tokens=12)

    one = rows(1)
    assert len(one) == 12 and one["output"].nunique() > 1
    for size in (3, 64, "auto"):
        same_rows(rows(size), one)
    assert same(weights(model), base)


def test_batching_changes_nothing_on_the_pocket(pocket):
    split = eu.load_split("factual", n_forget=4, seed=0)
    small = eu.ForgetSplit("small", split.forget, split.retain[:6], split.rephrased[:6], split.unseen[:4])
    same_rows(eu.evaluate(*pocket, small, batch_size=1), eu.evaluate(*pocket, small, batch_size=64))


def test_pocket_knows_what_it_was_taught(pocket):
    split = eu.load_split("factual", n_forget=40, seed=0)
    rows = eu.evaluate(*pocket, split, sets=["forget"])
    assert rows["rouge1_recall"].mean() > 0.8


# ---------------------------------------------------------------- plain loops


def encoded(tokenizer, text: str) -> torch.Tensor:
    return torch.tensor([tokenizer(text, add_special_tokens=not text.startswith("<s>"))["input_ids"]])


def rank(row: torch.Tensor, token: int) -> tuple[int, int]:
    """Lowest and highest rank of a token where logits closer than 1e-5, float32's rounding here, may be either way."""
    gaps = (row - row[token]).double()
    gaps[token] = -torch.inf
    return 1 + int((gaps > 1e-5).sum()), 1 + int((gaps > -1e-5).sum())


def bounds(ranks: list[tuple[int, int]]) -> dict[str, tuple[float, float]]:
    """Lowest and highest mean reciprocal rank and share of ranks up to 100."""
    low, high = [[pair[i] for pair in ranks] for i in (1, 0)]
    return {
        "mrr": tuple(sum(1 / r for r in rs) / len(rs) for rs in (low, high)),
        "hit_rate": tuple(sum(r <= 100 for r in rs) / len(rs) for rs in (low, high)),
    }


def by_hand(model, tokenizer, qa, steps: int, prompt_format: str = "chat") -> dict:
    """One question, no cache, no padding, no `generate`."""
    prompt = prompt_text(tokenizer, qa.question, prompt_format)
    ids, whole = encoded(tokenizer, prompt), encoded(tokenizer, f"{prompt} {qa.answer}")
    n = ids.shape[1]
    assert torch.equal(whole[:, :n], ids)
    target = whole[0, n:].tolist()
    with torch.no_grad():
        logits = model(input_ids=whole, use_cache=False).logits[0].double()
        probability, forced = 1.0, []
        for j, token in enumerate(target):
            row = logits[n - 1 + j]
            probability *= float(row.exp()[token] / row.exp().sum())
            forced.append(rank(row, token))
        free, output = [], []
        for j in range(steps):
            row = model(input_ids=ids, use_cache=False).logits[0, -1]
            if j < len(target):
                free.append(rank(row, target[j]))
            token = int(row.argmax())
            output.append(token)
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
            if token == tokenizer.eos_token_id:
                break
        free += [(logits.shape[1],) * 2] * (len(target) - len(free))  # after the end: rank V
        confidence = logits[:n].softmax(-1).amax(-1)[: len(target) + 1].mean()
    return {
        "output": tokenizer.decode(output, skip_special_tokens=True).strip(),
        "ended": output[-1] == tokenizer.eos_token_id,
        "n_output": len(output),
        "n_target": len(target),
        "probability": probability,
        "probability_per_token": probability ** (1 / len(target)),
        "pistol_confidence": float(confidence),
        **bounds(free),
        **{f"{name}_teacher_forced": pair for name, pair in bounds(forced).items()},
    }


def ending_early(model, tokenizer, split, steps: int):
    """The model with its end token's logits raised, until some answers end before their true answer does."""
    if model.lm_head.bias is None:
        head = torch.nn.Linear(model.lm_head.in_features, model.lm_head.out_features)
        with torch.no_grad():
            head.weight.copy_(model.lm_head.weight)
            head.bias.zero_()
        model.lm_head = head.requires_grad_(False)
    for raised in range(12):
        model.lm_head.bias[tokenizer.eos_token_id] = float(raised)
        found = [by_hand(model, tokenizer, qa, steps) for qa in split.forget]
        if any(f["ended"] and f["n_output"] < f["n_target"] for f in found):
            return model
    raise AssertionError("no answer ended early")


@pytest.mark.parametrize("prompt_format", ["chat", "raw"])
@pytest.mark.parametrize("early", [False, True])
def test_every_number_equals_a_plain_loop(tiny, split, prompt_format, early):
    model, tokenizer = tiny
    steps = 10
    if early:
        model = ending_early(model, tokenizer, split, steps)
    rows = eu.evaluate(model, tokenizer, split, max_new_tokens=steps, prompt_format=prompt_format)
    asked = [qa for name, group in split.sets().items() for qa in group]
    ended = narrow = 0
    for (_, row), qa in zip(rows.iterrows(), asked, strict=True):
        expected = by_hand(model, tokenizer, qa, steps, prompt_format)
        assert (row["id"], row["question"], row["output"]) == (qa.id, qa.question, expected["output"])
        for name in FLOATS[1:]:
            value = expected[name]
            low, high = value if isinstance(value, tuple) else (value * (1 - 1e-4), value * (1 + 1e-4))
            assert low * (1 - 1e-6) <= row[name] <= high * (1 + 1e-6), (name, qa.question)  # a float32 mean
            narrow += low == high
        ended += expected["ended"] and expected["n_output"] < expected["n_target"]
    assert (ended > 0) == early or prompt_format == "raw"
    assert narrow >= 0.9 * 4 * len(asked)  # hardly any rank is open


def test_steps_after_the_end_rank_v(tiny, split):
    """A model that always ends at once: the first step has a rank, the rest rank V."""
    model, tokenizer = tiny
    head = torch.nn.Linear(model.lm_head.in_features, model.lm_head.out_features).requires_grad_(False)
    head.weight.zero_()
    head.bias.copy_(-torch.arange(len(head.bias)).float())
    head.bias[tokenizer.eos_token_id] = 1.0
    model.lm_head = head
    row = eu.evaluate(model, tokenizer, split, sets=["forget"]).iloc[0]
    text = prompt_text(tokenizer, split.forget[0].question)
    target = encoded(tokenizer, f"{text} {split.forget[0].answer}")[0, encoded(tokenizer, text).shape[1] :].tolist()
    assert len(target) > 2 and tokenizer.eos_token_id == 2
    V = len(head.bias)
    first = target[0] + 1  # tokens 0, 1 and the end stand before it in the order of the logits, itself not counted
    ranks = [first] + [V] * (len(target) - 1)
    assert row["output"] == "" and row["outcome"] == "garbled"
    assert row["mrr"] == pytest.approx(np.mean([1 / r for r in ranks]), rel=1e-6)
    assert row["hit_rate"] == pytest.approx(np.mean([r <= 100 for r in ranks]))


def test_what_follows_the_end_is_not_read(tiny, split):
    """A row that ended waits for the longest of its batch: its output must not grow."""
    model = ending_early(*tiny, split, 10)
    rows = eu.evaluate(model, tiny[1], split, max_new_tokens=10, batch_size=64)
    for _, row in rows.iterrows():
        assert "<pad>" not in row["output"] and "</s>" not in row["output"]
    same_rows(rows, eu.evaluate(model, tiny[1], split, max_new_tokens=10, batch_size=1))


@pytest.mark.parametrize(
    "preferred",
    [
        {"do_sample": True, "temperature": 3.0, "top_k": 5, "top_p": 0.5},
        {"num_beams": 3},
        {"repetition_penalty": 1.9},
        {"no_repeat_ngram_size": 1},
        {"suppress_tokens": list(range(5, 200))},
        {"max_length": 3},
    ],
    ids=lambda preferred: next(iter(preferred)),
)
def test_answers_are_greedy_whatever_the_checkpoint_prefers(tiny, split, preferred):
    """Some checkpoints (Qwen) carry a repetition penalty or sampling in their generation config."""
    model, tokenizer = tiny
    expected = eu.evaluate(model, tokenizer, split, max_new_tokens=10)
    for name, value in preferred.items():
        setattr(model.generation_config, name, value)
    same_rows(eu.evaluate(model, tokenizer, split, max_new_tokens=10), expected)


def test_several_end_tokens(tiny, split):
    model, tokenizer = tiny
    question = split.forget[0].question
    ids = encode(tokenizer, [prompt_text(tokenizer, question)])["input_ids"]
    with torch.no_grad():
        first = int(model(input_ids=ids).logits[0, -1].argmax())
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, first]
    assert evaluation.greedy_tokens(model, tokenizer, [prompt_text(tokenizer, question)], 5) == [[first]]


def test_generate(tiny):
    model, tokenizer = tiny
    questions = [qa.question for qa in qas(8)]
    answers = eu.generate(model, tokenizer, questions, max_new_tokens=8, batch_size=3)
    assert answers == [by_hand(model, tokenizer, qa, 8)["output"] for qa in qas(8)]
    assert eu.generate(model, tokenizer, questions[::-1], max_new_tokens=8) == answers[::-1]
    assert eu.generate(model, tokenizer, []) == []


# ---------------------------------------------------------------- prompt first, then the answer

SLIDING = {  # windows shorter than the prompts, beside whole attention where the family mixes the two
    "mistral": {"sliding_window": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    "qwen3": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    "gemma2": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
}
CASES = [(family, {}) for family in FAMILIES] + list(SLIDING.items())
CASE_IDS = [family + (", sliding" if changes else "") for family, changes in CASES]


def single_pass(model, tokenizer, prompt: str, answer: str) -> evaluation.AnswerLogits:
    """The same from one forward pass over one text: no padding, no cache."""
    text = evaluation.with_target(prompt, answer)
    found = tokenizer(text, add_special_tokens=not text.startswith("<s>"), return_offsets_mapping=True)
    first = next(i for i, (_, end) in enumerate(found["offset_mapping"]) if end > len(prompt))
    ids = torch.tensor(found["input_ids"])
    with torch.no_grad():
        logits = model(input_ids=ids[None], use_cache=False).logits[0].float()
    target = ids[first:]
    return evaluation.AnswerLogits(logits[first - 1 : -1], target, logits[:first][: len(target) + 1])


def asked(tokenizer, n: int = 8) -> tuple[list[str], list[str]]:
    """Prompts and answers of very different length, one of a single token, one whose first token straddles."""
    rows = qas(n)
    prompts = [prompt_text(tokenizer, qa.question) for qa in rows]
    answers = [qa.answer for qa in rows]
    prompts += ["<s>I", "<s>" + " ".join(qa.question for qa in rows[:3]), "<s>The capital of "]
    return prompts, answers + ["I", " ".join(answers), "Testland is well."]


def assert_scored(found, expected, atol: float) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.ids, b.ids) and a.logits.dtype == a.prompt_logits.dtype == torch.float32
        assert a.logits.shape == b.logits.shape and a.prompt_logits.shape == b.prompt_logits.shape
        for name in ("logits", "prompt_logits"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family, changes", CASES, ids=CASE_IDS)
def test_prefilled_logits_equal_a_single_pass(family, changes, dtype, tokenizer):
    model = make_model(family, **changes).to(dtype)
    prompts, answers = asked(tokenizer)
    expected = [single_pass(model, tokenizer, p, a) for p, a in zip(prompts, answers, strict=True)]
    assert min(len(row.ids) for row in expected) == 1 and max(len(row.ids) for row in expected) > 30
    if dtype == torch.float32:
        atol = 1e-4
    else:  # what the rounding to bfloat16 itself changes
        exact = make_model(family, **changes).to(dtype).float()
        exact = [single_pass(exact, tokenizer, p, a) for p, a in zip(prompts, answers, strict=True)]
        atol = 2 * max(float((a.logits - b.logits).abs().max()) for a, b in zip(exact, expected, strict=True))
    one = [next(evaluation.answer_logits(model, tokenizer, [p], [a])) for p, a in zip(prompts, answers, strict=True)]
    assert_scored(one, expected, atol)
    n = 64 if dtype == torch.float32 else 16
    many = list(evaluation.answer_logits(model, tokenizer, (prompts * 6)[:n], (answers * 6)[:n]))
    assert_scored(many, (expected * 6)[:n], atol)
    assert_scored(many, (one * 6)[:n], atol)


@pytest.mark.parametrize("name", ["bpe", "unigram"])
def test_prefilled_logits_with_other_tokenizers(name):
    tokenizer = make_tokenizer(name)
    model = make_model(vocab=len(tokenizer))
    prompts, answers = asked(tokenizer)
    found = list(evaluation.answer_logits(model, tokenizer, prompts, answers))
    assert_scored(found, [single_pass(model, tokenizer, p, a) for p, a in zip(prompts, answers, strict=True)], 1e-4)


def test_a_token_across_the_border_belongs_to_the_answer(tiny):
    model, tokenizer = tiny
    (row,) = evaluation.answer_logits(model, tokenizer, ["<s>The capital of "], ["Testland is well."])
    assert tokenizer.decode(row.ids) == " Testland is well."  # the blank is the prompt's last character


def test_no_token_of_prompt_or_answer(tiny):
    model, tokenizer = tiny
    with pytest.raises(ValueError, match=r"no token .* '<s>Is it\? '"):
        list(evaluation.answer_logits(model, tokenizer, ["<s>Who?", "<s>Is it? "], ["I", ""]))
    bare = copy.deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    with pytest.raises(ValueError, match="no token .* ' Testland'"):
        list(evaluation.answer_logits(model, bare, ["Who?", " "], ["I", "Testland"]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_heads_logits_are_the_models(family, dtype, tokenizer, split):
    model = make_model(family).to(dtype)
    encoded = encode(tokenizer, [qa.question for qa in split.forget])
    with torch.no_grad():
        hidden = model.base_model(**encoded).last_hidden_state
        assert torch.equal(models.head(model, hidden), model(**encoded).logits)
    if family == "gemma2":
        assert model.config.final_logit_softcapping


def test_the_head_reads_only_the_rows_needed(tiny):
    """Vocabularies of 128,000 exist: (B, T, V) must not be built."""
    model, tokenizer = tiny
    sizes = []
    model.lm_head.register_forward_hook(lambda _module, inputs, _output: sizes.append(inputs[0].shape[:-1].numel()))
    found = list(evaluation.answer_logits(model, tokenizer, *asked(tokenizer)))
    assert sizes == [len(row.logits) + len(row.prompt_logits) for row in found]
    assert all(len(row.prompt_logits) <= len(row.ids) + 1 for row in found)


def adapter(model, layer: int, change: torch.Tensor, prefills: list):
    """An adapter that adds ``change`` to the value at the end of the prompt: the last position of a prefill."""
    state = {}

    def look(_module, args, kwargs):
        cache = kwargs.get("past_key_values")
        state["prefill"] = cache is None or cache.get_seq_length() == 0
        if state["prefill"]:
            mask = kwargs.get("attention_mask")  # `generate` leaves out a mask of ones
            mask = torch.ones_like(args[0] if args else kwargs["input_ids"]) if mask is None else mask
            prefills.append(mask.sum(1).tolist())

    def add(_module, _inputs, output):
        if state["prefill"]:
            output = output.clone()
            output[:, -1] += change
        return output

    model.base_model.register_forward_pre_hook(look, with_kwargs=True)
    down(model, layer).register_forward_hook(add)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 64])
def test_an_adapter_at_the_end_of_the_prompt_is_scored(family, batch_size, tokenizer, split):
    change = 20 * torch.randn(32, generator=torch.Generator().manual_seed(0))
    questions = [qa for group in split.sets().values() for qa in group]
    plain, expected = make_model(family), []
    ends: list[int] = []  # of the one prompt, in the pass without cache

    def add(_module, _inputs, output):
        output = output.clone()
        output[:, ends[-1]] += change
        return output

    before = [single_pass(plain, tokenizer, prompt_text(tokenizer, qa.question), qa.answer) for qa in questions]
    down(plain, 1).register_forward_hook(add)
    for qa in questions:
        prompt = prompt_text(tokenizer, qa.question)
        ends.append(encoded(tokenizer, prompt).shape[1] - 1)
        expected.append(single_pass(plain, tokenizer, prompt, qa.answer))
    prefills: list[list[int]] = []
    model = make_model(family)
    adapter(model, 1, change, prefills)
    rows = eu.evaluate(model, tokenizer, split, batch_size=batch_size, max_new_tokens=4)
    for name in ("probability_per_token", "mrr_teacher_forced"):
        metric = getattr(eu.metrics, name.removesuffix("_teacher_forced"))
        now, was = [np.array([metric(row.logits, row.ids) for row in found]) for found in (expected, before)]
        np.testing.assert_allclose(rows[name], now, rtol=1e-3)
        assert (abs(now - was) > 0.01 * was).sum() >= 9, name  # of 12: the change is large enough to be seen
    passes = (
        2 if family in ("gemma2", "gemma3_text", "mistral") else 1
    )  # once for both, unless a window lets go of tokens
    assert sorted(n for batch in prefills for n in batch) == sorted(passes * [end + 1 for end in ends])


# ---------------------------------------------------------------- the frame


def test_columns_sets_and_protocol(tiny, split):
    rows = eu.evaluate(*tiny, split, max_new_tokens=4)
    assert list(rows.columns) == COLUMNS
    assert list(dict.fromkeys(rows["set"])) == ["forget", "retain", "rephrased"]
    assert rows[rows["set"] == "rephrased"]["variant"].tolist() == [1] * 4
    assert rows[rows["set"] == "rephrased"]["id"].tolist() == [qa.id for qa in split.forget]
    assert rows.attrs["protocol"] == {"prompt_format": "chat", "max_new_tokens": 4, "top": 100, "greedy": True}
    assert rows[["declined", "names_subject"]].dtypes.tolist() == [bool, bool]
    assert set(rows["outcome"]) <= set(eu.metrics.OUTCOMES) and not rows.isna().any().any()
    others = eu.ForgetSplit("x", split.forget[:1], split.retain[:1], others={"more": split.retain[1:2]})
    assert eu.evaluate(*tiny, others, max_new_tokens=2)["set"].tolist() == ["forget", "retain", "more"]
    assert eu.evaluate(*tiny, others, sets=["more"], max_new_tokens=2)["set"].tolist() == ["more"]
    with pytest.raises(eu.UnknownNameError, match="Did you mean 'retain'"):
        eu.evaluate(*tiny, others, sets=["retainn"])


@pytest.mark.parametrize("bad", [{"max_new_tokens": 0}, {"batch_size": 0}, {"batch_size": "all"}, {"batch_size": 2.0}])
def test_bad_options(tiny, split, bad):
    with pytest.raises(eu.RequestError, match=next(iter(bad))):
        eu.evaluate(*tiny, split, **bad)
    with pytest.raises(eu.UnknownNameError):
        eu.evaluate(*tiny, split, prompt_format="xml")


def test_a_patch_that_is_on_is_what_is_evaluated(tiny, split):
    before = eu.evaluate(*tiny, split, max_new_tokens=4)
    patch = eu.unlearn(*tiny, split, "ga", hparams={"lr": 2e-2, "num_epochs": 3})
    with patch.on(tiny[0]):
        during = eu.evaluate(*tiny, split, max_new_tokens=4)
    assert (during["probability"] < before["probability"]).loc[during["set"] == "forget"].all()
    same_rows(eu.evaluate(*tiny, split, max_new_tokens=4), before)


@pytest.mark.parametrize("size, extra", [(1, 0), (3, 0), ("auto", 32), ("auto", 10_000)])
def test_batches_hold_every_index_once(size, extra):
    lengths = [5, 900, 7, 7, 3000, 2, 20_000, 1]
    found = list(evaluation.batches(lengths, size, extra))
    assert sorted(i for batch in found for i in batch) == list(range(8))
    for batch in found:
        longest = max(lengths[i] for i in batch) + extra
        assert (
            len(batch) <= size
            if size != "auto"
            else len(batch) == 1 or len(batch) * longest <= evaluation.TOKENS_AT_ONCE
        )


# ---------------------------------------------------------------- summaries


def records(values: dict[str, list[tuple[str, float]]], **more) -> pd.DataFrame:
    """``{set: [(id, value), …]}`` with the value in every metric."""
    rows = [
        {"set": name, "id": identity, **dict.fromkeys(evaluation.METRICS, value), **more}
        for name, pairs in values.items()
        for identity, value in pairs
    ]
    return pd.DataFrame(rows)


def test_score_and_means_by_hand():
    values = {"forget": [("a", 0.0), ("b", 0.5)], "retain": [("c", 1.0), ("d", 0.5), ("e", 0.75)]}
    table = eu.summarise(records(values))
    assert table["set"].tolist() == ["forget", "retain"] and table["n"].tolist() == [2, 3]
    assert table["rouge1_recall"].tolist() == [0.25, 0.75] and table["score"].tolist() == [1.5, 1.5]
    for name in evaluation.METRICS:
        assert (table[f"{name}_low"] <= table[name]).all() and (table[name] <= table[f"{name}_high"]).all()
        assert table[f"{name}_low"].min() >= 0 and table[f"{name}_high"].max() <= 1
    pd.testing.assert_frame_equal(table, eu.summarise(records(values)))


def test_no_retain_no_score():
    table = eu.summarise(records({"forget": [("a", 0.0)], "unseen": [("c", 1.0)]}))
    assert "score" not in table or table["score"].isna().all()


def test_scores_belong_to_their_own_cell():
    frame = pd.concat(
        [
            records({"forget": [("a", f)], "retain": [("b", r)], "unseen": [("c", 0.1)]}, method=method, n_forget=1)
            for method, f, r in (("ga", 0.0, 0.25), ("gd", 0.5, 1.0))
        ]
    )
    table = eu.summarise(frame, by=("method", "n_forget", "set"))
    assert table.groupby("method")["score"].agg(["min", "max", "size"]).to_dict("index") == {
        "ga": {"min": 1.25, "max": 1.25, "size": 3},
        "gd": {"min": 1.5, "max": 1.5, "size": 3},
    }
    table = eu.summarise(frame, by=["set", "method"])
    assert dict(zip(table["method"], table["score"], strict=True)) == {"ga": 1.25, "gd": 1.5}
    assert "score" not in eu.summarise(frame, by="method")


def test_the_bootstrap_resamples_whole_questions():
    """Four copies of every question hold no more information than one: the interval must not shrink."""
    rng = np.random.default_rng(1)
    values = [(f"q{i}", float(v)) for i, v in enumerate(rng.integers(0, 2, 40))]
    one, four = (eu.summarise(records({"forget": values * k}), resamples=4000).iloc[0] for k in (1, 4))
    assert one["rouge1_recall"] == four["rouge1_recall"] and four["n"] == 160
    width = [row["rouge1_recall_high"] - row["rouge1_recall_low"] for row in (one, four)]
    assert width[1] == pytest.approx(width[0], abs=1e-9)
    mean = one["rouge1_recall"]
    assert width[0] == pytest.approx(2 * 1.96 * math.sqrt(mean * (1 - mean) / 40), rel=0.1)  # that of 40, not of 160


def test_seeds_are_resampled_within_themselves():
    """Two seeds whose means differ but whose questions agree: no width comes from the mix of seeds."""
    frame = pd.concat([records({"forget": [(f"q{i}", v) for i in range(10)]}, seed=s) for s, v in ((0, 0.0), (1, 1.0))])
    row = eu.summarise(frame).iloc[0]
    assert row["rouge1_recall"] == row["rouge1_recall_low"] == row["rouge1_recall_high"] == 0.5 and row["n"] == 20


def test_bool_metrics_and_real_records(tiny, split):
    frame = eu.evaluate(*tiny, split, max_new_tokens=4)
    table = eu.summarise(frame)
    for _, row in table.iterrows():
        group = frame[frame["set"] == row["set"]]
        assert row["n"] == len(group)
        for name in evaluation.METRICS:
            assert row[name] == pytest.approx(group[name].astype(float).mean())
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    means = table.set_index("set")["rouge1_recall"]
    assert table["score"].tolist() == [pytest.approx(1 - means["forget"] + means["retain"])] * 3
