"""The methods: each takes a model and a forget set and gives a `Patch`.

A method is one file with a frozen dataclass config and one call of `register`.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ..data import QA, ForgetSplit, refusals
from ..errors import RequestError, check_name
from ..hparams import resolve
from ..models import PROMPT_FORMATS, down_weight, family_of, fingerprint
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

    def bar(self, iterable: Iterable, what: str):
        """A progress bar over the steps of the method."""
        return progress_bar(iterable, desc=what, enabled=self.progress)


@dataclass(frozen=True)
class Outcome:
    """What a method gives back: the tensors of the patch and one log entry a request or epoch."""

    tensors: dict[str, torch.Tensor]
    log: list[dict] = field(default_factory=list)

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
    so that every request can be checked; ``reads_retain``: trains on the retain set."""

    name: str
    config: type
    run: Callable[[Job], Outcome]
    modes: tuple[str, ...]
    edits: bool
    merges: bool
    reads_retain: bool
    refuses: bool


METHODS: dict[str, Method] = {}


def register(
    name: str, config: type, run: Callable[[Job], Outcome], *, modes: tuple[str, ...] = ("batch",), edits: bool = False,
    merges: bool = False, reads_retain: bool = False, refuses: bool = True,
) -> None:  # fmt: skip
    """Make a method known by its name."""
    METHODS[name] = Method(name, config, run, modes, edits, merges, reads_retain, refuses)


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
    seed: int = 0,
    progress: bool = True,
) -> Patch:
    """Make the model forget and give the change as a `Patch`; the model itself is left as it was.

    ``targets``: ``"refusal"`` (a seeded draw from the I-don't-know set), ``"self-improved"`` (the model's own refusals
    that name the subject), or one string per forget question (per group with ``merge`` > 1). ``merge=m`` joins m
    questions into one edit. ``hparams``: the method's config, an EasyEdit YAML file, or a dict of overrides.
    ``covariance``: ``{layer: (d_ffn, d_ffn) tensor}`` or a `CovarianceSource`. The global random state is untouched.
    Raises `RequestError`, `UnknownNameError`, `UnsupportedModelError`.
    """
    check_name("method", method, METHODS)
    check_name("prompt_format", prompt_format, PROMPT_FORMATS)
    from ..recipes.query_merging import merge_requests  # recipes stand on top of methods

    chosen = METHODS[method]
    mode = mode or chosen.modes[0]
    check_name(f"mode of {method}", mode, chosen.modes)
    family_of(model)
    is_split = isinstance(split_or_qas, ForgetSplit)
    forget = tuple(split_or_qas.forget if is_split else split_or_qas)
    retain = tuple(retain if retain is not None else split_or_qas.retain if is_split else ())
    if not forget:
        raise RequestError("the forget set is empty: there is nothing to forget.")
    if chosen.reads_retain and not retain:
        raise RequestError(f"{method} needs a retain set: pass a ForgetSplit or retain=[QA, …].")
    retain = retain if chosen.reads_retain else ()  # what a method does not read must not move its random draws
    if not isinstance(merge, int) or merge < 1:
        raise RequestError(f"merge must be a whole number of at least 1, not {merge!r}.")
    if merge > 1 and not chosen.merges:
        raise RequestError(
            f"{method} cannot merge questions into one edit; merging is for {_names(lambda m: m.merges)}."
        )
    config = resolve(method, chosen.config, model.config, hparams)
    watch = Stopwatch(model.device)
    with untouched(model), torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        texts, notes = resolve_targets(model, tokenizer, forget, targets, merge, prompt_format, seed)
        requests = merge_requests(forget, texts, merge)

        def matrices(layers: Sequence[int]) -> dict[int, torch.Tensor]:
            from ..covariance import CovarianceSource, default_source

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
            source = covariance or default_source(model, tokenizer)
            if not isinstance(source, CovarianceSource):
                raise RequestError("covariance must be {layer: tensor} or a CovarianceSource.")
            return source.matrices(model, tokenizer, layers, prompt_format=prompt_format, fact_token=config.fact_token, show=progress)  # fmt: skip

        job = Job(model, tokenizer, forget, requests, retain, config, mode, matrices, prompt_format, seed, progress)
        base = fingerprint(model)
        outcome = chosen.run(job)
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
            "reads_retain": chosen.reads_retain,
            "targets": {"kind": targets if isinstance(targets, str) else "given", **notes},
            **watch.read(),
            "log": [{**row, "ids": list(r.ids)} for row, r in zip(outcome.log, requests, strict=True)]
            if chosen.edits
            else outcome.log,
        }
        patch = Patch(outcome.tensors, info, base, shapes)
        if chosen.edits:
            _report(model, tokenizer, patch, requests, prompt_format)
    return patch


def resolve_targets(model, tokenizer, forget, targets, merge, prompt_format, seed) -> tuple[list[str], dict]:
    """One target text per request, and notes on how they came about."""
    n = -(-len(forget) // merge)
    if not isinstance(targets, str):
        texts = list(targets)
        if len(texts) != n or not all(isinstance(t, str) and t.strip() for t in texts):
            raise RequestError(f"targets: {n} texts are needed, one per {'question' if merge == 1 else 'merged edit'}, not {len(texts)} or empty ones.")  # fmt: skip
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
    """Did every edit take? Its target's greedy share and NLL with the patch on; a request that did not take warns."""
    from .locate import lookup

    texts = lookup(tokenizer, requests, "{}", prompt_format, "prompt_last", targets=True)
    with patch.on(model):
        for i in range(len(requests)):
            ids, labels = texts.ids[i : i + 1].to(model.device), texts.labels[i]
            logits = model(
                input_ids=ids, attention_mask=texts.mask[i : i + 1].to(model.device), use_cache=False
            ).logits[0]
            at = (labels != -100).nonzero().flatten()
            logp = logits[at].float().log_softmax(-1).cpu()
            truth = labels[at]
            patch.info["log"][i] |= {
                "target": requests[i].target,
                "nll_after": float(-logp.gather(1, truth[:, None]).mean()),
                "first_token_flipped": bool(logp[0].argmax() == truth[0]),
                "greedy_share": float((logp.argmax(-1) == truth).float().mean()),
                "took": bool(logp[0].argmax() == truth[0]),
            }
    failed = [request for request, row in zip(requests, patch.info["log"], strict=True) if not row["took"]]
    if failed:
        shown = "; ".join(repr(request.question[:60]) for request in failed[:3])
        log.warning(
            "%d of %d edits did not take: with the patch on the model does not begin its target. %s%s (patch.info['log'] has all)",
            len(failed), len(requests), shown, " …" if len(failed) > 3 else "",
        )  # fmt: skip


def _names(condition: Callable[[Method], bool]) -> str:
    return ", ".join(name for name, method in METHODS.items() if condition(method))


from . import dpo, ga, gd, idk, kl, memit  # noqa: E402, F401  (each registers itself)
