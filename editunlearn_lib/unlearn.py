"""The call: a model, a forget set and a method give a patch."""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from . import memory
from .covariance import select_layers, source_of
from .data import QA, ForgetSplit, refusals
from .errors import RequestError, TrainingError, check_name
from .evaluation import MAX_NEW_TOKENS, answer_scores, generate
from .hparams import resolve
from .methods import METHODS, Job, Method, Outcome, Request
from .models import devices, family_of, fingerprint
from .patch import Patch, Stopwatch, untouched
from .recipes.query_merging import merge_requests
from .recipes.self_improvement import write_refusals
from .text import PROMPT_FORMATS, prompt_text

log = logging.getLogger(__name__)


def unlearn(
    model,
    tokenizer,
    split_or_qas: ForgetSplit | Sequence[QA],
    method: str,
    *,
    targets: str | Sequence[str] = "refusal",
    merge: int = 1,
    mode: str | None = None,
    hparams: Any = None,
    retain: Sequence[QA] | None = None,
    covariance: Any = None,
    prompt_format: str = "chat",
    previous: Patch | None = None,
    seed: int = 0,
    progress: bool = True,
    check_memory: bool = True,
) -> Patch:
    """Make the model forget and give the change as a `Patch`; the model itself is left as it was.

    ``targets``: ``"refusal"`` (a seeded draw from the I-don't-know set), ``"self-improved"`` (the model's own refusals
    that name the subject), or one string per forget question (per group with ``merge`` > 1). ``merge=m`` joins m
    questions into one edit. ``hparams``: the method's config, an EasyEdit YAML file, or a dict of overrides.
    ``covariance``: ``{layer: (d_ffn, d_ffn) tensor}``, a `CovarianceSource` or the name of one. ``previous``: an
    earlier patch of the same method and base model, which the new one continues and contains (use it instead of the
    earlier one). The global random state is untouched.

    ``info["log"]`` has a row for every edit: what the model said before and after, and whether it took; for a training
    a row for every epoch, and ``info["changed"]`` is the share of the forget questions that are answered otherwise
    than before. ``info["kept_in_dtype"]``: `Patch.kept_in_dtype`. What did not take, change or survive is warned about.

    ``check_memory``: what the method needs is computed first (`memory`) and held against what is free; ``False`` starts
    regardless. Raises `RequestError`, `UnknownNameError`, `UnsupportedModelError`, `OutOfMemoryError`, and
    `TrainingError` where the change or a loss is not finite.
    """
    check_name("method", method, METHODS)
    check_name("prompt_format", prompt_format, PROMPT_FORMATS)
    about = METHODS[method]
    mode = mode or about.modes[0]
    check_name(f"mode of {method}", mode, about.modes)
    family_of(model)
    is_split = isinstance(split_or_qas, ForgetSplit)
    forget = tuple(split_or_qas.forget if is_split else split_or_qas)
    retain = tuple(retain if retain is not None else split_or_qas.retain if is_split else ())
    if not forget:
        raise RequestError("the forget set is empty: there is nothing to forget.")
    if not isinstance(merge, int) or merge < 1:
        raise RequestError(f"merge must be a whole number of at least 1, not {merge!r}.")
    if merge > 1 and not about.merges:
        able = _names(lambda m: m.merges)
        raise RequestError(f"{method} cannot merge questions into one edit; merging is for {able}.")
    config = resolve(method, model.config, hparams)
    _check_previous(model, about, previous)
    if about.reads_retain and not retain:
        raise RequestError(f"{method} needs a retain set: pass a ForgetSplit or retain=[QA, …].")
    retain = retain if about.reads_retain else ()  # what is not read must not move the random draws
    watch = Stopwatch(*devices(model))
    with untouched(model), torch.random.fork_rng(devices=watch.gpus):
        torch.manual_seed(seed)
        texts, notes = resolve_targets(model, tokenizer, forget, targets, merge, prompt_format, seed)
        requests = merge_requests(forget, texts, merge)
        about_C: dict[str, Any] = {}

        def matrices(layers: Sequence[int]) -> dict[int, torch.Tensor]:
            if isinstance(covariance, Mapping):
                return select_layers(covariance, model, layers)
            source = source_of(covariance, model, tokenizer)
            about_C.update(source.describe())
            keys = {"prompt_format": prompt_format, "fact_token": config.fact_token}
            return source.matrices(model, tokenizer, layers, **keys, show=progress)

        job = Job(
            model, tokenizer, forget, requests, retain, config, mode, matrices, prompt_format, seed, progress, previous
        )
        if check_memory:
            memory.ensure_enough(job, method, covariance=not isinstance(covariance, Mapping))
        base, ways = fingerprint(model), memory.advice(job, method)
        with memory.explained(method, ways), _at_rest(model) if about.edits else contextlib.nullcontext():
            outcome = about.run(job)
        _check_finite(method, outcome)
        shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
        call = {"method": method, "mode": mode, "merge": merge, "prompt_format": prompt_format, "seed": seed}
        info = call | {
            "hparams": asdict(config),
            "model": model.config._name_or_path,
            "dtype": str(model.dtype),
            "n_forget": len(forget),
            "reads_retain": about.reads_retain,
            "targets": {"kind": targets if isinstance(targets, str) else "given", **notes},
            "covariance": about_C,
            "continues": previous is not None,
            **outcome.info,
            **watch.read(),
            "log": outcome.log,
        }
        patch = outcome.kind(outcome.tensors, info, base, shapes)
        info["kept_in_dtype"] = patch.warn_of_rounding(model) if patch.writes else 1.0
        with memory.explained(f"the report of {method}", ways), _at_rest(model):
            report, rows = (_report_edits, requests) if about.edits else (_report_training, forget)
            report(model, tokenizer, patch, rows, prompt_format)
    return patch


