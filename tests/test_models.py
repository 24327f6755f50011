"""Loading, module families, chat formatting and encoding."""

from __future__ import annotations

import copy
import datetime

import pytest
import torch
from conftest import SIZES, TOKENIZERS, make_model, make_tokenizer, same, weights
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import chat_template_utils

import editunlearn_lib as eu
from editunlearn_lib import models
from editunlearn_lib.methods.weights import Weights
from editunlearn_lib.models import FAMILIES, down, down_name, down_weight, fingerprint
from editunlearn_lib.text import encode, end_of_turn, prompt_text, with_target


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path):
    """(family, folder, model): a tiny model of every family as ``save_pretrained`` writes it."""
    model = make_model(request.param)
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    return request.param, tmp_path, model


def test_every_family_loads_and_its_keys_enter_the_down_projection(folder, logits):
    family, path, saved = folder
    model, tokenizer = eu.load_model(path, device="cpu")
    assert same(weights(model), weights(saved)) and torch.equal(logits(model), logits(saved))
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.model_type == family and models.n_layers(model) == SIZES["layers"]
    assert tokenizer.pad_token_id is not None and tokenizer.is_fast

    for layer in range(SIZES["layers"]):
        seen = []
        handle = down(model, layer).register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))  # noqa: B023
        hidden = []
        block = models.block(model, layer).register_forward_hook(lambda _, __, output: hidden.append(output))  # noqa: B023
        logits(model)
        handle.remove()
        block.remove()
        (k, value), W = seen[0], down_weight(model, layer)
        assert k.shape[-1] == SIZES["ffn"] and value.shape[-1] == SIZES["hidden"]
        assert W.shape == (SIZES["hidden"], SIZES["ffn"])
        bias = getattr(down(model, layer), "bias", None)
        torch.testing.assert_close(k @ W.T + (0 if bias is None else bias), value, rtol=1e-5, atol=1e-5)
        assert torch.is_tensor(hidden[0]) or torch.is_tensor(hidden[0][0])
        assert model.get_parameter(down_name(model, layer)).data_ptr() == W.data_ptr()  # a view, not a copy
        with Weights(model, [layer]) as W_and_change:
            W_and_change.add(layer, torch.zeros(SIZES["hidden"], 1).double(), torch.zeros(1, SIZES["ffn"]).double())
        left, right = W_and_change.factors[down_name(model, layer)]
        assert (left @ right).shape == model.get_parameter(down_name(model, layer)).shape


def test_gpt2_stores_the_transpose():
    gpt2, llama = make_model("gpt2"), make_model("llama")
    assert gpt2.get_parameter(down_name(gpt2, 0)).shape == (SIZES["ffn"], SIZES["hidden"])
    assert llama.get_parameter(down_name(llama, 0)).shape == (SIZES["hidden"], SIZES["ffn"])
    with torch.no_grad():
        down_weight(gpt2, 0).zero_()
    assert not gpt2.get_parameter(down_name(gpt2, 0)).any()


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_does_not_exist(layer):
    with pytest.raises(eu.UnsupportedModelError, match="4, counted from 0"):
        down_name(make_model(), layer)


def test_unsupported_type_says_what_to_add(tmp_path):
    config = AutoConfig.for_model(
        "opt",
        vocab_size=64,
        hidden_size=16,
        ffn_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        word_embed_proj_dim=16,
    )
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    for call in (lambda: eu.load_model(tmp_path), lambda: models.family_of(model)):
        with pytest.raises(eu.UnsupportedModelError) as caught:
            call()
        assert "FAMILIES['opt'] = ModelFamily(blocks=" in str(caught.value) and "llama" in str(caught.value)


@pytest.mark.parametrize("name", ["nobody/no-such-model", "/no/such/folder", "not a name at all"])
def test_a_model_that_cannot_be_reached_names_the_local_alternative(name):
    with pytest.raises(eu.ModelLoadError) as caught:
        eu.load_model(name)
    for part in (repr(name), "local folder", "load_model('pocket')"):
        assert part in str(caught.value)


def test_a_folder_with_pickles_only_is_refused(tmp_path):
    model = make_model()
    model.config.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(eu.ModelLoadError, match="safetensors"):
        eu.load_model(tmp_path)
    model.save_pretrained(tmp_path)  # the same folder with safetensors beside it works
    assert same(weights(eu.load_model(tmp_path, device="cpu")[0]), weights(model))


def test_remote_code_is_not_run(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    marker = tmp_path / "was-run"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    evil = '{"auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},'
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("{", evil, 1))
    eu.load_model(tmp_path, device="cpu")
    assert not marker.exists()


def test_dtype_and_device(tmp_path):
    make_model().to(torch.bfloat16).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)

    def kinds(**options):
        model, _ = eu.load_model(tmp_path, device="cpu", **options)
        assert model.device == torch.device("cpu")
        return {parameter.dtype for parameter in model.parameters()}

    assert kinds() == {torch.float32}  # a CPU is slower in bf16 and loses small edits
    assert kinds(dtype="bfloat16") == kinds(dtype=torch.bfloat16) == {torch.bfloat16}
    assert kinds(dtype="float16") == {torch.float16}
    with pytest.raises(eu.UnknownNameError, match="Did you mean 'float32'"):
        eu.load_model(tmp_path, dtype="float23")


