"""The registry of methods: what a method is given, what it gives back, and what it says of itself.

A leaf: it imports no method. A method is one file that ends in one call of `register`; it may lie in this folder, or
anywhere if an installed package names it under the entry point ``editunlearn.methods``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from ..errors import RequestError
from ..patch import DENSE, LEFT, RIGHT, Patch
from ..progress import progress

# models with presets, and where their values come from
LLAMA2, MISTRAL, LLAMA31 = "llama-2-7b-chat", "mistral-7b-instruct", "llama-3.1-8b-instruct"
EASYEDIT, PISTOL, OURS = "EasyEdit hparams", "PISTOL's published code", "ours: nobody published one"


@dataclass(frozen=True)
class Request:
    """One edit: this question shall be answered by this target. ``subjects`` has one entry a merged question."""

    ids: tuple[str, ...]
    question: str
    target: str
    subjects: tuple[str, ...]

    @property
    def subject(self) -> str | None:
        """The subject whose last token is edited: the last one of a merged request."""
        return self.subjects[-1] if self.subjects else None


@dataclass(frozen=True)
class Job:
    """What a method is given: ``forget`` row by row (QA), and as ``requests``, the (merged) edits.

    ``covariance(layers)`` gives ``{layer: (d_ffn, d_ffn)}``; ``previous`` is an earlier patch to be continued.
    """

    model: Any
    tokenizer: Any
    forget: tuple[Any, ...]
    requests: tuple[Request, ...]
    retain: tuple[Any, ...]
    config: Any
    mode: str
    covariance: Callable[[Sequence[int]], dict[int, torch.Tensor]]
    prompt_format: str
    seed: int
    progress: bool
    previous: Patch | None = None

    def bar(self, iterable: Iterable, what: str):
        """A progress bar over the steps of the method."""
        return progress(iterable, desc=what, enabled=self.progress)


@dataclass(frozen=True)
class Outcome:
    """What a method gives back: the tensors of the patch, one log entry a request or epoch, and more for ``info``."""

    tensors: dict[str, torch.Tensor]
    log: list[dict] = field(default_factory=list)
    kind: type[Patch] = Patch
    info: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, deltas: Mapping[str, torch.Tensor], log: list[dict]) -> Self:
        """From dense changes, by parameter name."""
        return cls({name + DENSE: delta for name, delta in deltas.items()}, log)

    @classmethod
    def of_factors(cls, factors: Mapping[str, Sequence[torch.Tensor]], log: list[dict], kind=Patch) -> Self:
        """From low-rank changes (left, right), by parameter name: ``left @ right``."""
        tensors = {name + end: pair[i] for name, pair in factors.items() for i, end in enumerate((LEFT, RIGHT))}
        return cls(tensors, log, kind)


@dataclass(frozen=True)
class Method:
    """A registered method. Only ``name``, ``config`` and ``run`` must be said."""

    name: str
    config: type
    run: Callable[[Job], Outcome]
    label: str = ""  # in tables and figures
    colour: str = "#808080"  # with symbol and dash its mark in figures
    symbol: str = "hexagon"
    dash: str = "solid"
    order: int = 1000  # its place among the others
    modes: tuple[str, ...] = ("batch",)  # "batch", "sequential": the first is the default
    edits: bool = False  # works on requests, so that each of them can be checked afterwards; else it trains
    merges: bool = False  # several questions may be one request
    continues: bool = False  # an earlier patch of this method
    covariance: bool = False  # reads a covariance of keys
    reads: tuple[str, ...] = ()  # what the loss of a training reads: "answers", "refusals", "retain"
    reference: tuple[str, ...] = ()  # of which of these it asks the model before unlearning, too
    presets: Mapping[str, Sequence] = field(default_factory=dict)  # {model: [(values, source), …]}, the last one counts
    ours: tuple[str, ...] = ()  # fields of the config whose default is a choice of this library
    trials: Sequence[Mapping[str, Any]] = ()  # tried on the pocket model when hyperparameters are chosen there
    memory: Callable | None = None  # its own part of the memory estimate; None: that of its kind (`memory`)

    @property
    def refuses(self) -> bool:
        """Whether it moves towards a refusal, and not only away from the answer."""
        return self.edits or "refusals" in self.reads

    @property
    def reads_retain(self) -> bool:
        """Whether it trains on the retain set."""
        return "retain" in self.reads


METHODS: dict[str, Method] = {}


def register(name: str, config: type, run: Callable[[Job], Outcome], **about: Any) -> None:
    """Make a method known by its name; ``about`` are the fields of `Method`. METHODS stays in the book's order."""
    method = Method(name, config, run, **{"label": name, **about})
    if unknown := set(method.reads + method.reference) - {"answers", "refusals", "retain"}:
        raise RequestError(f"the method {name!r} reads {sorted(unknown)}; there are answers, refusals and retain.")
    if (there := METHODS.get(name)) and there.run.__module__ != run.__module__:
        raise RequestError(f"there is a method {name!r} already, in {there.run.__module__}: choose another name.")
    METHODS[name] = method
    for each in sorted(METHODS.values(), key=lambda m: (m.order, m.name)):
        METHODS[each.name] = METHODS.pop(each.name)
