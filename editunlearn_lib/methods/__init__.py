"""The methods: each takes a model and a forget set and gives a `Patch`.

A method is one file with a frozen dataclass config and one call of `register`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ..data import QA, ForgetSplit, refusals
from ..errors import RequestError, TrainingError, check_name
from ..hparams import resolve
from ..models import PROMPT_FORMATS, devices, down_weight, family_of, fingerprint, prompt_text
from ..patch import DENSE, LEFT, RIGHT, Patch, Stopwatch, untouched
from ..progress import progress as progress_bar
from .locate import Request

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a method is given. ``forget`` and ``targets`` row by row, ``requests`` the (merged) edits."""

    model: Any
    tokenizer: Any
    forget: tuple[QA, ...]
    requests: tuple[Request, ...]
    retain: tuple[QA, ...]
    config: Any
    mode: str
    covariance: Callable[[Sequence[int]], dict[int, torch.Tensor]]
    prompt_format: str
    seed: int
    progress: bool
    previous: Patch | None = None  # an earlier patch of this method, to be continued

    def bar(self, iterable: Iterable, what: str):
        """A progress bar over the steps of the method."""
        return progress_bar(iterable, desc=what, enabled=self.progress)


@dataclass(frozen=True)
class Outcome:
    """What a method gives back: the tensors of the patch, one log entry a request or epoch, and more for ``info``."""

    tensors: dict[str, torch.Tensor]
    log: list[dict] = field(default_factory=list)
    kind: type[Patch] = Patch
    info: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, deltas: dict[str, torch.Tensor], log: list[dict]) -> Outcome:
        """From dense changes, by parameter name."""
        return cls({name + DENSE: delta for name, delta in deltas.items()}, log)

    @classmethod
    def of_factors(cls, factors: dict[str, tuple[torch.Tensor, torch.Tensor]], log: list[dict]) -> Outcome:
        """From low-rank changes ``left @ right``, by parameter name."""
        tensors = {}
        for name, (left, right) in factors.items():
            tensors[name + LEFT], tensors[name + RIGHT] = left, right
        return cls(tensors, log)


@dataclass(frozen=True)
class Method:
    """A registered method. ``modes``: the first is the default. ``edits``: works on requests one by one or in batch,
    so that every request can be checked; ``reads_retain``: trains on the retain set; ``continues``: an earlier patch;
    ``covariance``: reads a covariance of keys."""

    name: str
    config: type
    run: Callable[[Job], Outcome]
    modes: tuple[str, ...]
    edits: bool
    merges: bool
    reads_retain: bool
    refuses: bool
    continues: bool
    covariance: bool


METHODS: dict[str, Method] = {}


