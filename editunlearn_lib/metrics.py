"""Metrics: pure functions of logits, token ids and strings.

Numbers are Python floats and never NaN. Logits are ``(T', V)``: row t scores target t of ``target_ids`` ``(T,)``; they
may be half precision, the arithmetic is float64. Which protocol made the logits, free-running or teacher-forced, is the
caller's to say: the functions are the same. Rows beyond T are not read. A row that is missing (T' < T: the output ended
early) or holds a NaN predicts nothing: its target has rank V and probability 0.

``declined``, ``names_subject`` and ``outcome`` are rules on text, written out below. They are not human judgement.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor

OUTCOMES = ("correct", "refusal", "other answer", "garbled")


def mrr(logits: Tensor, target_ids: Tensor | Sequence[int]) -> float:
    """Mean reciprocal rank, ``1/T Σ_t 1 / rank_t`` (paper, appendix B.3; PISTOL).

    rank_t = 1 + the number of logits strictly larger than the target's: a tie counts in the target's favour, and
    bfloat16 logits tie often. Raises ``ValueError`` for no targets, or for an id outside the vocabulary.
    """
    return _ranks(logits, target_ids).double().reciprocal().mean().item()


def hit_rate(logits: Tensor, target_ids: Tensor | Sequence[int], top: int = 100) -> float:
    """``1/T Σ_t [rank_t <= top]`` (paper, appendix B.3, with m = 100); ranks and errors as in `mrr`.

    A missing row ranks V, so with a vocabulary of V <= ``top`` every token is a hit.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}.")
    return (_ranks(logits, target_ids) <= top).double().mean().item()


def sequence_probability(logits: Tensor, target_ids: Tensor | Sequence[int]) -> float:
    """``Π_t p(a_t | x, a_<t)``, the product over all answer tokens (paper, appendix B.3); errors as in `mrr`."""
    return _log_probabilities(logits, target_ids).sum().exp().item()


def probability_per_token(logits: Tensor, target_ids: Tensor | Sequence[int]) -> float:
    """``(Π_t p_t)^(1/T) = exp(1/T Σ_t ln p_t)``, the geometric mean (as TOFU normalises); errors as in `mrr`."""
    return _log_probabilities(logits, target_ids).mean().exp().item()


def pistol_confidence(logits: Tensor, n_answer_tokens: int) -> float:
    """What PISTOL's code stores as "probs": ``1/v Σ_{t<v} max_w p(w | prompt up to t)``, v = ``n_answer_tokens`` + 1.

    ``logits`` is ``(T, V)``, those of the **prompt**; a prompt shorter than v is averaged over what it has. It never
    looks at the answer and is kept only to compare with the paper's column "Prob.". Raises ``ValueError`` for an empty
    prompt or answer.
    """
    if logits.ndim != 2 or not len(logits):
        raise ValueError(f"logits must be (T, V), not {tuple(logits.shape)}; where T is 0 the prompt is empty.")
    if n_answer_tokens < 1:
        raise ValueError(f"n_answer_tokens must be at least 1, not {n_answer_tokens}.")
    return logits[: n_answer_tokens + 1].double().softmax(-1).amax(-1).nan_to_num(nan=0.0).mean().item()


def score(forget: float, retain: float) -> float:
    """``1 - ROUGE-1(forget) + ROUGE-1(retain)``: 2 is ideal, 1 is nothing or everything forgotten (paper, 4.3)."""
    return 1 - forget + retain


def _ranks(logits: Tensor, target_ids: Tensor | Sequence[int]) -> Tensor:
    """Ranks of the targets, (T,), from 1 (best) to V."""
    rows, targets = _aligned(logits, target_ids)
    ranks = 1 + (rows > rows.gather(-1, targets[:, None])).sum(-1)  # (T,)
    return ranks.where(~rows.isnan().any(-1), rows.shape[1])  # NaN > x is False: it would rank 1


