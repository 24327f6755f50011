"""Losses: computed by hand, and by what must hold for any logits."""

import math

import pytest
import torch

from editunlearn_lib import losses

B, T, V = 2, 5, 7


def random_batch(seed, batch=B, length=T, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, length, V, generator=generator, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, V, (batch, length), generator=generator)
    labels[:, :2] = -100  # a prompt
    return logits, labels


def by_hand(logits, labels):
    """[(sequence, log p of a labelled token)], one loop step per token."""
    found = []
    for b in range(labels.shape[0]):
        for t in range(1, labels.shape[1]):
            if labels[b, t] != -100:
                row = logits[b, t - 1]
                found.append((b, (row[labels[b, t]] - row.exp().sum().log()).item()))
    return found


def cross_entropy(logits, labels):
    values = [log_p for _, log_p in by_hand(logits, labels)]
    return -sum(values) / len(values)


def test_a_case_on_paper():
    # position 0 gives token 1 the probability 1/4, position 1 gives token 2 the probability 1/2
    p = torch.tensor([[[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [1 / 3, 1 / 3, 1 / 3]]])
    labels = torch.tensor([[-100, 1, 2]])
    expected = (math.log(4) + math.log(2)) / 2
    assert losses.idk(p.log(), labels).item() == pytest.approx(expected)
    assert losses.ga(p.log(), labels).item() == pytest.approx(-expected)


def test_ce_is_the_mean_over_tokens_not_over_sequences():
    logits, labels = random_batch(0)
    labels[0, 3:] = -100  # one labelled token in the first sequence, three in the second
    assert losses.idk(logits, labels).item() == pytest.approx(cross_entropy(logits, labels))
    assert losses.cross_entropy(logits, labels).item() == losses.idk(logits, labels).item()
    rows = [losses.idk(logits[b : b + 1], labels[b : b + 1]).item() for b in range(B)]
    assert losses.idk(logits, labels).item() != pytest.approx(sum(rows) / B)


def test_a_label_at_position_0_and_the_last_logits_are_not_read():
    logits, labels = random_batch(1)
    before = losses.ga(logits, labels).item()
    labels[:, 0] = 3
    changed = logits.detach().clone()
    changed[:, -1] += 50 * torch.randn(V)
    assert losses.ga(changed, labels).item() == pytest.approx(before)


def test_gd_adds_the_retain_term_with_its_weight():
    (logits, labels), (retain_logits, retain_labels) = random_batch(2), random_batch(3, batch=3, length=4)
    forget, retain = cross_entropy(logits, labels), cross_entropy(retain_logits, retain_labels)
    assert losses.gd(logits, labels, retain_logits, retain_labels).item() == pytest.approx(-forget + retain)
    weighted = losses.gd(logits, labels, retain_logits, retain_labels, retain_weight=2.5)
    assert weighted.item() == pytest.approx(-forget + 2.5 * retain)


def forward_kl(new, old):
    p, q = old.softmax(-1), new.softmax(-1)
    return (p * (p / q).log()).sum().item()


def test_kl_is_forward_and_over_real_tokens_only():
    (logits, labels), (new, _), (old, _) = random_batch(4), random_batch(5), random_batch(6)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])
    real = [forward_kl(new[b, t], old[b, t]) for b in range(B) for t in range(T) if mask[b, t]]
    every = [forward_kl(new[b, t], old[b, t]) for b in range(B) for t in range(T)]
    forget = cross_entropy(logits, labels)
    assert losses.kl(logits, labels, new, old, mask).item() == pytest.approx(-forget + sum(real) / 7)
    assert losses.kl(logits, labels, new, old, mask.bool()).item() == pytest.approx(-forget + sum(real) / 7)
    assert losses.kl(logits, labels, new, old, mask, kl_over="all").item() == pytest.approx(-forget + sum(every) / 10)
    half = losses.kl(logits, labels, new, old, mask, retain_weight=0.5)
    assert half.item() == pytest.approx(-forget + sum(real) / 14)


def test_kl_ignores_what_stands_in_padding():
    (logits, labels), (new, _), (old, _) = random_batch(4), random_batch(5), random_batch(6)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    before = losses.kl(logits, labels, new, old, mask)
    spoilt = new.detach().clone()
    spoilt[0, 3:] = 100 * torch.randn(2, V)
    assert losses.kl(logits, labels, spoilt, old, mask).item() == pytest.approx(before.item())
    before.backward()
    assert new.grad[0, 3:].abs().max() == 0 and new.grad[0, :3].abs().min() > 0


def test_kl_of_a_model_with_itself_is_nothing():
    (logits, labels), (same, _) = random_batch(7), random_batch(8)
    mask = torch.ones(B, T)
    assert losses.kl(logits, labels, same, same, mask).item() == pytest.approx(losses.ga(logits, labels).item())


def test_dpo_sums_log_probabilities_per_sequence():
    (answer, answer_labels), (refusal, refusal_labels) = random_batch(9), random_batch(10, length=6)
    (old_answer, _), (old_refusal, _) = random_batch(11), random_batch(12, length=6)

    def total(logits, labels, b):
        return sum(log_p for row, log_p in by_hand(logits, labels) if row == b)

    terms = []
    for b in range(B):
        new = total(refusal, refusal_labels, b) - total(answer, answer_labels, b)
        old = total(old_refusal, refusal_labels, b) - total(old_answer, answer_labels, b)
        terms.append(math.log(1 + math.exp(-0.3 * (new - old))))
    loss = losses.dpo(answer, answer_labels, refusal, refusal_labels, old_answer, old_refusal, beta=0.3)
    assert loss.item() == pytest.approx(sum(terms) / B)
    default = losses.dpo(answer, answer_labels, refusal, refusal_labels, old_answer, old_refusal)
    explicit = losses.dpo(answer, answer_labels, refusal, refusal_labels, old_answer, old_refusal, 0.1)
    assert default.item() == explicit.item()


