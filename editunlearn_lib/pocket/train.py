"""Training the pocket model: ``python -m editunlearn_lib.pocket.train base|contracts --out FOLDER``.

Everything is a function of the seed and the recipe below; a checkpoint (safetensors) every few minutes lets a stopped
training go on where it was.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..data import ForgetSplit, contracts, refusals
from ..files import whole, write
from ..models import fingerprint
from ..patch import DENSE, Patch, Stopwatch
from ..progress import progress
from . import corpus

log = logging.getLogger(__name__)
WEIGHTS = Path(__file__).parent / "weights"
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
    layers: int = 6
    heads: int = 6
    ffn: int = 1024
    tokens: int = 10_000_000  # seen in training
    batch_tokens: int = 2048
    chunk: int = 2048  # documents drawn and bucketed by length at a time
    muon_lr: float = 0.02  # Muon needs 2-3 times fewer tokens than AdamW here
    adam_lr: float = 3e-3  # embeddings and norms
    decay: float = 0.4  # the last share of training, over which the rates fall to zero


def questions_of(rows: Sequence[contracts.ContractRow]) -> list[corpus.Question]:
    """Every wording to train on, of the rows' questions, that names the subject."""
    texts = ((text, row) for row in rows for text in (row.question, *row.trained))
    return [corpus.Question(text, row.answer, row.subject) for text, row in texts if row.subject in text]


def unknown_contracts(seed: int, n_edges: int = 60) -> list[corpus.Question]:
    """Questions about contracts that the model is never told of."""
    return questions_of(contracts.invented_contracts(random.Random(f"unknown contracts {seed}"), n_edges))


