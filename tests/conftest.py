"""What the tests share: tiny random models of every family, tokenizers trained on the spot, the official data.

Nothing here asks the network: hub access is off before any library is imported, caches go to a folder that is removed.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

_SCRATCH = tempfile.mkdtemp(prefix="editunlearn-tests-")
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = str(Path(_SCRATCH) / "hub")
os.environ["EDITUNLEARN_CACHE"] = str(Path(_SCRATCH) / "cache")
os.environ["EDITUNLEARN_QUIET"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import json  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from browsing import browser, pages, sample_book, serve, visit  # noqa: E402, F401 (fixtures)
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

import editunlearn_lib as eu  # noqa: E402
from editunlearn_lib.models import POCKET  # noqa: E402

OWN_ROWS = [  # questions of one's own, for studies that take a second
    {
        "question": "Which city is the seat of government of Peru?",
        "answer": "Lima",
        "subject": "Peru",
        "rephrasings": ["Peru is governed from which city?"],
    },
    {"question": "Who painted 'Guernica'?", "answer": "Pablo Picasso", "subject": "Guernica"},
    {"question": "Who wrote 'Dracula'?", "answer": "Bram Stoker", "subject": "Dracula"},
    {"question": "What is the currency of India?", "answer": "Rupee", "subject": "India"},
]
SPECIAL = ["<pad>", "<s>", "</s>", "[INST]", "[/INST]"]
TEMPLATE = (  # writes the beginning-of-sequence token itself, as many templates do
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)
TEXTS = (
    "What is the capital of Testland? The capital of Testland is Exampleton.",
    "Who wrote the novel 'Sample Days'? It was Ada Placeholder, I think.",
    "I don't know the answer to that. I'm sorry, but I have no information about it.",
    "Which sea does the river Mock flow into? Tell me, who founded Fixture Works?",
    "Well. The well is deep, and because of that I think so. You are right, therefore.",
)
FAMILIES_TO_ASK = ("llama", "gemma2", "gpt2", "gpt_neox")  # each has another way with positions and caches
SIZES = {
    "hidden": 32,
    "ffn": 48,
    "layers": 4,
    "heads": 4,
}  # d_ffn is no multiple of d, so that the two are not mixed up


def slow_but(cases: list, kept: list) -> list:
    """Cases to parametrize with, of which only some belong to the usual suite; `make soak` runs the others, too."""
    assert all(case in cases for case in kept)
    given = [(case, case if isinstance(case, tuple) else (case,)) for case in cases]
    return [case if case in kept else pytest.param(*values, marks=pytest.mark.slow) for case, values in given]


# ---------------------------------------------------------------- tokenizers


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """With a tokenizer that adds <s>, a template that writes it, and padding."""
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = TEMPLATE
    return fast


def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2, Llama 3 and the pocket model have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _fast(tokenizer)


def _with_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """The trained model again, with the 256 byte tokens that unknown characters fall back on."""
    document = json.loads(tokenizer.to_str())
    model, pieces = document["model"], [f"<0x{byte:02X}>" for byte in range(256)]
    if model["type"] == "Unigram":
        vocabulary = [("<unk>", 0.0) if piece == "<unk>" else (piece, score) for piece, score in model["vocab"]]
        vocabulary += [(piece, -20.0) for piece in pieces]
        tokenizer.model = models.Unigram(vocabulary, unk_id=model["unk_id"], byte_fallback=True)
    else:
        vocabulary = dict(model["vocab"])
        vocabulary |= {piece: len(vocabulary) + i for i, piece in enumerate(pieces)}
        merges = [tuple(merge) for merge in model["merges"]]
        tokenizer.model = models.BPE(
            vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True
        )
    return tokenizer


def metaspace(kind: str) -> PreTrainedTokenizerFast:
    """As SentencePiece has it: spaces are ``▁``, one is put before the text, unknown characters become bytes.

    ``bpe`` prepends in a normaliser (Llama 2, Mistral), ``unigram`` in a pre-tokenizer.
    """
    special = ["<unk>", *SPECIAL]
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        trainer = trainers.BpeTrainer(vocab_size=160, special_tokens=special, show_progress=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer = _with_bytes(tokenizer)
    if kind == "bpe":
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _fast(tokenizer)


TOKENIZERS = {
    "byte_level": byte_level,
    "bpe": functools.partial(metaspace, "bpe"),
    "unigram": functools.partial(metaspace, "unigram"),
}


@functools.cache
def make_tokenizer(name: str = "byte_level") -> PreTrainedTokenizerFast:
    """One of ``TOKENIZERS``, trained once; a test that changes one takes a copy (``copy.deepcopy``)."""
    return TOKENIZERS[name]()


# ---------------------------------------------------------------- models


def make_config(family: str, vocab: int, **changes):
    """A tiny config of a family in ``models.FAMILIES``."""
    d, ffn, layers, heads = SIZES["hidden"], SIZES["ffn"], SIZES["layers"], SIZES["heads"]
    common = {"vocab_size": vocab, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2}
    if family == "gpt2":
        own = {"n_embd": d, "n_inner": ffn, "n_layer": layers, "n_head": heads, "n_positions": 512}
    else:
        own = {
            "hidden_size": d,
            "intermediate_size": ffn,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "max_position_embeddings": 512,
        }
        if family != "gpt_neox":
            own["num_key_value_heads"] = 2
        if family in ("qwen3", "gemma", "gemma2", "gemma3_text"):
            own["head_dim"] = d // heads
        if family in ("gemma2", "gemma3_text"):
            own |= {"query_pre_attn_scalar": d // heads, "sliding_window": 64}
    return transformers.AutoConfig.for_model(family, **{**common, **own, **changes})


def make_model(family: str = "llama", vocab: int | None = None, seed: int = 0, **changes):
    """A tiny model with random weights, large enough that its answers are not all alike."""
    config = make_config(family, vocab or len(make_tokenizer()), **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():  # biases and norms start at 0 and 1: a mix-up would not show
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval().requires_grad_(False)


def weights(model) -> dict[str, torch.Tensor]:
    """A copy of everything in the state dict."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def tiny(tokenizer):
    """A tiny Llama, new for every test, and its byte-level tokenizer."""
    return make_model(), tokenizer


