"""ROME and AlphaEdit against slow float64 recomputations from their equations; the tail; patches that are continued."""

from __future__ import annotations

import contextlib
import importlib

import pytest
import torch
from conftest import SIZES, make_model, make_tokenizer, qas, same, weights
from test_methods import CONFIG, TEMPLATES, SlowMemit, apart, covariances, job_of

import editunlearn_lib as eu
from editunlearn_lib.methods import METHODS, positions, values
from editunlearn_lib.methods.alphaedit import KEYS
from editunlearn_lib.methods.memit import MEMITConfig
from editunlearn_lib.methods.positions import Lookup, hooked, lookup
from editunlearn_lib.methods.registry import Request
from editunlearn_lib.methods.tail import Tail, Tails, of_like_length
from editunlearn_lib.models import FAMILIES, block, down, down_name, family_of, n_layers
from editunlearn_lib.patch import LEFT

VALUES = {name: value for name, value in CONFIG.items() if name != "mom2_update_weight"}
TEMPLATES_OF = {  # with one template beside the bare one, ROME's plain mean of keys and MEMIT's mean are the same
    "chat": TEMPLATES,
    "raw": (*TEMPLATES, "So I think. {}"),
}
ROME = {**VALUES, "layers": (1,)}
ALPHA = {**VALUES, "layers": (1, 2), "nullspace_threshold": 0.8, "L2": 0.5}  # C's eigenvalues lie around 1
MEMIT = {**CONFIG, "layers": (1, 2)}
ROWS = (*qas(5)[::2], *qas(8)[6:])  # among them a subject with braces, one that occurs twice, and none
TARGETS = ["I don't know.", "No idea.", "I'm sorry, but no.", "Well, well.", "I think so."]


@pytest.fixture(autouse=True)
def no_report(request, monkeypatch):
    """The report asks the model before and after: it takes longer than the edit, and has its own test."""
    if request.node.originalname != "test_every_edit_is_reported":
        monkeypatch.setattr(importlib.import_module("editunlearn_lib.unlearn"), "_report_edits", lambda *_: None)


def run(method: str, model, rows=ROWS, targets=TARGETS, **changes):
    """The patch; the defaults are the method's above."""
    given = {"rome": ROME, "alphaedit": ALPHA, "memit": MEMIT}[method]
    hparams = {**given, **changes.pop("hparams", {})}
    C = changes.pop("covariance", covariances(range(n_layers(model))))
    return eu.unlearn(
        model, make_tokenizer(), rows, method, targets=list(targets), hparams=hparams, covariance=C, **changes
    )


# ---------------------------------------------------------------- from the equations