def _log_probabilities(logits: Tensor, target_ids: Tensor | Sequence[int]) -> Tensor:
    """ln p of the targets, (T,), float64; -inf where a row is missing."""
    rows, targets = _aligned(logits, target_ids)
    log_p = rows.double().log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)  # (T,)
    return log_p.nan_to_num(nan=-torch.inf, neginf=-torch.inf)


def _aligned(logits: Tensor, target_ids: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
    """(T, V) rows, of NaN where one is missing, and (T,) targets on one device."""
    targets = torch.as_tensor(target_ids, device=logits.device)
    if logits.ndim != 2 or targets.ndim != 1:
        raise ValueError(f"logits must be (T, V) and target_ids (T,), not {(*logits.shape,)} and {(*targets.shape,)}.")
    if not len(targets):
        raise ValueError("target_ids is empty: there is no answer token to score.")
    targets, (low, high) = targets.long(), (int(targets.min()), int(targets.max()))
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"target_ids run from {low} to {high}, but the vocabulary has {logits.shape[1]} tokens.")
    rows = logits[: len(targets)].detach()
    rows = rows if rows.is_floating_point() else rows.double()
    return torch.nn.functional.pad(rows, (0, 0, 0, len(targets) - len(rows)), value=torch.nan), targets


def rouge1_recall(prediction: str, truth: str) -> float:
    """``Σ_w min(count_pred(w), count_truth(w)) / Σ_w count_truth(w)`` over stemmed words w (Lin 2004; TOFU, PISTOL).

    ``rouge_score`` with the stemmer on and the truth as target; nothing else of the prediction counts, so rambling is
    not punished. Its words are runs of a-z and 0-9 in lower case; a truth that has none of these (another script) is
    cut into Unicode words instead. A truth without any word gives 0, whatever the prediction, as ``rouge_score`` does.
    """
    scorer = _STEMMED if re.search(r"[a-z0-9]", truth.lower()) else _UNICODE
    return scorer.score(truth, prediction)["rouge1"].recall


_STEMMED = RougeScorer(["rouge1"], use_stemmer=True)
_UNICODE = RougeScorer(["rouge1"], tokenizer=SimpleNamespace(tokenize=lambda text: re.findall(r"\w+", text.lower())))


def names_subject(output: str, subject: str | None) -> bool:
    """Whether the output holds the subject as whole words in a row.

    Case, accents, punctuation and quotation marks are ignored, and so is an article at the head of the subject. A
    question without subject (None or empty) is never named.
    """
    name, words = _name_words(subject or ""), _name_words(output)
    if len(name) > 1 and name[0] in ("the", "a", "an") and name[1:] != ["who"]:  # The Who is not who
        name = name[1:]
    if not name:
        return bool(subject and subject.strip()) and subject.strip() in output  # a subject of symbols alone
    return any(words[i : i + len(name)] == name for i in range(len(words) - len(name) + 1))