def register(
    name: str,
    config: type,
    run: Callable[[Job], Outcome],
    *,
    modes: tuple[str, ...] = ("batch",),
    edits: bool = False,
    merges: bool = False,
    reads_retain: bool = False,
    refuses: bool = True,
    continues: bool = False,
    covariance: bool = False,
) -> None:
    """Make a method known by its name."""
    METHODS[name] = Method(name, config, run, modes, edits, merges, reads_retain, refuses, continues, covariance)


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
    ``covariance``: ``{layer: (d_ffn, d_ffn) tensor}``, a `CovarianceSource` or the name of one. ``previous``: an earlier
    patch of the same method and base model, which the new one continues and contains (use it instead of the earlier one);
    AlphaEdit then spares the keys edited before, GRACE adds to the codebook, WISE to the memories. The global random
    state is untouched. ``info["log"]`` has a row for every edit: what the model said before and after, and whether it took.
    ``check_memory``: what the method needs is computed first (`memory.estimate`) and held against what is free; ``False``
    starts regardless. Raises `RequestError`, `UnknownNameError`, `UnsupportedModelError`, `OutOfMemoryError`, and
    `TrainingError` where the change or a loss is not finite.
    """
    from .. import memory  # it knows every method
    from ..recipes.query_merging import merge_requests  # recipes stand on top of methods

    check_name("method", method, METHODS)
    check_name("prompt_format", prompt_format, PROMPT_FORMATS)
    chosen = METHODS[method]
    mode = mode or chosen.modes[0]
    check_name(f"mode of {method}", mode, chosen.modes)
    family_of(model)
    is_split = isinstance(split_or_qas, ForgetSplit)
    forget = tuple(split_or_qas.forget if is_split else split_or_qas)
    retain = tuple(retain if retain is not None else split_or_qas.retain if is_split else ())
    if not forget:
        raise RequestError("the forget set is empty: there is nothing to forget.")
    if not isinstance(merge, int) or merge < 1:
        raise RequestError(f"merge must be a whole number of at least 1, not {merge!r}.")
    if merge > 1 and not chosen.merges:
        raise RequestError(
            f"{method} cannot merge questions into one edit; merging is for {_names(lambda m: m.merges)}."
        )
    config = resolve(method, chosen.config, model.config, hparams)
    _check_previous(model, chosen, previous)
    reads_retain = chosen.reads_retain or getattr(config, "unrelated", None) == "retain"  # the latter is WISE's option
    if reads_retain and not retain:
        raise RequestError(f"{method} needs a retain set: pass a ForgetSplit or retain=[QA, …].")
    retain = retain if reads_retain else ()  # what a method does not read must not move its random draws
    watch = Stopwatch(*devices(model))
    with untouched(model), torch.random.fork_rng(devices=watch.gpus):
        torch.manual_seed(seed)
        texts, notes = resolve_targets(model, tokenizer, forget, targets, merge, prompt_format, seed)
        requests = merge_requests(forget, texts, merge)
        notes_on_covariance: dict[str, Any] = {}

        def matrices(layers: Sequence[int]) -> dict[int, torch.Tensor]:
            from ..covariance import CovarianceSource, named_source

            if isinstance(covariance, dict):
                missing = [layer for layer in layers if layer not in covariance]
                if missing:
                    raise RequestError(
                        f"covariance has no matrix for the layers {missing}; it has {sorted(covariance)}."
                    )
                for layer in layers:
                    size, found = down_weight(model, layer).shape[1], tuple(covariance[layer].shape)
                    if found != (size, size):
                        raise RequestError(f"covariance of layer {layer}: {(size, size)} is needed, not {found}.")
                return {layer: covariance[layer] for layer in layers}
            source = (
                named_source(covariance or "default", model, tokenizer)
                if isinstance(covariance or "", str)
                else covariance
            )
            if not isinstance(source, CovarianceSource):
                raise RequestError("covariance must be {layer: tensor}, a CovarianceSource or the name of one.")
            notes_on_covariance.update(source.describe())
            return source.matrices(
                model, tokenizer, layers, prompt_format=prompt_format, fact_token=config.fact_token, show=progress
            )

        job = Job(
            model, tokenizer, forget, requests, retain, config, mode, matrices, prompt_format, seed, progress, previous
        )
        if check_memory:
            memory.check(job, method, covariance=not isinstance(covariance, dict))
        base, ways = fingerprint(model), memory.advice(job, method)
        with memory.explained(method, ways), _at_rest(model) if chosen.edits else contextlib.nullcontext():
            outcome = chosen.run(job)
        _check_finite(method, outcome)
        shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
        info = {
            "method": method,
            "mode": mode,
            "merge": merge,
            "prompt_format": prompt_format,
            "seed": seed,
            "hparams": asdict(config),
            "model": model.config._name_or_path,
            "n_forget": len(forget),
            "reads_retain": reads_retain,
            "targets": {"kind": targets if isinstance(targets, str) else "given", **notes},
            "covariance": notes_on_covariance,
            "continues": previous is not None,
            **outcome.info,
            **watch.read(),
            "log": [{**row, "ids": list(r.ids)} for row, r in zip(outcome.log, requests, strict=True)]
            if chosen.edits
            else outcome.log,
        }
        patch = outcome.kind(outcome.tensors, info, base, shapes)
        if chosen.edits:
            with memory.explained(f"the report of {method}", ways), _at_rest(model):
                _report(model, tokenizer, patch, requests, prompt_format)
    return patch


def _check_finite(method: str, outcome: Outcome) -> None:
    """Raise `TrainingError` if a tensor of the change or a loss in the log is not finite."""
    broken = [name for name, tensor in outcome.tensors.items() if not torch.isfinite(tensor).all()]
    broken += [
        f"the loss in row {i} of the log"
        for i, row in enumerate(outcome.log)
        if not math.isfinite(row.get("loss", 0.0))
    ]
    if broken:
        raise TrainingError(
            f"{method} ended in numbers that are not finite ({broken[0]}{f' and {len(broken) - 1} more' if broken[1:] else ''}): "
            "lower its learning rate, or load the model in float32 or bfloat16."
        )


def _check_previous(model, chosen: Method, previous: Patch | None) -> None:
    """Raise `RequestError` unless ``previous`` is None or a patch that this method can go on with."""
    if previous is None:
        return
    if not chosen.continues:
        raise RequestError(
            f"{chosen.name} cannot continue an earlier patch; {_names(lambda m: m.continues)} can. Switch the earlier one on "
            "beside the new one instead."
        )
    if previous.info.get("method") != chosen.name:
        raise RequestError(f"previous is a patch of {previous.info.get('method')!r}, not of {chosen.name!r}.")
    with untouched(model):
        previous._check(model)


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


def resolve_targets(model, tokenizer, forget, targets, merge, prompt_format, seed) -> tuple[list[str], dict]:
    """One target text per request, and notes on how they came about."""
    n = -(-len(forget) // merge)
    if not isinstance(targets, str):
        texts = list(targets)
        if len(texts) != n or not all(isinstance(t, str) and t.strip() for t in texts):
            raise RequestError(
                f"targets: {n} texts are needed, one per {'question' if merge == 1 else 'merged edit'}, not {len(texts)} or empty ones."
            )
        return texts, {}
    check_name("targets", targets, ("refusal", "self-improved"))
    if targets == "refusal":
        rng = random.Random(seed)
        return [rng.choice(refusals()) for _ in range(n)], {}
    from ..recipes.self_improvement import write_refusals

    written = write_refusals(model, tokenizer, forget, prompt_format=prompt_format, seed=seed)
    texts = [" ".join(w.text for w in written[i : i + merge]) for i in range(0, len(written), merge)]
    return texts, {"fallbacks": sum(w.fallback for w in written)}


@torch.no_grad()
def _report(model, tokenizer, patch: Patch, requests: Sequence[Request], prompt_format: str) -> None:
    """Did every edit take? What the model says before and after, and how likely its target is; a miss warns."""
    from ..evaluation import generate, scored

    questions = [request.question for request in requests]
    prompts = [prompt_text(tokenizer, question, prompt_format) for question in questions]
    targets = [request.target for request in requests]
    before = generate(model, tokenizer, questions, prompt_format=prompt_format)
    with patch.on(model):
        after = generate(model, tokenizer, questions, prompt_format=prompt_format)
        for i, found in scored(model, tokenizer, prompts, targets):
            logp, truth = found.logits.log_softmax(-1), found.ids  # (T, V), (T,)
            flipped = bool(logp[0].argmax() == truth[0])
            patch.info["log"][i] |= {
                "question": questions[i],
                "target": targets[i],
                "before": before[i],
                "after": after[i],
                "nll_after": float(-logp.gather(1, truth[:, None]).mean()),
                "first_token_flipped": flipped,
                "greedy_share": float((logp.argmax(-1) == truth).float().mean()),
                "took": flipped,
            }
    failed = [request for request, row in zip(requests, patch.info["log"], strict=True) if not row["took"]]
    if failed:
        shown = "; ".join(repr(request.question[:60]) for request in failed[:3])
        log.warning(
            "%d of %d edits did not take: with the patch on the model does not begin its target. %s%s (patch.info['log'] has all)",
            len(failed),
            len(requests),
            shown,
            " …" if len(failed) > 3 else "",
        )


def _names(condition: Callable[[Method], bool]) -> str:
    return ", ".join(name for name, method in METHODS.items() if condition(method))


from . import alphaedit, dpo, ga, gd, grace, idk, kl, memit, rome, wise  # noqa: E402, F401  (each registers itself)

for _name in ("ga", "gd", "kl", "dpo", "rome", "memit", "grace", "wise", "alphaedit", "idk"):  # the order of the tables
    METHODS[_name] = METHODS.pop(_name)