class Slow(SlowMemit):
    """What ROME and AlphaEdit need besides: the change so far, in the orientation in which a weight is stored."""

    def __init__(self, model, prompt_format: str, config: dict):
        super().__init__(model, make_tokenizer(), prompt_format, config)
        self.before = weights(self.model)

    def weight(self, layer: int) -> torch.Tensor:
        """W as the equations have it, (d, d_ffn): a view."""
        W = down(self.model, layer).weight
        return W.T if self.model.config.model_type == "gpt2" else W

    def changes(self) -> dict[str, torch.Tensor]:
        """{parameter: ΔW so far}."""
        names = [down_name(self.model, layer) for layer in self.config["layers"]]
        after = weights(self.model)
        assert [name for name in after if not torch.equal(after[name], self.before[name])] == names
        return {name: after[name] - self.before[name] for name in names}

    @torch.no_grad()
    def read(self, qa, template: str, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(key, what `run` reads) at the subject's last token, in the prompt without its target."""
        prompt, character = self.text(qa, template)
        ids, offsets = self.ids(prompt)
        return SlowMemit.run(self, ids, layer=layer, position=self.at(offsets, character))[1:]


class SlowRome(Slow):
    """W += ((v* − (W k* + b)) / (u·k*)) uᵀ, u = C⁻¹k̄ / ‖C⁻¹k̄‖."""

    def run(self, ids, *, layer: int, position: int, delta=None):
        """(logits, key, MLP output at ``layer``); ``delta`` is added to the MLP's output at ``position``."""
        seen = {}

        def on_mlp(_, __, output):
            if delta is not None:
                output = output.clone()
                output[0, position] = output[0, position] + delta
            seen["v"] = output[0, position].detach()
            return output

        handle = block(self.model, layer).mlp.register_forward_hook(on_mlp)
        try:
            logits, key, _ = super().run(ids, layer=layer, position=position)
        finally:
            handle.remove()
        return logits, key, seen["v"]

    @torch.no_grad()
    def edit(self, qa, target: str, C: torch.Tensor) -> None:
        (layer,) = self.config["layers"]
        with torch.enable_grad():
            v_star = self.value(qa, target)
        keys = [self.read(qa, template, layer)[0] for template in self.config["context_templates"]]
        k_star, k_bar = keys[0], sum(keys) / len(keys)
        u = torch.linalg.inv(C) @ k_bar
        u = u / u.norm()
        W, b = self.weight(layer), getattr(down(self.model, layer), "bias", None)
        written = W @ k_star if b is None else W @ k_star + b
        W += torch.outer(v_star - written, u) / (u @ k_star)


class SlowAlphaEdit(Slow):
    """ΔW = R Kᵀ P (K_p K_pᵀ P + K Kᵀ P + L2·I)⁻¹, with a dense inverse."""

    def __init__(self, model, prompt_format: str, config: dict, C: dict[int, torch.Tensor]):
        super().__init__(model, prompt_format, config)
        self.P, self.K_p = {}, {}
        for layer in config["layers"]:
            eigenvalues, eigenvectors = torch.linalg.eigh(C[layer].double())
            U = eigenvectors[:, eigenvalues < config["nullspace_threshold"]]
            assert 0 < U.shape[1] < len(U)
            self.P[layer], self.K_p[layer] = U @ U.T, torch.zeros(len(U), 0, dtype=torch.float64)

    def keys(self, rows, layer: int) -> torch.Tensor:
        """K, (d_ffn, n): the bare prompt's key and the mean of the others' weigh the same."""
        columns = []
        for qa in rows:
            bare, *others = [self.read(qa, template, layer)[0] for template in self.config["context_templates"]]
            columns.append((bare + sum(others) / len(others)) / 2)
        return torch.stack(columns, 1)

    @torch.no_grad()
    def edit(self, rows, targets) -> None:
        """One batch."""
        layers = self.config["layers"]
        with torch.enable_grad():
            Z = torch.stack([self.value(qa, target) for qa, target in zip(rows, targets, strict=True)], 1)  # (d, n)
        for number, layer in enumerate(layers):
            K, P, K_p = self.keys(rows, layer), self.P[layer], self.K_p[layer]
            now = torch.stack([self.read(qa, "{}", layers[-1])[1] for qa in rows], 1)
            R = (Z - now) / (len(layers) - number)
            inverse = torch.linalg.inv(K_p @ K_p.T @ P + K @ K.T @ P + self.config["L2"] * torch.eye(len(P)).double())
            W = self.weight(layer)
            W += R @ K.T @ P @ inverse
        for layer in layers:  # of the edited model
            self.K_p[layer] = torch.cat([self.K_p[layer], self.keys(rows, layer)], 1)


def differences(patch, slow: Slow) -> list[float]:
    """How far the patch is from the slow changes, parameter by parameter (relative, Frobenius)."""
    expected = slow.changes()
    assert set(patch.parameters) == set(expected)
    return [apart(patch.delta(name), change) for name, change in expected.items()]


@pytest.mark.parametrize(
    "family, prompt_format, adjusted",
    [
        ("llama", "raw", False),
        ("llama", "raw", True),
        ("llama", "chat", False),
        ("llama", "chat", True),
        ("gpt2", "chat", True),
        ("gemma2", "raw", True),
        ("gpt_neox", "raw", False),
    ],
)
def test_rome_equals_its_equation(family, prompt_format, adjusted):
    model = make_model(family)
    C = covariances((1,))
    config = {**ROME, "context_templates": TEMPLATES_OF[prompt_format]}
    hparams = {**config, "mom2_adjustment": adjusted}
    patch = run("rome", model, hparams=hparams, covariance=C, prompt_format=prompt_format)
    slow = SlowRome(model, prompt_format, config)
    for qa, target in zip(ROWS, TARGETS, strict=True):
        slow.edit(qa, target, C[1] if adjusted else torch.eye(SIZES["ffn"]).double())
    (found,) = differences(patch, slow)
    print(f"ROME, {family}, {prompt_format}, {'C given' if adjusted else 'C = I'}: {found:.1e}; clamped {slow.clamped}")
    assert slow.clamped > 0  # the clamp took part
    assert found <= 1e-5
    (name,) = patch.parameters
    assert patch.tensors()[name + LEFT].shape[1] == len(ROWS)  # a rank-one change a request


def test_rome_writes_the_value():
    """After the edit the layer writes v* for k*."""
    model = make_model("gpt2")
    patch = run("rome", model, ROWS[:1], TARGETS[:1], hparams={"mom2_adjustment": True}, prompt_format="raw")
    slow = SlowRome(model, "raw", ROME)
    v_star, k_star = slow.value(ROWS[0], TARGETS[0]), slow.read(ROWS[0], "{}", 1)[0]
    slow.weight(1).add_(patch.delta(down_name(model, 1)).T)
    assert apart(slow.weight(1) @ k_star + down(slow.model, 1).bias, v_star) <= 1e-5


@pytest.mark.parametrize(
    "family, prompt_format, size",
    [("llama", "chat", 5), ("llama", "raw", 2), ("llama", "chat", 1), ("gpt2", "raw", 2), ("gemma2", "raw", 3)],
)
def test_alphaedit_equals_its_equation(family, prompt_format, size):
    model, C = make_model(family), covariances((1, 2))
    config = {**ALPHA, "context_templates": TEMPLATES_OF[prompt_format]}
    how = {5: ("batch", None), 1: ("sequential", None)}.get(size, ("batch", size))
    hparams = {**config, "batch_size": how[1]}
    patch = run("alphaedit", model, covariance=C, prompt_format=prompt_format, mode=how[0], hparams=hparams)
    slow = SlowAlphaEdit(model, prompt_format, config, C)
    for i in range(0, 5, size):
        slow.edit(ROWS[i : i + size], TARGETS[i : i + size])
    found = differences(patch, slow)
    cache = [apart(patch.tensors()[down_name(model, layer) + KEYS], slow.K_p[layer].T) for layer in (1, 2)]
    print(f"AlphaEdit, {family}, {prompt_format}, {size} at once: {max(found):.1e}; cached keys {max(cache):.1e}")
    assert slow.clamped > 0 or family == "gemma2"  # the clamp took part
    assert max(found) <= 1e-4 and max(cache) <= 1e-4


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_alphaedit_spares_what_the_layer_must_not_forget(family):
    """ΔW k ≈ 0 for every key in the span of C's large eigenvectors, also after several batches."""
    model, C = make_model(family), covariances((1, 2))
    patch = run("alphaedit", model, covariance=C, mode="sequential")
    for layer in (1, 2):
        eigenvalues, eigenvectors = torch.linalg.eigh(C[layer])
        delta = patch.delta(down_name(model, layer)).double()
        delta = delta.T if family == "gpt2" else delta
        kept = eigenvectors[:, eigenvalues >= ALPHA["nullspace_threshold"]]
        free = eigenvectors[:, eigenvalues < ALPHA["nullspace_threshold"]]
        assert (delta @ kept).norm() <= 1e-6 * delta.norm()
        assert (delta @ free).norm() == pytest.approx(float(delta.norm()), rel=1e-6)


def test_alphaedit_without_a_null_space():
    with pytest.raises(eu.RequestError, match="nullspace_threshold"):
        run("alphaedit", make_model(), hparams={"nullspace_threshold": 1e-9})


# ---------------------------------------------------------------- an earlier patch


@pytest.mark.parametrize(
    "method, size, family",
    [
        ("rome", 1, "llama"),
        ("rome", 1, "gpt2"),
        ("memit", 2, "llama"),
        ("memit", 1, "gpt2"),
        ("alphaedit", 2, "llama"),
        ("alphaedit", 1, "llama"),
        ("alphaedit", 2, "gpt2"),
        ("alphaedit", 2, "gemma2"),
    ],
)
def test_continuing_equals_sequential(method, size, family):
    model, rows, targets = make_model(family), ROWS[:4], TARGETS[:4]
    how = {"mode": "sequential"} if size == 1 else {"hparams": {"batch_size": size}}
    together = run(method, model, rows, targets, **how)
    first = run(method, model, rows[:2], targets[:2], **how)
    second = run(method, model, rows[2:], targets[2:], previous=first, **how)
    assert second.info["continues"] and not first.info["continues"] and len(second.info["log"]) == 2
    found = [apart(second.delta(name), together.delta(name)) for name in together.parameters]
    print(f"{method}, {family}, {size} at once: continued and in one go differ by {max(found):.1e}")
    assert second.parameters == together.parameters == first.parameters and max(found) <= 1e-4
    for name, tensor in first.tensors().items():  # the earlier change is in it
        now = second.tensors()[name]
        n = tensor.shape[1] if name.endswith(LEFT) else len(tensor)
        assert torch.equal(now[:, :n] if name.endswith(LEFT) else now[:n], tensor) and now.numel() == 2 * tensor.numel()
        assert now.shape == together.tensors()[name].shape


def test_an_earlier_patch_may_be_read_from_disk_and_may_be_on(tmp_path):
    model = make_model()
    base = weights(model)
    first = run("alphaedit", model, ROWS[:2], TARGETS[:2])
    second = run("alphaedit", model, ROWS[2:], TARGETS[2:], previous=first)
    loaded = eu.load_patch(first.save(tmp_path))
    with loaded.on(model):
        again = run("alphaedit", model, ROWS[2:], TARGETS[2:], previous=loaded)
    assert same(again.tensors(), second.tensors()) and same(weights(model), base)


@pytest.mark.parametrize("method", ["memit", "alphaedit", "rome"])
def test_continuing_at_other_layers_keeps_the_earlier_change(method):
    model = make_model()
    first = run(method, model, ROWS[:2], TARGETS[:2], hparams={"layers": (0, 1)})
    second = run(method, model, ROWS[2:], TARGETS[2:], hparams={"layers": (1, 2)}, previous=first)
    assert second.parameters == tuple(down_name(model, layer) for layer in (0, 1, 2))
    assert torch.equal(second.delta(down_name(model, 0)), first.delta(down_name(model, 0)))
    if method == "alphaedit":
        found = [len(second.tensors()[down_name(model, layer) + KEYS]) for layer in (0, 1, 2)]
        assert found == [2, 5, 3]


def test_previous_must_fit():
    model, other = make_model(), make_model(seed=1)
    rome = run("rome", model, ROWS[:1], TARGETS[:1])
    with pytest.raises(eu.RequestError, match="'rome', not of 'memit'"):
        run("memit", model, previous=rome)
    with pytest.raises(eu.PatchError, match="another|same checkpoint"):
        run("rome", other, previous=rome)
    with pytest.raises(eu.PatchError, match="does not have"):
        run("rome", make_model("gpt2"), previous=rome)
    for method in ("ga", "gd", "kl", "dpo", "idk"):
        assert not METHODS[method].continues
        with pytest.raises(eu.RequestError, match=f"{method} cannot continue"):
            eu.unlearn(model, make_tokenizer(), ROWS, method, retain=ROWS, previous=rome)


# ---------------------------------------------------------------- the tail

CASES = {  # (length, start) of each text
    "mixed": ((13, 4), (20, 11), (7, 0), (20, 19), (9, 8)),  # from the first token, from the last one
    "square": ((9, 6), (12, 9), (6, 4)),  # as many texts as columns
    "alike": ((12, 5), (12, 5), (12, 5)),  # nothing is padded
    "from 0": ((6, 0), (11, 0), (1, 0)),  # no prefix
    "the last token": ((9, 8), (5, 4)),
    "one": ((14, 6),),
    "long": ((40, 30), (33, 3), (25, 12)),
}


def encoded(case) -> Lookup:
    """Made-up ids, mask and starts, padded on the right; no target."""
    lengths, start = torch.tensor(case).T
    ids = torch.randint(5, 300, (len(case), int(lengths.max())), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return Lookup(ids * mask, mask, start, torch.full_like(ids, -100))


@torch.no_grad()
def whole(model, ids, layer: int, start: int, vector=None, at: str = "block") -> tuple[torch.Tensor, dict]:
    """A full pass of one text without padding: last hidden state (T, d), and key, value and block output (T, d)."""
    seen, family = {}, family_of(model)

    def adding(leaving, name):
        if vector is not None and at == name:
            leaving = leaving.clone()
            leaving[0, start] += vector
        seen[name] = leaving[0]
        return leaving

    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(hooked(block(model, layer), lambda _, leaving: adding(leaving, "block")))
        enter(hooked(block(model, layer).get_submodule(family.mlp), lambda _, leaving: adding(leaving, "mlp")))
        enter(hooked(down(model, layer), lambda entering, _: seen.__setitem__("key", entering[0])))
        hidden = model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
    return hidden, seen


def compare(model, case, layer: int) -> float:
    """The largest difference of the tail from full passes: all rows, some of them, and with a vector added at s."""
    texts = encoded(case)
    ids, tail, n, worst = texts.ids, Tail(model, layer, texts), len(case), 0.0
    vectors = 0.5 * torch.randn(n, SIZES["hidden"], generator=torch.Generator().manual_seed(2))
    expected = []  # of every text: the last hidden state from s on; with the vector added to the block, to the MLP
    for row, (length, s) in enumerate(case):
        hidden, seen = whole(model, ids[row, :length], layer, s)
        real = torch.arange(tail.mask.shape[1]) < length - s
        assert torch.equal(tail.mask[row], real)
        for found, name in ((tail.out[row][real], "block"), (tail.value[row][real], "mlp"), (tail.key[row], "key")):
            torch.testing.assert_close(found, seen[name][s] if name == "key" else seen[name][s:], rtol=1e-5, atol=1e-5)
        added = [whole(model, ids[row, :length], layer, s, vectors[row], at)[0] for at in ("block", "mlp")]
        assert all((other[s] - hidden[s]).abs().max() > 1e-2 for other in added)  # it does something
        expected.append([other[s:] for other in (hidden, *added)])

    for rows in (torch.arange(n), torch.arange(n).flip(0)[: max(1, n - 1)]):
        with torch.no_grad():
            plain = tail.norm(tail(rows, tail.out[rows]))
            block_, mlp = (tail.norm(tail(rows, tail.add(rows, vectors[rows], at))) for at in ("block", "mlp"))
            replaced = tail.norm(tail(rows, tail.replace(rows, tail.value[rows, 0] + vectors[rows])))
        for i, row in enumerate(rows.tolist()):
            hidden, with_block, with_mlp = expected[row]
            for found, other in ((plain, hidden), (block_, with_block), (mlp, with_mlp), (replaced, with_mlp)):
                torch.testing.assert_close(found[i, : len(other)], other, rtol=0, atol=1e-5)
                worst = max(worst, float((found[i, : len(other)] - other).abs().max()))
    return worst


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tail_is_exact(family):
    model = make_model(family)
    last = n_layers(model) - 1
    found = {name: compare(model, case, 1) for name, case in CASES.items()}
    found |= {f"layer {layer}": compare(model, CASES["mixed"], layer) for layer in (0, last)}
    print(f"{family}: {', '.join(f'{name} {value:.1e}' for name, value in found.items())}")


@pytest.mark.parametrize("family", ["gemma3_text", "gemma2", "mistral"])
def test_the_tail_is_exact_with_a_sliding_window(family):
    """Texts, prefixes and tails that are longer than the window."""
    model = make_model(family, sliding_window=8)
    if family == "gemma3_text":
        model = make_model(family, sliding_window=8, layer_types=["sliding_attention", "full_attention"] * 2)
    ids = encoded(CASES["long"]).ids
    wide = make_model(family, sliding_window=512)
    with torch.no_grad():
        assert not torch.allclose(model(ids[:1]).logits[0, -1], wide(ids[:1]).logits[0, -1], atol=1e-3)
    found = {f"{name}, layer {i}": compare(model, CASES[name], i) for name in ("long", "mixed") for i in (0, 1)}
    print(f"{family}, window 8: {', '.join(f'{name} {value:.1e}' for name, value in found.items())}")


def test_all_keys_of_the_tail():
    model = make_model()
    texts = encoded(CASES["mixed"])
    tail = Tail(model, 1, texts, whole=True)
    for row, (length, _) in enumerate(CASES["mixed"]):
        expected = whole(model, texts.ids[row, :length], 1, 0)[1]["key"]
        torch.testing.assert_close(tail.key[row, :length], expected, rtol=0, atol=1e-5)


def test_groups_of_like_length():
    """The fewest tokens in all, every text once; a group that costs nothing has one length, one that costs much all."""
    lengths = torch.tensor([3, 27, 1, 3, 26, 1, 12])
    of_one = of_like_length(lengths, 0)
    assert sorted(torch.cat(of_one).tolist()) == list(range(7))
    assert [set(lengths[rows].tolist()) for rows in of_one] == [{27}, {26}, {12}, {3}, {1}]
    assert [rows.tolist() for rows in of_like_length(lengths, 1e6)] == [lengths.argsort(descending=True).tolist()]
    price, cost = 5, lambda groups: sum(int(lengths[rows].max()) * len(rows) + 5 for rows in groups)
    found = of_like_length(lengths, price)
    assert [sorted(set(lengths[rows].tolist())) for rows in found] == [[26, 27], [12], [1, 3]]
    assert cost(found) == 54 + 12 + 12 + 15 < min(cost(of_one), cost(of_like_length(lengths, 1e6)))


@pytest.mark.parametrize("layer", [1, 3])
def test_groups_change_no_value(layer):
    """Texts in many groups score as in one; at the last layer only s is reached, and what is fixed counts, too."""
    model, tokenizer = make_model(), make_tokenizer()
    requests = [Request((), qa.question, target, ()) for qa, target in zip(ROWS, TARGETS, strict=True)]
    texts = lookup(tokenizer, requests, "{}", "raw", "prompt_last", targets=True)
    one, n = Tail(model, layer, texts), len(requests)
    tails = Tails(model, layer, texts)
    tails.parts = [(torch.tensor([i]), Tail(model, layer, texts.of(torch.tensor([i])))) for i in range(n)]
    vectors = 0.5 * torch.randn(n, SIZES["hidden"], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        every = torch.arange(n)
        together = one.nll(every, one(every, one.add(every, vectors, "block")))
        for rows, own, tail in tails.of(every != 1):
            apart = tail.nll(own, tail(own, tail.add(own, vectors[rows], "block")))
            torch.testing.assert_close(apart, together[rows], rtol=1e-5, atol=1e-5)
        logits = model.lm_head(one.norm(one(every, one.add(every, vectors, "block")))).log_softmax(-1)
        labels = one.labels
        token = -logits.gather(2, labels.clamp(min=0)[..., None])[..., 0]
        expected = (token * (labels != -100)).sum(1) / (labels != -100).sum(1)
        torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("at", ["block", "mlp"])
def test_steps_touch_only_what_is_above(tiny, at):
    """Construction calls every block at most twice; a step calls each block above once and none below."""
    model, layer = tiny[0], 1
    requests = [
        Request((), qa.question, t, (qa.subject,) if qa.subject else ()) for qa, t in zip(ROWS, TARGETS, strict=True)
    ]

    def calls(steps: int) -> list[int]:
        counts = [0] * n_layers(model)
        config = MEMITConfig(**{**MEMIT, "v_num_grad_steps": steps})
        with contextlib.ExitStack() as stack:
            for i in range(n_layers(model)):

                def count(*_, i=i):
                    counts[i] += 1

                stack.callback(block(model, i).register_forward_pre_hook(count).remove)
            found = values.find_values(job_of(tiny, config), requests, layer, TEMPLATES, at=at)
        assert max(row["steps"] for row in found.log) == steps - 1
        return counts

    few, many = calls(2), calls(9)
    for i in range(n_layers(model)):
        assert few[i] <= 2 + (2 if i > layer else 0)
        assert many[i] - few[i] == (7 if i > layer else 0)


# ---------------------------------------------------------------- the report


@torch.no_grad()
def likely(model, prompt_format: str, qa, target: str) -> tuple[float, bool]:
    """(NLL of the target, token mean; whether the model begins with it), one text in one pass."""
    slow = SlowMemit(model, make_tokenizer(), prompt_format, {})
    prompt = slow.text(qa, "{}")[0]
    ids, offsets = slow.ids(prompt + " " + target)
    logp = slow.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
    scored = [t for t, (_, b) in enumerate(offsets) if b > len(prompt)]
    nll = -sum(logp[t - 1, ids[0, t]] for t in scored) / len(scored)
    return float(nll), bool(logp[scored[0] - 1].argmax() == ids[0, scored[0]])


@pytest.mark.parametrize("method, prompt_format", [("rome", "raw"), ("memit", "chat"), ("alphaedit", "chat")])
def test_every_edit_is_reported(tiny, method, prompt_format):
    model, tokenizer = tiny
    hparams = {"clamp_norm_factor": 20.0, "v_lr": 0.5, "v_num_grad_steps": 15, "v_weight_decay": 1e-3}
    if prompt_format == "chat":  # else nothing takes in a random model: its last token looks at little but itself
        hparams["fact_token"] = "prompt_last"
    patch = run(method, model, hparams=hparams, prompt_format=prompt_format)
    longest = max(len(tokenizer(target).input_ids) for target in TARGETS)
    asked = {"prompt_format": prompt_format, "max_new_tokens": longest}
    before = eu.evaluation.generate(model, tokenizer, [qa.question for qa in ROWS], **asked)
    with patch.on(model):
        after = eu.evaluation.generate(model, tokenizer, [qa.question for qa in ROWS], **asked)
    log = patch.info["log"]
    assert len(log) == len(ROWS)
    for i, (row, qa, target) in enumerate(zip(log, ROWS, TARGETS, strict=True)):
        with patch.on(model):
            nll, flipped = likely(model, prompt_format, qa, target)
        assert (row["ids"], row["question"], row["target"]) == ([qa.id], qa.question, target)
        assert (row["before"], row["after"]) == (before[i], after[i])
        assert row["nll_after"] == pytest.approx(nll, rel=1e-4)
        assert row["first_token_flipped"] is row["took"] is flipped
        assert row["loss"] > 0 and 0 < row["delta_norm"] <= 20.0 * row["h0_norm"] * (1 + 1e-6)
    print(f"{method}, {prompt_format}: {sum(row['took'] for row in log)} of {len(log)} took")
    assert any(row["took"] for row in log) and any(a != b for a, b in zip(before, after, strict=True))


def test_a_heavy_model_takes_fewer_requests_at_once_and_finds_the_same(tiny, monkeypatch):
    from types import SimpleNamespace

    requests = [Request((), "x" * 100, "t", ())] * 40
    pocket, seven = (
        SimpleNamespace(num_hidden_layers=8, hidden_size=256),
        SimpleNamespace(num_hidden_layers=32, hidden_size=4096),
    )
    assert values.batch_of(requests, ["{}"] * 6, pocket, 1, 4) == positions.CHUNK_TOKENS // (
        73 * 7
    )  # its activations are small
    assert values.batch_of(requests, ["{}"] * 6, seven, 8, 2) == 2
    assert values.batch_of(requests, ["{}"] * 60, seven, 8, 2) == 1  # never none
    model, _ = tiny
    whole = run("memit", model)
    monkeypatch.setattr(values, "VALUE_BYTES", 1)
    parts = run("memit", model)
    for name in whole.parameters:
        assert (whole.delta(name) - parts.delta(name)).norm() <= 1e-4 * whole.delta(name).norm()