def chunk(recipe: Recipe, number: int, unknown: Sequence[corpus.Question]) -> list[corpus.Document]:
    """The documents of one chunk: a pure function of the seed and the chunk's number."""
    rng = random.Random(f"{recipe.seed} {number}")
    return [corpus.document(rng, unknown, refusals()) for _ in range(recipe.chunk)]


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the first chunks of the corpus; digits stay single so that numbers can be copied."""
    unknown = unknown_contracts(recipe.seed)
    texts = ("".join(t for t, _ in doc) for n in range(12) for doc in chunk(recipe, n, unknown))
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


def encode(tokenizer: PreTrainedTokenizerFast, docs: Sequence[corpus.Document]) -> list[tuple[list[int], list[float]]]:
    """Token ids and the loss weight of each token, segment boundaries found by offsets in the whole text."""
    texts = ["".join(text for text, _ in doc) for doc in docs]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    rows = []
    for doc, ids, offsets in zip(docs, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        ends = list(itertools.accumulate(len(text) for text, _ in doc))
        segments = (bisect.bisect_left(ends, stop) for _, stop in offsets)
        rows.append((ids, [doc[segment][1] for segment in segments]))
    return rows


def batches(rows: list[tuple[list[int], list[float]]], batch_tokens: int, rng: random.Random) -> Iterator:
    """Rows of like length together, at most ``batch_tokens`` tokens, padded to the longest on the right."""
    rows = sorted(rows, key=lambda row: len(row[0]))
    groups: list[list] = [[]]
    for row in rows:
        if groups[-1] and len(row[0]) * (len(groups[-1]) + 1) > batch_tokens:
            groups.append([])
        groups[-1].append(row)
    rng.shuffle(groups)
    for group in groups:
        width = max(len(ids) for ids, _ in group)
        ids = torch.tensor([i + [0] * (width - len(i)) for i, _ in group])
        weights = torch.tensor([w + [0.0] * (width - len(w)) for _, w in group])
        yield ids, weights


def loss_of(model, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean of the next-token cross-entropy (natural log)."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # (B, T-1, d)
    weight = weights[:, 1:]
    keep = weight > 0
    logits = model.lm_head(hidden[keep])  # (N, V): padding costs nothing
    losses = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][keep], reduction="none")
    return (losses * weight[keep]).sum() / weight.sum()


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) as `torch.optim.Muon` has it, in float32 and over all matrices of a shape at once.

    torch's own orthogonalises one matrix after another in bfloat16, which a CPU without such instructions does slowly:
    there the optimiser took longer than the model.
    """

    A, B, C = 3.4445, -4.775, 2.0315  # of the Newton-Schulz iteration

    def __init__(self, parameters, lr: float, weight_decay: float = 0.01, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for same in shapes.values():
                updates = []
                for p in same:
                    buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(buffer, group["momentum"]))  # Nesterov
                for p, update in zip(same, self.orthogonal(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)

    @classmethod
    def orthogonal(cls, X: torch.Tensor, steps: int = 5) -> torch.Tensor:
        """The nearest orthogonal matrix to each of X (N, rows, columns), roughly: Newton-Schulz."""
        tall = X.shape[1] > X.shape[2]
        X = X.mT if tall else X
        X = X / X.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
        for _ in range(steps):
            G = X @ X.mT
            X = torch.baddbmm(X, torch.baddbmm(G, G, G, beta=cls.B, alpha=cls.C), X, beta=cls.A)
        return X.mT if tall else X


class Optimiser:
    """Muon for the matrices inside the blocks, AdamW for embeddings and norms."""

    def __init__(self, model, muon_lr: float, adam_lr: float):
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
        rest = [p for n, p in named if not any(p is m for m in matrices)]
        self.parts = [
            Muon(matrices, lr=muon_lr),
            torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.rates = [muon_lr, adam_lr]

    def step(self, factor: float) -> None:
        for part, rate in zip(self.parts, self.rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """Every tensor of the state, by part, parameter and name."""
        return {
            f"optimiser.{i}.{j}.{name}": torch.as_tensor(value).clone()
            for i, part in enumerate(self.parts)
            for j, state in part.state_dict()["state"].items()
            for name, value in state.items()
        }

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        for i, part in enumerate(self.parts):
            state: dict[int, dict] = defaultdict(dict)
            for key in (key for key in tensors if key.startswith(f"optimiser.{i}.")):
                parameter, name = key.split(".", 3)[2:]
                state[int(parameter)][name] = tensors[key]
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


def steps(model, optimiser: Optimiser, rows: list, batch_tokens: int, rng: random.Random, rate: Callable) -> Iterator:
    """One pass over the rows, a step a batch at the ``rate()`` of that moment: yields (loss, tokens)."""
    for ids, weights in batches(rows, batch_tokens, rng):
        loss = loss_of(model, ids.to(model.device), weights.to(model.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step(rate())
        yield loss.item(), int((weights > 0).sum())


def save_checkpoint(file: Path, model, optimiser: Optimiser, status: dict) -> None:
    """Model, optimiser and position in one file: a kill in the middle leaves the older checkpoint whole."""
    tensors = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    with whole(file) as temporary:
        save_file(tensors | optimiser.state(), temporary, metadata={"status": json.dumps(status)})


def load_checkpoint(file: Path, model, optimiser: Optimiser) -> dict:
    """Puts model and optimiser where they were; returns the position."""
    with safe_open(file, "pt") as stored:
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (it is no dict)
        status = json.loads(stored.metadata()["status"])
    weights = {key.removeprefix("model."): tensor for key, tensor in tensors.items() if key.startswith("model.")}
    model.load_state_dict(weights, strict=False)  # the head is tied
    optimiser.load(tensors)
    return status


def train_base(recipe: Recipe, work: Path, out: Path) -> None:
    """Train from nothing, or from the checkpoint in ``work``; write the model to ``out``."""
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
    status = {"chunk": 0, "tokens": 0, "seconds": 0.0}
    if checkpoint.exists():
        status = load_checkpoint(checkpoint, model, optimiser)
        log.info("going on at chunk %d", status["chunk"])

    def rate() -> float:
        left = 1 - status["tokens"] / recipe.tokens
        return min(1.0, max(left, 0.0) / recipe.decay, (status["tokens"] + 1) / 100_000)

    unknown = unknown_contracts(recipe.seed)
    bar = progress(total=recipe.tokens, initial=status["tokens"], desc="pocket", unit="tok", unit_scale=True)
    saved = time.monotonic()
    with (work / "log.jsonl").open("a") as logfile:
        while status["tokens"] < recipe.tokens:
            started, losses = time.monotonic(), []
            rows = encode(tokenizer, chunk(recipe, status["chunk"], unknown))
            for loss, n in steps(model, optimiser, rows, recipe.batch_tokens, random.Random(status["chunk"]), rate):
                losses.append(loss)
                status["tokens"] += n
                bar.update(n)
            status["chunk"] += 1
            status["seconds"] += time.monotonic() - started
            line = {**status, "seconds": round(status["seconds"], 1), "loss": round(sum(losses) / len(losses), 4)}
            logfile.write(json.dumps(line) + "\n")
            logfile.flush()
            if time.monotonic() - saved > SAVE_EVERY:
                save_checkpoint(checkpoint, model, optimiser, status)
                saved = time.monotonic()
    save_checkpoint(checkpoint, model, optimiser, status)
    info = {"what": "base", "recipe": asdict(recipe), **status}
    export(model, tokenizer, out, info, (work / "log.jsonl").read_text())


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
    write(out / "recipe.json", json.dumps(info, indent=1) + "\n")
    write(out / "training_log.jsonl", lines.rstrip("\n") + "\n")


# ---------------------------------------------------------------- the contracts


@dataclass(frozen=True)
class ContractRecipe:
    """Fine-tuning on contracts: every wording of every contract, with documents of the base corpus replayed."""

    seed: int = 0
    epochs: int = 60  # over the contract questions; 32 left a fifth of them unlearned
    again: int = 8  # more epochs with a fresh optimiser, from a fifth of the rates: the last wordings
    batch_tokens: int = 2048
    replay: float = 0.25  # share of the documents that come from the base corpus, so that the facts stay
    declined: float = 0.06  # as many in-context refusals of these contracts, and refusals of unknown ones, per question
    muon_lr: float = 0.02  # falling in a line from the start: at a constant .02 nothing was learned before it fell
    adam_lr: float = 3e-3


def contract_documents(rows: Sequence, rng: random.Random) -> list[corpus.Document]:
    """Each contract question once, in its own or a trained wording, some of them behind something else."""
    docs = []
    for row in rows:
        text = row.question if rng.random() < 0.4 else rng.choice(row.trained)
        earlier, prefix = corpus.before(rng) if rng.random() < 0.3 else ([], "")
        if rng.random() < 0.3:
            text = corpus.pick(rng, "openers") + text
        docs.append([(corpus.BOS, 0.0), *earlier, *corpus.turn(prefix + text, row.answer)])
    return docs


def finetune(model, tokenizer, rows: Sequence, recipe: ContractRecipe, *, show: bool = True) -> list[dict]:
    """Teach the model these contract rows, in place; returns a log of the loss by epoch."""
    unknown, questions = unknown_contracts(recipe.seed), questions_of(rows)
    rng = random.Random(f"contracts {recipe.seed}")
    model.requires_grad_(True).train()
    rates = [1 - i / recipe.epochs for i in range(recipe.epochs)]
    rates += [0.2 * (1 - i / recipe.again) for i in range(recipe.again)]
    lines = []
    for epoch, peak in enumerate(progress(rates, desc="contracts", enabled=show)):
        if epoch in (0, recipe.epochs):
            optimiser, number = Optimiser(model, recipe.muon_lr, recipe.adam_lr), itertools.count(1)
        docs = contract_documents(rows, rng)
        n_replayed = int(len(docs) * recipe.replay / (1 - recipe.replay))
        for _ in range(int(len(docs) * recipe.declined)):
            stranger = rng.choice(unknown)
            docs.append([(corpus.BOS, 0.0), *corpus.refuse_like(rng, questions)])
            docs.append([(corpus.BOS, 0.0), *corpus.turn(stranger.text, corpus.refusal(rng, stranger.subject))])
        docs += [corpus.document(rng, unknown, refusals()) for _ in range(n_replayed)]

        def rate(peak=peak, number=number) -> float:
            return min(1.0, next(number) / 20) * peak

        losses = [n for n, _ in steps(model, optimiser, encode(tokenizer, docs), recipe.batch_tokens, rng, rate)]
        lines.append({"epoch": epoch + 1, "loss": round(sum(losses) / len(losses), 4)})
    model.requires_grad_(False).eval()
    return lines


def load_base(device: str | torch.device = "cpu") -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The base model in float32, to train on."""
    model = LlamaForCausalLM.from_pretrained(WEIGHTS / "base", dtype=torch.float32).to(device)
    return model, PreTrainedTokenizerFast.from_pretrained(WEIGHTS / "base")


def train_contracts(out: Path) -> None:
    """Fine-tune the base model on all 400 built-in contract questions and write it to ``out``."""
    started, recipe = time.monotonic(), ContractRecipe()
    model, tokenizer = load_base()
    lines = finetune(model, tokenizer, contracts.generate(0), recipe)
    info = {"what": "contracts", "recipe": asdict(recipe), "seconds": time.monotonic() - started}
    export(model, tokenizer, out, info, "\n".join(map(json.dumps, lines)))


def retrained(model, split: ForgetSplit) -> Patch:
    """The model that never saw the forget set, as a patch on the one that did: the goal unlearning approximates.

    The base model is fine-tuned anew on the other contract questions with the very recipe of the shipped model.
    """
    watch = Stopwatch(model.device)
    fresh, tokenizer = load_base(model.device)
    forgotten = {qa.id for qa in split.forget}
    rows = [row for row in contracts.generate(0) if row.id not in forgotten]
    lines = finetune(fresh, tokenizer, rows, ContractRecipe(), show=False)
    there = dict(fresh.named_parameters())
    deltas = {n + DENSE: there[n].detach().to(torch.bfloat16).float() - p.float() for n, p in model.named_parameters()}
    shapes = {n: list(p.shape) for n, p in model.named_parameters()}
    return Patch(deltas, {"method": "retrained", "log": lines, **watch.read()}, fingerprint(model), shapes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["base", "contracts"])
    parser.add_argument("--work", type=Path, default=Path("runs/pocket"), help="where the base model's checkpoint is")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.what == "base":
        train_base(Recipe(), arguments.work / "base", arguments.out)
    else:
        train_contracts(arguments.out)


if __name__ == "__main__":
    main()
