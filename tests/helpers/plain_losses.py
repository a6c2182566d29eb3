"""Losses of a batch in float64, sample by sample, each with its gradient by the logits."""

import numpy as np


def plain_softmax(logit, label):
    """Minus the log of the softmax of a positive among all negatives, mean over the positives."""
    positives, negatives = np.flatnonzero(label > 0), np.flatnonzero(label <= 0)
    loss, slope = 0.0, np.zeros(len(logit))
    for p in positives if len(negatives) else ():
        together = np.append(negatives, p)
        share = np.exp(logit[together]) / np.exp(logit[together]).sum()
        loss -= np.log(share[-1]) / len(positives)
        slope[together] += share / len(positives)
        slope[p] -= 1 / len(positives)
    return loss, slope


def plain_bpr(logit, label):
    """-log s(z_p - z_n), mean over all pairs of a positive and a negative."""
    positives, negatives = np.flatnonzero(label > 0), np.flatnonzero(label <= 0)
    loss, slope, pairs = 0.0, np.zeros(len(logit)), len(positives) * len(negatives)
    for p in positives:
        for n in negatives:
            wrong = 1 / (1 + np.exp(logit[p] - logit[n]))
            loss -= np.log1p(-wrong) / pairs
            slope[p] -= wrong / pairs
            slope[n] += wrong / pairs
    return loss, slope


PLAIN = {"softmax": plain_softmax, "bpr": plain_bpr}