def resolve_targets(model, tokenizer, forget, targets, merge, prompt_format, seed) -> tuple[list[str], dict]:
    """One target text per request, and notes on how they came about."""
    n = -(-len(forget) // merge)
    if not isinstance(targets, str):
        texts = list(targets)
        if len(texts) != n or not all(isinstance(t, str) and t.strip() for t in texts):
            each = "question" if merge == 1 else "merged edit"
            raise RequestError(f"targets: {n} texts are needed, one per {each}, not {len(texts)} or empty ones.")
        return texts, {}
    check_name("targets", targets, ("refusal", "self-improved"))
    if targets == "refusal":
        rng = random.Random(seed)
        return [rng.choice(refusals()) for _ in range(n)], {}
    own = write_refusals(model, tokenizer, forget, prompt_format=prompt_format)
    texts = [" ".join(refusal.text for refusal in own[i : i + merge]) for i in range(0, len(own), merge)]
    return texts, {"fallbacks": sum(refusal.fallback for refusal in own)}


def _check_finite(method: str, outcome: Outcome) -> None:
    """Raise `TrainingError` if a tensor of the change or a loss in the log is not finite."""
    broken = [name for name, tensor in outcome.tensors.items() if not torch.isfinite(tensor).all()]
    losses = [(i, row["loss"]) for i, row in enumerate(outcome.log) if "loss" in row]
    broken += [f"the loss in row {i} of the log" for i, loss in losses if not math.isfinite(loss)]
    if broken:
        more = f" and {len(broken) - 1} more" if broken[1:] else ""
        raise TrainingError(
            f"{method} ended in numbers that are not finite ({broken[0]}{more}): lower its learning rate, or load the "
            "model in float32 or bfloat16."
        )


def _check_previous(model, method: Method, previous: Patch | None) -> None:
    """Raise `RequestError` unless ``previous`` is None or a patch that this method can go on with."""
    if previous is None:
        return
    if not method.continues:
        raise RequestError(
            f"{method.name} cannot continue an earlier patch; {_names(lambda m: m.continues)} can. Switch the earlier "
            "one on beside the new one instead."
        )
    if previous.info.get("method") != method.name:
        raise RequestError(f"previous is a patch of {previous.info.get('method')!r}, not of {method.name!r}.")
    with untouched(model):
        previous._check(model)


def _names(condition: Callable[[Method], bool]) -> str:
    return ", ".join(name for name, method in METHODS.items() if condition(method))


@contextlib.contextmanager
def _at_rest(model) -> Iterator[None]:
    """The model in evaluation mode and without gradients of weights; afterwards as it was."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@torch.no_grad()
def _report_edits(model, tokenizer, patch: Patch, requests: Sequence[Request], prompt_format: str) -> None:
    """Did every edit take? What the model says before and after, as long as the longest target, and how likely its
    target is; a miss warns."""
    questions = [request.question for request in requests]
    prompts = [prompt_text(tokenizer, question, prompt_format) for question in questions]
    targets = [request.target for request in requests]
    enough = max(map(len, tokenizer(targets).input_ids))  # tokens: what is said behind them tells nothing
    asked = {"prompt_format": prompt_format, "max_new_tokens": min(enough, MAX_NEW_TOKENS)}
    before = generate(model, tokenizer, questions, **asked)
    rows = [{**row, "ids": list(request.ids)} for row, request in zip(patch.info["log"], requests, strict=True)]
    with patch.on(model):
        after = generate(model, tokenizer, questions, **asked)
        for i, answer in answer_scores(model, tokenizer, prompts, targets):
            logp, truth = answer.logits.log_softmax(-1), answer.ids  # (T, V), (T,)
            flipped = bool(logp[0].argmax() == truth[0])
            rows[i] |= {"question": questions[i], "target": targets[i], "before": before[i], "after": after[i]}
            rows[i] |= {
                "nll_after": float(-logp.gather(1, truth[:, None]).mean()),
                "first_token_flipped": flipped,
                "greedy_share": float((logp.argmax(-1) == truth).float().mean()),
                "took": flipped,
            }
    patch.info["log"] = rows
    if misses := [row["question"] for row in rows if not row["took"]]:
        log.warning(
            f"{len(misses)} of {len(rows)} edits did not take: with the patch on the model does not begin its target. "
            f"{_first(misses)} (patch.info['log'] has all)"
        )


@torch.no_grad()
def _report_training(model, tokenizer, patch: Patch, forget: Sequence[QA], prompt_format: str) -> None:
    """Did the training change anything? The share of forget questions that are answered otherwise; none warns."""
    questions = [qa.question for qa in forget]
    before = generate(model, tokenizer, questions, prompt_format=prompt_format)
    with patch.on(model):
        after = generate(model, tokenizer, questions, prompt_format=prompt_format)
    patch.info["changed"] = sum(a != b for a, b in zip(before, after, strict=True)) / len(questions)
    if not patch.info["changed"]:
        hparams = patch.info["hparams"]
        log.warning(
            f"{patch.info['method']} changed nothing: all {len(questions)} forget questions are answered as before, "
            f"such as {_first(questions)}. Raise lr ({hparams.get('lr')}) or num_epochs ({hparams.get('num_epochs')})."
        )


def _first(questions: Sequence[str]) -> str:
    """The beginnings of the first three."""
    return "; ".join(repr(question[:60]) for question in questions[:3]) + (" …" if questions[3:] else "")
