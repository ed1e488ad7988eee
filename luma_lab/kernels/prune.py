"""Robust prune: choose few, diverse out-edges from many candidates (DiskANN, algorithm 2)."""

import numpy as np

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.distance import ONE, ZERO
from luma_lab.kernels.space import apart, are_copies, orders_by_l2, stand_at
from luma_lab.kernels.topk import key_distance, key_row

# Larger than any ratio: the candidate was kept, or may never be.
SETTLED = np.float32(np.inf)


@kernel
def robust_prune(space, node, keys, size, alpha, work, prepared, kept):
    """Choose at most len(kept) out-edges for `node` into `kept`; return how many.

    Candidates are looked at in the order of `keys`. A candidate c is occluded by a neighbor p
    kept before it when ``slack * d(p, c) < d(node, c)``, first with slack 1, then, while there
    is room, with slack `alpha`. Here d is the *squared* L2 distance as in DiskANN's own code,
    so alpha 1.2 acts like 1.095 in the paper's formula. Larger alpha keeps more edges.

    Under DOT the keys order by inner product, so that edges lead to the long vectors that
    answers are made of, but occlusion still compares L2 distances: seen from `node`, a kept
    neighbor nearer to c than `node` is improves about the same queries as c would. Pruning by
    the inner product itself would let one long vector occlude everything.

    Parameters
    ----------
    keys : int64 array
        keys[:size] ascend and differ; their distances are those to `node` in the space. `node`
        is passed over if it is among them.
    alpha : float32
        At least 1.
    work : float32 array of shape (2, size) or wider
        Scratch.
    prepared : uint8 array
        Scratch of `space.stand_at`.
    kept : int32 array
    """
    away = work[0]
    # The largest d(node, c) / d(p, c) over the kept p.
    ratios = work[1]
    probe = stand_at(space, node, prepared)
    for i in range(size):
        row = key_row(keys[i])
        ratios[i] = SETTLED if row == node else ZERO
        away[i] = key_distance(keys[i]) if orders_by_l2(space) else apart(space, probe, row)
    count = 0
    slack = ONE
    while True:
        for i in range(size):
            if ratios[i] > slack:
                continue
            row = key_row(keys[i])
            ratios[i] = SETTLED
            kept[count] = row
            count += 1
            if count == kept.shape[0]:
                return count
            probe = stand_at(space, row, prepared)
            for j in range(i + 1, size):
                if ratios[j] > alpha:
                    continue
                other = key_row(keys[j])
                between = apart(space, probe, other)
                # Equal vectors: one of them is enough here.
                ratio = SETTLED
                if between > ZERO and not are_copies(space, row, other):
                    ratio = away[j] / between
                ratios[j] = max(ratios[j], ratio)
        if slack >= alpha:
            return count
        slack = alpha