def test_log_probability_is_a_sum_for_each_sequence():
    logits, labels = random_batch(0)
    labels[0, 3:] = -100
    totals = [sum(log_p for row, log_p in by_hand(logits, labels) if row == b) for b in range(B)]
    assert losses.log_probability(logits, labels).tolist() == pytest.approx(totals)
    with pytest.raises(ValueError, match=r"x_logits: the sequences \[0\]"):
        losses.log_probability(logits, torch.cat([torch.full_like(labels[:1], -100), labels[1:]]), name="x_")


def test_dpo_starts_at_log_2_and_prefers_the_refusal():
    (answer, answer_labels), (refusal, refusal_labels) = random_batch(13), random_batch(14)
    loss = losses.dpo(answer, answer_labels, refusal, refusal_labels, answer, refusal)
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    better = losses.dpo(answer - answer.grad, answer_labels, refusal - refusal.grad, refusal_labels, answer, refusal)
    assert better.item() < loss.item()
    old, new = (losses.log_probability(x, refusal_labels) for x in (refusal, refusal - refusal.grad))
    assert (new > old).all()


def all_losses(dtype=torch.float64):
    """Each loss on random logits: (name, scalar, the logits that are trained)."""
    (f, fl), (r, rl), (ref, _) = (random_batch(seed, dtype=dtype) for seed in (20, 21, 22))
    (old_f, _), mask = random_batch(23, dtype=dtype), torch.ones(B, T)
    return [
        ("idk", losses.idk(f, fl), (f,), ()),
        ("ga", losses.ga(f, fl), (f,), ()),
        ("gd", losses.gd(f, fl, r, rl), (f, r), ()),
        ("kl", losses.kl(f, fl, r, ref, mask), (f, r), (ref,)),
        ("dpo", losses.dpo(f, fl, r, rl, old_f, ref), (f, r), (old_f, ref)),
    ]


@pytest.mark.parametrize("number", range(5), ids=["idk", "ga", "gd", "kl", "dpo"])
def test_scalar_with_a_gradient_and_none_for_the_reference(number):
    _, loss, trained, fixed = all_losses()[number]
    assert loss.ndim == 0 and torch.isfinite(loss)
    loss.backward()
    for logits in trained:
        assert torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0
    assert all(logits.grad is None for logits in fixed)


@pytest.mark.parametrize("number", range(5), ids=["idk", "ga", "gd", "kl", "dpo"])
def test_half_precision_logits_are_computed_in_float32(number):
    name, loss, trained, _ = all_losses(torch.bfloat16)[number]
    assert loss.dtype == torch.float32, name
    loss.backward()
    assert trained[0].grad.dtype == torch.bfloat16


def test_a_large_logit_does_not_overflow():
    logits, labels = torch.zeros(1, 2, V), torch.tensor([[-100, 3]])
    logits[0, 0, 0] = 1e4
    assert losses.idk(logits, labels).item() == pytest.approx(1e4)


def test_nothing_labelled_is_an_error():
    logits, labels = random_batch(30)
    none = torch.full_like(labels, -100)
    first_only = none.clone()
    first_only[:, 0] = 2  # nothing scores the first token
    for bad in (none, first_only):
        with pytest.raises(ValueError, match="no labelled token"):
            losses.ga(logits, bad)
    with pytest.raises(ValueError, match="retain_labels hold no labelled token"):
        losses.gd(logits, labels, logits, none)
    with pytest.raises(ValueError, match="no real token"):
        losses.kl(logits, labels, logits, logits, torch.zeros(B, T))
    one_empty = labels.clone()
    one_empty[1] = -100
    with pytest.raises(ValueError, match=r"sequences \[1\] have no labelled token"):
        losses.dpo(logits, one_empty, logits, labels, logits, logits)


def test_shapes_that_do_not_fit_are_errors():
    logits, labels = random_batch(31)
    mask = torch.ones(B, T)
    with pytest.raises(ValueError, match=r"labels \(2, 4\)"):
        losses.idk(logits, labels[:, 1:])
    with pytest.raises(ValueError, match=r"must be \(B, T, V\)"):
        losses.ga(logits[0], labels[0])
    with pytest.raises(ValueError, match="retain_reference_logits"):
        losses.kl(logits, labels, logits, logits[:, 1:], mask)
    with pytest.raises(ValueError, match="retain_mask"):
        losses.kl(logits, labels, logits, logits, mask[:, 1:])
    with pytest.raises(ValueError, match="'real' or 'all'"):
        losses.kl(logits, labels, logits, logits, mask, kl_over="padding")
    with pytest.raises(ValueError, match="pair row by row"):
        losses.dpo(logits, labels, logits[:1], labels[:1], logits, logits[:1])
    with pytest.raises(ValueError, match="reference_answer_logits"):
        losses.dpo(logits, labels, logits, labels, logits[:, 1:], logits)