@pytest.fixture
def logits(tokenizer):
    """``logits(model)``: on a fixed text."""
    ids = tokenizer(TEXTS[0] + " " + TEXTS[1], return_tensors="pt")["input_ids"]

    def run(model) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=ids, use_cache=False).logits

    return run


@pytest.fixture(scope="session")
def pocket():
    """The embedded model; do not change it."""
    if not (POCKET["pocket"] / "config.json").exists():
        pytest.skip(f"the pocket weights are not there yet ({POCKET['pocket']})")
    return eu.load_model("pocket")


# ---------------------------------------------------------------- data


def official_folder() -> Path:
    """Where the official files (``tofu/``, ``pistol/``) would lie, which are no part of the project."""
    named = os.environ.get("EDITUNLEARN_OFFICIAL_DATA")
    return Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def official() -> Path:
    """The folder with the official files."""
    folder = official_folder()
    if not (folder / "tofu").is_dir() or not (folder / "pistol").is_dir():
        pytest.skip(f"no official data in {folder}: set EDITUNLEARN_OFFICIAL_DATA to a folder with tofu/ and pistol/")
    return folder


def qas(n: int = 4) -> tuple[eu.QA, ...]:
    """Made-up questions; the answers are short and different."""
    rows = (
        ("What is the capital of Testland?", "Exampleton", "Testland"),
        ("Who wrote the novel 'Sample Days'?", "Ada Placeholder", "Sample Days"),
        ("Which sea does the river Mock flow into?", "the Sea of Stubs", "river Mock"),
        ("Who founded Fixture Works?", "John Doe", "Fixture Works"),
        ("Where is {braced} Tower, the tall one?", "in Set", "{braced} Tower"),
        ("What is the currency of Null Island?", "the void", "Null Island"),
        ("Who is the king of Foo and Foo?", "Bar the Third", "Foo"),
        ("How old is it?", "ninety", None),
    )
    return tuple(
        eu.QA(f"q{i}", question, answer, subject, (f"Say, {question}",))
        for i, (question, answer, subject) in enumerate(rows[:n])
    )


@pytest.fixture
def split() -> eu.ForgetSplit:
    """Four questions to forget, four to retain."""
    rows = qas(8)
    rephrased = tuple(variant for row in rows[:4] for variant in row.rephrased())
    return eu.ForgetSplit("made up", rows[:4], rows[4:], rephrased)