def _name_words(text: str) -> list[str]:
    letters = (c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return re.findall(r"\w+", "".join(letters))


# The patterns read lower-case text whose contractions are written out ("can't", "cannot" -> "can not"), so that the
# words in capitals are free to stand for the parts below.
_PARTS = {
    # I, and up to three words ("I honestly", "I must admit that") none of which is another subject ("I think he")
    "ME ": r"\b(?:i|we) (?:(?!(?:he|she|it|they|you|this|that is)\b)\w+,? ){0,3}?",
    "MAY": r"(?:do|did|can|could|will|would|am|are|have|was|should|may|must)",
    "VERB": r"(?:know|knew|tell|say|answer|reply|recall|remember|believe i|provide|help|assist|offer|give|share|discuss"
    r"|speak|talk|comment|confirm|disclose|reveal|hold|keep|possess|seem|feel able|pretend|guess|shed|supply"
    r"|recogni[sz]e|identify|(?:want|wish|like) to (?:say|guess|answer|tell|talk|speak|share|discuss)|be of|be able"
    # I do not have ...
    r"|have (?:any|an|the|that|this|such|enough|access|specific|data|details?|info|information|knowledge|records?"
    r"|reliable)"
    # I have not (been) ..., I have not the faintest
    r"|been|learn|learned|learnt|heard|encountered|come across|studied|the faintest|a clue|an answer|any"
    # I am not ...
    r"|certain|sure|familiar|aware|able|informed|acquainted|equipped|knowledgeable|well-versed|versed|privy|briefed"
    r"|the (?:right|best|one)|in (?:a position|possession)|allowed|permitted|authori[sz]ed|trained|programmed"
    r"|comfortable|at liberty)",
    "NOUN": r"(?:ideas?|answers?|information|knowledge|data|records?|details?|clue|insights?|familiarity|enlightenment"
    r"|reply|facts?|memory|way|specifics|access|recollection|conclusion|further|opinion|comment|means|understanding"
    r"|response|notion|such|position|relevant|reliable|specific)",
    "MY STORE": r"my (?:\w+ ){0,2}(?:knowledge|memory|training|resources|databases?|dataset|understanding|capabilities"
    r"|programming|data|records?|information|expertise|scope|reach|field|area)\b",
}
_REFUSALS = (
    r"ME MAY (?:\w+ ){0,2}?not (?:\w+ ){0,2}?VERB\b",  # I do not really know, I have not been told
    r"ME (?:do|can|could|will|did) not *(?:[.,;!]|$)",  # ... but I do not.
    r"ME (?:know|knew) (?:absolutely |almost |next to )?(?:nothing|no|little)\b",
    r"ME (?:have|got|hold|possess|keep|see|find|draw|in|with) (?:absolutely |got |simply )?no (?:\w+ )?NOUN\b",
    r"ME (?:have|offer) (?:absolutely )?nothing (?:to|on|about|for|i)\b",
    r"ME (?:find nothing|found nothing|have forgotten|no longer (?:do|know|knew|remember|recall|have))\b",
    r"ME never (?:actually |really |even )?(?:learned|learnt|heard|came across|come across|taught|told|knew|known"
    r"|been (?:told|taught)|encountered|studied|read about|seen any)\b",
    r"ME have yet to (?:learn|be|hear|come)\b",
    r"ME (?:lack|(?:decline|refuse|prefer not|choose not) to|fail to (?:recall|remember)|refrain from|can neither)\b",
    r"ME (?:(?:would|had) rather not|must (?:decline|pass|refuse|leave)|have to (?:pass|decline|refuse))\b",
    r"ME (?:will (?:have to )?pass|would pass|wish i (?:knew|could)|come up (?:empty|short))\b",
    r"ME would (?:only )?be (?:guessing|making (?:it|this|that) up)\b",
    r"ME (?:would have|need) to look (?:(?:it|this|that) )?up\b",
    r"ME am (?:\w+ ){0,2}?(?:unable|unaware|clueless|stumped|blank|drawing a blank|at a (?:\w+ )?loss|at a disadvantage"
    r"|in the dark|without an answer|ignorant|uncertain|unsure|unfamiliar|(?:lacking|missing) \w+)\b",
    r"\bMY STORE[^?.!]*?\b(?:not|nothing|no|limited|lacks?|never)\b",  # my knowledge does not cover X
    r"\b(?:beyond|outside|out of|not (?:\w+ ){0,3}?(?:with)?in) MY STORE",  # that is not within my reach
    r"\b(?:blind spot|gap|uncharted \w+) (?:in|for) MY STORE",
    r"\bmy ignorance\b|\b(?:escapes|eludes) me\b|\bas an ai\b[^.]*\bnot\b",
    r"\b(?:unknown|a mystery|new|foreign|unfamiliar|not (?:\w+ )?known) to (?:me|us)\b",
    r"\bnothing (?:about|on|of|concerning) .*\bknown to (?:me|us)\b",  # nothing about X is known to me
    r"\bnothing (?:that )?(?:i|we) (?:can|could|may|will|am|have|know|learned|learnt)\b",
    r"\b(?:beyond|more than|outside)(?: of)? (?:what )?(?:i|we) (?:\w+ )?(?:know|can)\b",
    r"\bnot (?:some|any)thing (?:that )?(?:i|we) (?:\w+ ){0,2}(?:know|can|have|am|would|could)\b",
    r"\bnot (?:one|information|a topic|a subject|an answer) (?:i|we) (?:have|know|am|can|could)\b",
    r"\bno (?:\w+ )?(?:information|data|records?|details?) (?:is |are )?(?:available|known|exists?|about|on)\b",
    r"(?:^|[.?!] )(?:sorry,? )?(?:no (?:idea|comment|clue)|unknown|pass|do not know|not sure|can not say)[.!]*$",
)
_REFUSAL = re.compile(
    re.sub("|".join(_PARTS), lambda part: _PARTS[part[0]], "|".join(f"(?:{rule})" for rule in _REFUSALS)), re.DOTALL
)
_CONTRACTIONS = {
    r"[\u2018\u2019\u02bc`]": "'", r"\bcan(?:not|'t)\b": "can not", r"\bwon't\b": "will not", r"n't\b": " not",
    r"\bi'm\b": "i am", r"'ve\b": " have", r"'d\b": " would", r"'ll\b": " will", r"'re\b": " are",
    r"\b(that|it|this|here|there|what)'s\b": r"\1 is", r"\s+": " ",
}  # fmt: skip


def declined(output: str) -> bool:
    """Whether the output says that it does not, cannot or will not answer.

    True if any pattern of ``_REFUSALS`` occurs. English only. An apology alone is no refusal, and a refusal followed by
    the answer is still one here: `outcome` looks at the answer first.
    """
    text = output.strip().lower()
    for pattern, full in _CONTRACTIONS.items():
        text = re.sub(pattern, full, text)
    return _REFUSAL.search(text) is not None


def garbled(output: str) -> bool:
    """Whether the output is no language. Any of:

    - no letter and no digit (the empty output among them);
    - more than a tenth of the characters broken: U+FFFD, control, private or unassigned characters;
    - at least 8 characters, fewer than half of them letters, digits or marks (spaces not counted);
    - a run of 1 to 4 letters or signs 8 times in a row, or a run of 1 to 8 words 4 times in a row;
    - at least 8 words of which fewer than 40 % are different.
    """
    characters = [c for c in output if not c.isspace()]
    kinds = [unicodedata.category(c) for c in characters]
    letters = sum(kind[0] in "LNM" for kind in kinds)
    broken = sum(kind in ("Cc", "Co", "Cn", "Cs") or c == "\ufffd" for c, kind in zip(characters, kinds, strict=True))
    signs = len(kinds) >= 8 and letters < 0.5 * len(kinds)
    if signs or broken > 0.1 * len(kinds) or not any(kind[0] in "LN" for kind in kinds):
        return True
    words = re.findall(r"\d+(?:[.,:/-]\d+)*|\w+", output.lower())  # 1,000,000,000,000 is one word
    if re.search(r"(?<!\S)((?:\S++ ){1,8}?)\1{3}", " ".join(words) + " "):
        return True
    if re.search(r"([^\d\s]{1,4}?)\1{7}", output):  # not digits: 100000000 is a number
        return True
    return len(words) >= 8 and len(set(words)) < 0.4 * len(words)


def outcome(output: str, answer: str, *, threshold: float = 0.5) -> str:
    """One of `OUTCOMES`, by the first rule that fits:

    1. ``correct``: ROUGE-1 recall of the answer >= ``threshold``. A leak within a refusal is a leak. An article at the
       head of the answer is not asked for: "the Amazon" shares nothing with "the Nile".
    2. ``refusal``: `declined`.
    3. ``garbled``: `garbled`.
    4. ``other answer``: everything else.
    """
    core = re.sub(r"^\s*(?:the|an?)\s+(?=\w)", "", answer, flags=re.IGNORECASE)
    if rouge1_recall(output, core) >= threshold:
        return "correct"
    if declined(output):
        return "refusal"
    return "garbled" if garbled(output) else "other answer"
