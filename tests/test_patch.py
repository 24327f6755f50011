"""A patch is a value: on and off bit for bit, saved and loaded, merged, refused where it does not belong."""

from __future__ import annotations

import gc
import json
import random

import pytest
import torch
from conftest import SIZES, make_config, make_model, make_tokenizer, same, weights

import editunlearn_lib as eu
from editunlearn_lib.models import FAMILIES, down_name, fingerprint
from editunlearn_lib.patch import DENSE, LEFT, RIGHT, Patch, untouched


def make_patch(model, seed: int = 0, layers=(0, 1), low_rank: bool = False, scale: float = 0.3, norms=()) -> Patch:
    """A random change of some down projections, dense or of rank 2."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in layers:
        name = down_name(model, layer)
        a, b = model.get_parameter(name).shape
        if low_rank:
            tensors[name + LEFT] = scale * torch.randn(a, 2, generator=generator)
            tensors[name + RIGHT] = torch.randn(2, b, generator=generator)
        else:
            tensors[name + DENSE] = scale * torch.randn(a, b, generator=generator)
    for name in norms:
        tensors[name + DENSE] = scale * torch.randn(model.get_parameter(name).shape, generator=generator)
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    return Patch(tensors, {"method": "made up", "seed": seed}, fingerprint(model), shapes)


@pytest.fixture(params=["float32", "bfloat16"])
def model(request):
    return make_model().to(getattr(torch, request.param))


@pytest.mark.parametrize("low_rank", [False, True])
def test_off_is_as_if_never_on(model, logits, low_rank):
    base, before = weights(model), logits(model)
    patch = make_patch(model, low_rank=low_rank)
    with patch.on(model):
        for name in patch.parameters:
            expected = (base[name].float() + patch.delta(name)).to(base[name].dtype)
            assert torch.equal(model.get_parameter(name), expected) and not torch.equal(expected, base[name])
        assert {n for n, w in weights(model).items() if not torch.equal(w, base[n])} == set(patch.parameters)
        assert not torch.equal(logits(model), before)
    assert same(weights(model), base) and torch.equal(logits(model), before)


def test_off_after_an_exception(model, logits):
    base, before = weights(model), logits(model)
    with pytest.raises(ZeroDivisionError), make_patch(model).on(model):
        raise ZeroDivisionError
    assert same(weights(model), base) and torch.equal(logits(model), before)
    with make_patch(model).on(model):  # and it can be switched on again
        pass


def test_on_and_off_by_hand(model):
    base, patch = weights(model), make_patch(model)
    with pytest.raises(eu.PatchError, match="not on"):
        patch.remove(model)
    patch.apply(model)
    with pytest.raises(eu.PatchError, match="on already"):
        patch.apply(model)
    patch.remove(model)
    with pytest.raises(eu.PatchError, match="not on"):
        patch.remove(model)
    assert same(weights(model), base)


@pytest.mark.parametrize("order", ["nested", "crossed"])
def test_two_patches_do_not_mix(model, logits, order):
    base, before = weights(model), logits(model)
    a, b = make_patch(model, 1, (0, 1)), make_patch(model, 2, (1, 2), low_rank=True)
    with a.on(model):
        only_a, logits_a = weights(model), logits(model)
    with b.on(model):
        only_b, logits_b = weights(model), logits(model)
    a.apply(model)
    b.apply(model)
    name = down_name(model, 1)
    both = (base[name].float() + a.delta(name) + b.delta(name)).to(base[name].dtype)
    assert torch.equal(model.get_parameter(name), both)
    first, second, alone, seen = (b, a, only_a, logits_a) if order == "nested" else (a, b, only_b, logits_b)
    first.remove(model)
    assert same(weights(model), alone) and torch.equal(logits(model), seen)
    second.remove(model)
    assert same(weights(model), base) and torch.equal(logits(model), before)


def test_untouched_is_the_base_model_for_a_while(model):
    base = weights(model)
    a, b = make_patch(model, 1), make_patch(model, 2)
    with a.on(model), b.on(model):
        patched = weights(model)
        with pytest.raises(ZeroDivisionError), untouched(model):
            assert same(weights(model), base)
            raise ZeroDivisionError
        assert same(weights(model), patched)
    assert same(weights(model), base)


@pytest.mark.parametrize("low_rank", [False, True])
def test_saved_and_loaded_is_the_same_patch(model, logits, tmp_path, low_rank):
    patch = make_patch(model, low_rank=low_rank)
    with patch.on(model):
        expected, patched = logits(model), weights(model)
    assert patch.save(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    loaded = eu.load_patch(tmp_path / "a" / "b")
    assert loaded.info == patch.info and loaded.parameters == patch.parameters and loaded.nbytes == patch.nbytes
    assert same(loaded.tensors(), patch.tensors()) and loaded.norms() == patch.norms()
    with loaded.on(model):
        assert torch.equal(logits(model), expected) and same(weights(model), patched)
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["patch.json", "patch.safetensors"]


def test_a_patch_saved_over_another_replaces_it(tmp_path):
    model = make_model()
    make_patch(model, 1).save(tmp_path)
    second = make_patch(model, 2, (3,))
    second.save(tmp_path)
    assert same(eu.load_patch(tmp_path).tensors(), second.tensors()) and eu.load_patch(tmp_path).info["seed"] == 2


def test_100_times_on_and_off_leaks_nothing(tiny, logits):
    model, _ = tiny
    base, before = weights(model), logits(model)
    patches = [make_patch(model, seed, layers) for seed, layers in enumerate([(0, 1), (1, 2), (3,)])]

    def alive() -> tuple[int, int]:
        gc.collect()
        tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
        return len(tensors), sum(tensor.nbytes for tensor in tensors)

    rng, counts = random.Random(0), []
    for cycle in range(100):
        chosen = rng.sample(patches, 2)
        for patch in chosen:
            patch.apply(model)
        for patch in rng.sample(chosen, 2):
            patch.remove(model)
        if cycle in (9, 99):
            counts.append(alive())
    assert counts[0] == counts[1]
    assert same(weights(model), base) and torch.equal(logits(model), before)


def test_delta_norms_and_size(model):
    patch = make_patch(model, layers=(1,))
    name, other = down_name(model, 1), down_name(model, 2)
    dense = patch.tensors()[name + DENSE]
    assert patch.parameters == (name,) and torch.equal(patch.delta(name), dense)
    zeros = patch.delta(other)
    assert zeros.shape == model.get_parameter(other).shape and not zeros.any()
    assert patch.delta("model.embed_tokens.weight").shape == model.get_input_embeddings().weight.shape
    assert patch.norms() == {name: pytest.approx(float((dense.double() ** 2).sum().sqrt()), rel=1e-6)}
    assert patch.nbytes == dense.numel() * 4
    with pytest.raises(eu.PatchError, match="no.such"):
        patch.delta("no.such.weight")


def test_factors_equal_their_product(tiny, logits):
    model, _ = tiny
    low = make_patch(model, low_rank=True)
    assert low.nbytes == 4 * 2 * 2 * (SIZES["hidden"] + SIZES["ffn"])
    tensors = low.tensors()
    products = {name: tensors[name + LEFT] @ tensors[name + RIGHT] for name in low.parameters}
    dense = Patch({name + DENSE: product for name, product in products.items()}, {}, low.base, low.shapes)
    for name in low.parameters:
        exact = tensors[name + LEFT].double() @ tensors[name + RIGHT].double()
        torch.testing.assert_close(low.delta(name).double(), exact, rtol=1e-5, atol=1e-6)
    with low.on(model):
        patched, seen = weights(model), logits(model)
    with dense.on(model):
        assert same(weights(model), patched) and torch.equal(logits(model), seen)


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_for_good_equals_on(family, logits, tmp_path):
    model = make_model(family)
    patch = make_patch(model, layers=(0, 3))
    with patch.on(model):
        expected, patched = logits(model), weights(model)
    assert patch.merge_into(model) is model
    assert same(weights(model), patched) and torch.equal(logits(model), expected)
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    reloaded, _ = eu.load_model(tmp_path, device="cpu")
    assert same(weights(reloaded), patched) and torch.equal(logits(reloaded), expected)
    with pytest.raises(eu.PatchError, match="base model"):
        patch.apply(reloaded)  # it would be there twice
    with pytest.raises(eu.PatchError, match="base model"):
        patch.merge_into(model)


def test_no_merging_while_a_patch_is_on(tiny):
    model, _ = tiny
    a, b = make_patch(model, 1), make_patch(model, 2)
    with a.on(model):
        patched = weights(model)
        with pytest.raises(eu.PatchError, match="are on"):
            b.merge_into(model)
        assert same(weights(model), patched)


def test_one_dimensional_parameters(tiny, logits):
    model, _ = tiny
    base = weights(model)
    patch = make_patch(model, norms=("model.norm.weight", "model.layers.0.input_layernorm.weight"))
    with patch.on(model):
        changed = model.get_parameter("model.norm.weight")
        assert torch.equal(changed, base["model.norm.weight"] + patch.delta("model.norm.weight"))
    assert same(weights(model), base)


FOREIGN = {
    "other weights": {"seed": 1},
    "other size": {"hidden_size": 16},
    "fewer layers": {"num_hidden_layers": 1},
    "other family": {"family": "gpt2"},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_model_is_refused(tiny, name):
    patch, other = make_patch(tiny[0]), make_model(**FOREIGN[name])
    base = weights(other)
    for use in (patch.apply, patch.merge_into):
        with pytest.raises(eu.PatchError):
            use(other)
        assert same(weights(other), base)
    with pytest.raises(eu.PatchError, match="not on"):
        patch.remove(other)


def test_the_same_checkpoint_in_bf16_is_no_foreign_model(tiny):
    model, _ = tiny
    patch = make_patch(model)
    half = make_model().to(torch.bfloat16)
    base = weights(half)
    with patch.on(half):
        assert not same(weights(half), base)
    assert same(weights(half), base)


def test_patches_know_their_base_while_others_are_on(tiny):
    model, _ = tiny
    a, b, foreign = make_patch(model, 1), make_patch(model, 2), make_patch(make_model(seed=1), 3)
    with a.on(model), b.on(model), pytest.raises(eu.PatchError, match="base model"):
        foreign.apply(model)


def fails(folder, part):
    with pytest.raises(eu.PatchError) as caught:
        eu.load_patch(folder)
    assert str(folder) in str(caught.value) and part in str(caught.value), str(caught.value)


@pytest.mark.parametrize("name", ["patch.json", "patch.safetensors"])
def test_a_missing_file_is_named(tiny, tmp_path, name):
    fails(tmp_path / "none", "patch.json is missing")
    folder = make_patch(tiny[0]).save(tmp_path / "x")
    (folder / name).unlink()
    fails(folder, f"{name} is missing")


@pytest.mark.parametrize("name", ["cut", "cut in the head", "empty", "noise"])
def test_corrupt_tensors(tiny, tmp_path, name):
    file = make_patch(tiny[0]).save(tmp_path) / "patch.safetensors"
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[:-10], "cut in the head": whole[:4], "empty": b"", "noise": b"\xff" * 100}[name])
    fails(tmp_path, "corrupt")
    file.write_bytes(whole)
    assert eu.load_patch(tmp_path).parameters


CORRUPT = {
    "cut": lambda text: text[:-5],
    "empty": lambda _: "",
    "a list": lambda _: "[]",
    "a number": lambda _: "3",
    "no keys": lambda _: "{}",
    "no tensors' shapes": lambda _: '{"format": 1, "base": "x", "info": {}}',
    "shapes are a number": lambda text: json.dumps({**json.loads(text), "shapes": 3}),
    "not utf-8": lambda _: "\udcff",
}


@pytest.mark.parametrize("name", CORRUPT)
def test_corrupt_documents(tiny, tmp_path, name):
    file = make_patch(tiny[0]).save(tmp_path) / "patch.json"
    file.write_text(CORRUPT[name](file.read_text()), encoding="utf-8", errors="surrogateescape")
    fails(tmp_path, "corrupt")


def test_another_format_is_named(tiny, tmp_path):
    file = make_patch(tiny[0]).save(tmp_path) / "patch.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    fails(tmp_path, "99")


def test_wrong_shapes(tiny):
    model, _ = tiny
    base, name = weights(model), down_name(model, 0)
    good = make_patch(model)

    def made(tensors):
        return Patch(tensors, {}, good.base, good.shapes)

    for tensor in (torch.zeros(SIZES["ffn"], SIZES["hidden"]), torch.zeros(3), torch.zeros(SIZES["hidden"], 1)):
        with pytest.raises(eu.PatchError, match="as "):
            made({name + DENSE: tensor}).apply(model)
    with pytest.raises(eu.PatchError, match="does not have"):
        made({"model.layers.0.mlp.none.weight" + DENSE: torch.zeros(2, 2)}).apply(model)
    left, right = torch.zeros(SIZES["hidden"], 2), torch.zeros(2, SIZES["ffn"])
    with pytest.raises(eu.PatchError, match="as "):
        made({name + LEFT: left, name + RIGHT: right[:, :-1]}).apply(model)
    for tensors in (
        {name + LEFT: left},
        {name + RIGHT: right},
        {name + LEFT: left, name + RIGHT: torch.zeros(3, SIZES["ffn"])},
        {name + LEFT: left[:, 0], name + RIGHT: right},
        {name: left},
        {name + "::middle": left},
    ):
        with pytest.raises(eu.PatchError):
            made(tensors)
    assert same(weights(model), base)
    with good.on(model):  # what failed has left nothing behind
        pass


def test_tied_weights(logits):
    model = make_model(tie_word_embeddings=True)
    assert make_config("llama", 8, tie_word_embeddings=True).tie_word_embeddings
    base, patch = weights(model), make_patch(model, norms=("model.embed_tokens.weight",), scale=0.1)
    before = logits(model)
    with patch.on(model):
        assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
        assert not torch.equal(model.lm_head.weight, base["lm_head.weight"])
    assert same(weights(model), base) and torch.equal(logits(model), before)


def test_pocket(pocket, logits):
    model, _ = pocket
    base = weights(model)
    patch = make_patch(model, scale=0.01)
    with patch.on(model):
        assert not same(weights(model), base)
    assert same(weights(model), base)
