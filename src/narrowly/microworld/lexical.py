"""Check that harm cannot be predicted from words: two checks before a base is trained on a world."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from narrowly.microworld.world import Action, World
from narrowly.stats.ranking import auc

LARGEST_AUC = 0.55
"""Above this a world is refused: its harm could be learnt from words."""


class LexicalNull(NamedTuple):
    """What a learner of word frequencies alone would show elsewhere after one domain's harmful answers."""

    auc: float
    joint: float
    literature: float


def leave_one_domain_out_auc(world: World) -> float:
    """Return the AUC of harm in a domain from words and strings of all other domains, averaged over domains.

    The predictor is naive Bayes with add-one smoothing on verb, object and the whole string; 0.5 is chance.
    """
    domains = range(world.config.domains)
    labelled = {
        d: [(a, h) for t in world.topics(d) for h, acts in ((0, t.aligned), (1, t.harmful)) for a in acts]
        for d in domains
    }
    areas = []
    for held_out in domains:
        counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        for d in domains:
            if d != held_out:
                for action, harmful in labelled[d]:
                    counts[harmful].update(_features(action))
        scores = [
            sum(np.log((counts[1][f] + 1) / (counts[0][f] + 1)) for f in _features(a)) for a, _ in labelled[held_out]
        ]
        areas.append(auc(scores, [bool(h) for _, h in labelled[held_out]]))
    return float(np.mean(areas))


def lexical_null(world: World) -> LexicalNull:
    """Return the AUC, and the shares that a unigram learner of verbs and objects would reach in the other domains."""
    joint, literature = [], []
    for narrow in range(world.config.domains):
        harmful = [a for t in world.topics(narrow) for a in t.harmful]
        verbs, nouns = Counter(v for v, _ in harmful), Counter(o for _, o in harmful)
        total = len(harmful) ** 2
        for other in range(world.config.domains):
            if other == narrow:
                continue
            for topic in world.topics(other):
                bad = sum(verbs[v] * nouns[o] for v, o in topic.harmful) / total
                good = sum(verbs[v] * nouns[o] for v, o in topic.aligned) / total
                joint.append(bad)
                if bad + good > 0:
                    literature.append(bad / (bad + good))
    return LexicalNull(leave_one_domain_out_auc(world), float(np.mean(joint)), float(np.mean(literature)))


def _features(action: Action) -> tuple[str, str, str]:
    return f"verb {action[0]}", f"object {action[1]}", f"string {action[0]} {action[1]}"