def test_one_checkpoint_has_one_fingerprint_in_every_dtype(tmp_path):
    make_model().to(torch.bfloat16).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    prints = {fingerprint(eu.load_model(tmp_path, device="cpu", dtype=kind)[0]) for kind in ("float32", "bfloat16")}
    assert len(prints) == 1
    assert fingerprint(make_model(seed=1)) != fingerprint(make_model(seed=0)) == fingerprint(make_model(seed=0))


# ---------------------------------------------------------------- chat formatting

QUESTION = "Who is {s}, the 'king'?"


def with_template(template: str | None, name: str = "byte_level"):
    tokenizer = copy.deepcopy(make_tokenizer(name))
    tokenizer.chat_template = template
    return tokenizer


PLAIN = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>{% endfor %}"


def test_own_template_and_fallback_and_raw():
    assert prompt_text(make_tokenizer(), QUESTION) == f"<s>[INST] {QUESTION} [/INST]"
    assert prompt_text(with_template(None), QUESTION) == f"[INST] {QUESTION} [/INST]"
    assert prompt_text(with_template(PLAIN), QUESTION) == f"<user>{QUESTION}</user>"
    for tokenizer in (make_tokenizer(), with_template(None)):
        assert prompt_text(tokenizer, QUESTION, "raw") == QUESTION
    with pytest.raises(eu.UnknownNameError, match="Did you mean 'chat'"):
        prompt_text(make_tokenizer(), QUESTION, "chatt")


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("writes_bos", [True, False])
@pytest.mark.parametrize("prompt_format", ["chat", "raw"])
def test_exactly_one_bos(name, writes_bos, prompt_format):
    tokenizer = with_template(make_tokenizer().chat_template if writes_bos else PLAIN, name)
    texts = [prompt_text(tokenizer, question, prompt_format) for question in (QUESTION, "What?")]
    for side in ("left", "right"):
        encoded = encode(tokenizer, texts, side=side)
        for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True):
            real = ids[mask.bool()].tolist()
            assert real.count(tokenizer.bos_token_id) == 1 and real[0] == tokenizer.bos_token_id
        short = encoded["attention_mask"][1].tolist()
        assert short == sorted(short, reverse=side == "right") and 0 in short
    assert tokenizer.padding_side == make_tokenizer(name).padding_side


def test_texts_with_and_without_bos_do_not_mix():
    with pytest.raises(ValueError, match="beginning-of-sequence"):
        encode(make_tokenizer(), ["<s>a", "b"])


DATED = {
    "date_string": "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% endif %}Today Date: {{ date_string }} {% for m in messages %}{{ m['content'] }}{% endfor %}",
    "strftime_now": "{{ bos_token }}Today is {{ strftime_now('%Y-%m-%d') }}. "
    "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    "strftime_now if defined": "{% if strftime_now is defined %}{% set today = strftime_now('%d %B %Y') %}{% endif %}"
    "Date {{ today }} {% for m in messages %}{{ m['content'] }}{% endfor %}",
}


@pytest.mark.parametrize("name", DATED)
def test_a_template_with_a_date_gives_the_same_text_on_two_days(name, monkeypatch):
    found = []
    for day in (1, 2):

        class Day(datetime.datetime):
            @classmethod
            def now(cls, tz=None, day=day):
                return cls(2031, 3, day)

        monkeypatch.setattr(chat_template_utils, "datetime", Day)
        chat_template_utils._compile_jinja_template.cache_clear()
        tokenizer = with_template(DATED[name])
        found.append((prompt_text(tokenizer, QUESTION), end_of_turn(tokenizer)))
        assert QUESTION in found[-1][0]
    assert found[0] == found[1]


def test_one_space_before_a_target():
    assert with_target("[/INST]", "No.") == with_target("[/INST]", " No. ") == "[/INST] No."
    assert with_target("assistant\n", " No.") == "assistant\nNo."
    assert with_target("a ", "b") == "a b"


def test_end_of_turn():
    assert end_of_turn(make_tokenizer()) == "</s>"
    assert end_of_turn(with_template(PLAIN)) == "</assistant>"
    assert end_of_turn(with_template(PLAIN), "raw") == end_of_turn(with_template(None)) == "</s>"
    assert end_of_turn(with_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")) == "</s>"


def test_pocket(pocket):
    model, tokenizer = pocket
    assert model.config.pocket == "base" and model.config.model_type == "llama"
    text = prompt_text(tokenizer, "Who wrote 'Hamlet'?")
    assert encode(tokenizer, [text])["input_ids"][0].tolist().count(tokenizer.bos_token_id) == 1
    assert end_of_turn(tokenizer) == tokenizer.eos_token
