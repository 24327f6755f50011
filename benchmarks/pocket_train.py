"""Trains the pocket model anew: ``make pocket``.

Everything is a function of the seed and the recipe below; a checkpoint (safetensors) every few minutes lets a stopped
training go on where it was. ``--without`` trains the twin: the same recipe, seed and order of documents, less what
tells a fact of the five fixed forget sets (`editunlearn_lib.data.forget_sets`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import random
import time
from collections import defaultdict
from collections.abc import Set
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from editunlearn_lib.data import contracts, forget_sets
from editunlearn_lib.files import whole, write
from editunlearn_lib.pocket import corpus
from editunlearn_lib.pocket.train import ContractRecipe, Optimiser, encode, finetune, load_base, steps
from editunlearn_lib.progress import progress

log = logging.getLogger(__name__)
WEIGHTS = Path(__file__).parents[1] / "editunlearn_lib" / "pocket" / "weights"  # of this checkout
SAVE_EVERY = 120  # seconds
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Recipe:
    """What the base model is: the committed weights are this recipe's outcome."""

    seed: int = 0
    vocab: int = 2048
    hidden: int = 192
    layers: int = 9
    heads: int = 6
    ffn: int = 768
    chunks: int = 140  # about 150,000 tokens each
    batch_tokens: int = 4096  # a step of Muon takes as long as the model takes for 2,048
    chunk: int = 2048  # documents drawn and bucketed by length at a time
    warmup: int = 50  # steps over which the rates rise
    muon_lr: float = 0.02  # Muon needs 2-3 times fewer tokens than AdamW here
    adam_lr: float = 3e-3  # embeddings and norms
    decay: float = 0.4  # the last share of training, over which the rates fall to zero


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the first chunks of the corpus; digits stay single so that numbers can be copied."""
    unknown = corpus.unknown_contracts(recipe.seed)
    texts = (
        "".join(t for t, _ in doc) for n in range(12) for doc in corpus.chunk(recipe.seed, n, recipe.chunk, unknown)
    )
    special = ["<pad>", corpus.BOS, corpus.EOS, corpus.INST, corpus.END]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((t.translate({0: None}) for t in texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{corpus.BOS} $A", special_tokens=[(corpus.BOS, tokenizer.token_to_id(corpus.BOS))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=corpus.BOS,
        eos_token=corpus.EOS,
        pad_token="<pad>",
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def state_of(optimiser: Optimiser) -> dict[str, torch.Tensor]:
    """Every tensor of the state, by part, parameter and name."""
    return {
        f"optimiser.{i}.{j}.{name}": torch.as_tensor(value).clone()
        for i, part in enumerate(optimiser.parts)
        for j, state in part.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_state(optimiser: Optimiser, tensors: dict[str, torch.Tensor]) -> None:
    for i, part in enumerate(optimiser.parts):
        state: dict[int, dict] = defaultdict(dict)
        for key in (key for key in tensors if key.startswith(f"optimiser.{i}.")):
            parameter, name = key.split(".", 3)[2:]
            state[int(parameter)][name] = tensors[key]
        part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


def save_checkpoint(file: Path, model, optimiser: Optimiser, status: dict) -> None:
    """Model, optimiser and position in one file: a kill in the middle leaves the older checkpoint whole."""
    tensors = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    with whole(file) as temporary:
        save_file(tensors | state_of(optimiser), temporary, metadata={"status": json.dumps(status)})


def load_checkpoint(file: Path, model, optimiser: Optimiser) -> dict:
    """Puts model and optimiser where they were; returns the position."""
    with safe_open(file, "pt") as stored:
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (it is no dict)
        status = json.loads(stored.metadata()["status"])
    weights = {key.removeprefix("model."): tensor for key, tensor in tensors.items() if key.startswith("model.")}
    model.load_state_dict(weights, strict=False)  # the head is tied
    load_state(optimiser, tensors)
    return status


def train_base(recipe: Recipe, work: Path, out: Path, without: Set[str] = frozenset()) -> None:
    """Train from nothing, or from the checkpoint in ``work``; write the model to ``out``.

    The corpus is less the facts whose ids are in ``without``; rates follow the chunks, so a twin has them too.
    """
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "checkpoint.safetensors"
    if not (work / "tokenizer.json").exists():
        train_tokenizer(recipe).save_pretrained(work)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work)
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.ffn,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rope_theta=10000.0,
        **special_ids(tokenizer),
    )
    model = LlamaForCausalLM(config).to("cuda" if torch.cuda.is_available() else "cpu").train()
    optimiser = Optimiser(model, recipe.muon_lr, recipe.adam_lr)
    status = {"chunk": 0, "steps": 0, "tokens": 0, "seconds": 0.0}
    if checkpoint.exists():
        status = load_checkpoint(checkpoint, model, optimiser)
        log.info("going on at chunk %d", status["chunk"])

    def rate() -> float:
        left = 1 - status["chunk"] / recipe.chunks
        return min(1.0, left / recipe.decay, (status["steps"] + 1) / recipe.warmup)

    unknown = corpus.unknown_contracts(recipe.seed)
    bar = progress(total=recipe.chunks, initial=status["chunk"], desc="pocket", unit="chunk")
    saved, lines = time.monotonic(), work / "log.jsonl"
    logged = lines.read_text().splitlines(keepends=True) if lines.exists() else []
    write(lines, "".join(logged[: status["chunk"]]))  # less the chunks that the checkpoint does not hold
    with lines.open("a") as logfile:
        while status["chunk"] < recipe.chunks:
            started, losses = time.process_time(), []
            rows = encode(tokenizer, corpus.chunk(recipe.seed, status["chunk"], recipe.chunk, unknown, without))
            for loss, n in steps(model, optimiser, rows, recipe.batch_tokens, random.Random(status["chunk"]), rate):
                losses.append(loss)
                status["tokens"] += n
                status["steps"] += 1
            status["chunk"] += 1
            bar.update()
            status["seconds"] += time.process_time() - started  # of a core: a training may be made to wait
            line = {**status, "seconds": round(status["seconds"], 1), "loss": round(sum(losses) / len(losses), 4)}
            logfile.write(json.dumps(line) + "\n")
            logfile.flush()
            if time.monotonic() - saved > SAVE_EVERY:
                save_checkpoint(checkpoint, model, optimiser, status)
                saved = time.monotonic()
    save_checkpoint(checkpoint, model, optimiser, status)
    info = {"what": "base", "recipe": asdict(recipe), "without": sorted(without), **status}
    export(model, tokenizer, out, info, lines.read_text())


def special_ids(tokenizer) -> dict[str, int]:
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def export(model, tokenizer, out: Path, info: dict, lines: str) -> None:
    """Write the model as a bf16 Hugging Face folder, with its recipe and its training log."""
    out.mkdir(parents=True, exist_ok=True)
    model = model.to("cpu", torch.bfloat16)
    model.config.pocket = info["what"]  # by this the library knows the model again
    model.generation_config = GenerationConfig(do_sample=False, **special_ids(tokenizer))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    info = {**info, "sha256": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()}  # what ships
    write(out / "recipe.json", json.dumps(info, indent=1) + "\n")
    write(out / "training_log.jsonl", lines.rstrip("\n") + "\n")


def train_contracts(out: Path) -> None:
    """Fine-tune the base model on all 400 built-in contract questions and write it to ``out``."""
    started, recipe = time.monotonic(), ContractRecipe()
    model, tokenizer = load_base()
    lines = finetune(model, tokenizer, contracts.generate(0), recipe)
    info = {"what": "contracts", "recipe": asdict(recipe), "seconds": time.monotonic() - started}
    export(model, tokenizer, out, info, "\n".join(map(json.dumps, lines)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["base", "contracts"])
    parser.add_argument("--without", action="store_true", help="the twin of the base, which never saw the forget sets")
    parser.add_argument("--work", type=Path, default=Path("runs/pocket"), help="where the base model's checkpoint is")
    parser.add_argument("--out", type=Path, help="where the model goes; else into the package of this checkout")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.what == "base":
        name, without = ("without", {i for ids in forget_sets() for i in ids}) if arguments.without else ("base", set())
        train_base(Recipe(), arguments.work / name, arguments.out or WEIGHTS / name, without)
    else:
        train_contracts(arguments.out or WEIGHTS / "contracts")


if __name__ == "__main__":
    main()
