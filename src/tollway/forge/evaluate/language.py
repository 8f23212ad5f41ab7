"""Metrics of text that is written: perplexity, BLEU, chrF, exact match and token F1, and F1 over named spans.

BLEU: Papineni et al. 2002 with sacrebleu's tokenisation and smoothing (its counts, summed here so that they resample).
chrF: Popovic 2015 (character 1..6-grams, beta 2, no spaces), sacrebleu is the oracle in the tests. Exact match and token
F1: the official SQuAD rules (Rajpurkar et al. 2016), with characters as tokens for Chinese. Spans: CoNLL-2003 rules.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tollway.forge.evaluate.measures import Floats, Measure, divide, mean, of_sums

CHRF_ORDER = 6
Span = tuple[str, int, int]  # label, first token, one past the last
_HAN = re.compile(r"[㐀-䶿一-鿿豈-﫿]")


def perplexity(nll: Sequence[float], tokens: Sequence[int], text_bytes: Sequence[float]) -> list[Measure]:
    """exp(mean negative log likelihood of a token), and bits per byte, which compares models of different tokenizers."""
    stats = np.stack([np.asarray(nll, np.float64), np.asarray(tokens), np.asarray(text_bytes)], axis=1)
    return [
        of_sums(
            "perplexity", stats, lambda sums: np.exp(np.minimum(divide(sums[:, 0], sums[:, 1]), 700)), higher=False
        ),
        of_sums("bits_per_byte", stats, lambda sums: divide(sums[:, 0] / np.log(2), sums[:, 2]), higher=False),
    ]


def translation(truth: Sequence[str], given: Sequence[str]) -> list[Measure]:
    """chrF, BLEU and exact match of one reference each; Chinese is tokenised by character. BLEU goes as far as the words do:
    where no text has four, by groups of three."""
    same = [want.strip() == got.strip() for want, got in zip(truth, given, strict=True)]
    return [_chrf(truth, given), _bleu(truth, given), mean("exact_match", same)]


def _bleu(truth: Sequence[str], given: Sequence[str]) -> Measure:
    from sacrebleu.metrics.bleu import BLEU

    han = sum(bool(_HAN.search(text)) for text in truth) * 2 > len(truth)
    scorer = BLEU(tokenize="zh" if han else "13a", effective_order=True)
    stats = np.zeros((len(truth), 10))
    for at, (want, got) in enumerate(zip(truth, given, strict=True)):
        one = scorer.sentence_score(got, [want])
        stats[at] = [*one.counts, *one.totals, one.sys_len, one.ref_len]

    def combine(sums: Floats) -> Floats:
        return np.array([
            BLEU.compute_bleu(
                [int(n) for n in row[:4]], [int(n) for n in row[4:8]], int(row[8]), int(row[9]), effective_order=True
            ).score
            for row in sums
        ])  # fmt: skip

    return of_sums("bleu", stats, combine)


def _chrf(truth: Sequence[str], given: Sequence[str]) -> Measure:
    stats = np.array([_character_counts(want, got) for want, got in zip(truth, given, strict=True)], dtype=np.float64)

    def combine(sums: Floats) -> Floats:
        got, want, both = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
        precision, recall = divide(both, got, 0.0), divide(both, want, 0.0)
        counted = (got > 0) & (want > 0)
        p = divide((precision * counted).sum(axis=1), counted.sum(axis=1), 0.0)
        r = divide((recall * counted).sum(axis=1), counted.sum(axis=1), 0.0)
        return 100 * divide(5 * p * r, 4 * p + r, 0.0)

    return of_sums("chrf", stats.reshape(len(truth), 3 * CHRF_ORDER), combine)


def _character_counts(want: str, got: str) -> list[int]:
    want, got = "".join(want.split()), "".join(got.split())
    found = []
    for size in range(1, CHRF_ORDER + 1):
        ours = Counter(got[at : at + size] for at in range(len(got) - size + 1))
        theirs = Counter(want[at : at + size] for at in range(len(want) - size + 1))
        found += [sum(ours.values()), sum(theirs.values()), sum((ours & theirs).values())]
    return found


def answers(truth: Sequence[Sequence[str]], given: Sequence[str]) -> list[Measure]:
    """Token F1 and exact match, each the best over a row's accepted answers."""
    f1 = [max(token_f1(want, got) for want in wanted) for wanted, got in zip(truth, given, strict=True)]
    exact = [float(any(plain(want) == plain(got) for want in wanted)) for wanted, got in zip(truth, given, strict=True)]
    return [mean("f1", f1), mean("exact_match", exact)]


def plain(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no articles, single spaces."""
    text = "".join(char for char in text.lower() if char not in string.punctuation + "，。、；：？！“”‘’（）《》")
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def token_f1(want: str, got: str) -> float:
    """Overlap of two answers as bags of tokens."""
    ours, theirs = _tokens(got), _tokens(want)
    if not ours or not theirs:
        return float(ours == theirs)
    both = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * both / (len(ours) + len(theirs)) if both else 0.0


def _tokens(text: str) -> list[str]:
    return _HAN.sub(lambda char: f" {char.group()} ", plain(text)).split()


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Spans of BIO, IOBES or bare tags; a span also begins where its label changes (the CoNLL rule)."""
    found: list[Span] = []
    label, start = "", 0
    for at, tag in enumerate([*tags, "O"]):
        head, _, name = tag.partition("-") if tag[1:2] == "-" else ("I" if tag != "O" else "O", "", tag)
        name = "" if head == "O" else name
        if label and (name != label or head in "BSU"):
            found.append((label, start, at))
            label = ""
        if name and not label:
            label, start = name, at
        if label and head in "EL" and at < len(tags):
            found.append((label, start, at + 1))
            label = ""
    return found


def entities(truth: Sequence[Sequence[Span]], given: Sequence[Sequence[Span]]) -> list[Measure]:
    """F1, precision and recall over whole spans (label and both ends right), over all rows and per label."""
    labels = sorted({span[0] for row in [*truth, *given] for span in row})
    found = _span_measures("", truth, given)
    for label in labels:
        want = [[span for span in row if span[0] == label] for row in truth]
        got = [[span for span in row if span[0] == label] for row in given]
        found += _span_measures(f".{label}", want, got)
    return found


def _span_measures(suffix: str, truth: Sequence[Sequence[Span]], given: Sequence[Sequence[Span]]) -> list[Measure]:
    stats = np.array(
        [[len(set(want) & set(got)), len(set(got)), len(set(want))] for want, got in zip(truth, given, strict=True)],
        dtype=np.float64,
    ).reshape(len(truth), 3)
    return [
        of_sums(f"f1{suffix}", stats, lambda sums: divide(2 * sums[:, 0], sums[:, 1] + sums[:, 2], 0.0)),
        of_sums(f"precision{suffix}", stats, lambda sums: divide(sums[:, 0], sums[:, 1], 0.0)),
        of_sums(f"recall{suffix}", stats, lambda sums: divide(sums[:, 0], sums[:, 2], 0.0)),
    ]


def spans_in_tokens(entities_found: Sequence[Mapping[str, Any]], tokens: Sequence[str]) -> list[Span]:
    """Entities with character ends (in the tokens joined by a space) as spans of tokens; a half-covered token counts."""
    starts, at = [], 0
    for token in tokens:
        starts.append((at, at + len(token)))
        at += len(token) + 1
    found = []
    for one in entities_found:
        inside = [place for place, (low, high) in enumerate(starts) if low < one["end"] and high > one["start"]]
        if inside:
            found.append((str(one["label"]), inside[0], inside[-1] + 1))
    return found
