"""Copies: equal rows, whose nodes form rings, so that from one of them all can be reached.

Of several copies, pruning keeps an edge to one: to have more is a waste. So the others would be
lost as soon as what once pointed to them is pruned again. In a ring the first edge of each copy
leads to the next one, and pruning leaves that edge alone.
"""

import numpy as np

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.graph import NO_NODE, next_copy
from luma_lab.kernels.space import are_copies, mark_of


@kernel
def put_first(neighbors, node, target):
    """Make `target` the first edge of a node; return the edge that had to go, or NO_NODE.

    Moved from the end on, so that who reads meanwhile misses none.
    """
    end = neighbors.shape[1] - 1
    for j in range(end):
        if neighbors[node, j] == target or neighbors[node, j] == NO_NODE:
            end = j
            break
    lost = neighbors[node, end]
    for j in range(end, 0, -1):
        neighbors[node, j] = neighbors[node, j - 1]
    neighbors[node, 0] = target
    return NO_NODE if lost == target else np.int64(lost)


@kernel
def hand_over(neighbors, node, target):
    """Give a node that nobody depends on an edge to `target`, which just lost one."""
    place = neighbors.shape[1] - 1
    for j in range(neighbors.shape[1]):
        if neighbors[node, j] == target:
            return
        if neighbors[node, j] == NO_NODE:
            place = j
            break
    neighbors[node, place] = target


@kernel
def join_ring(space, neighbors, copy, node):
    """Take a new node into the ring of its copy, or make one of the two."""
    following = next_copy(space, neighbors, copy)
    if following == node:
        following = NO_NODE
    put_first(neighbors, node, copy if following == NO_NODE else following)
    if following == NO_NODE:
        lost = put_first(neighbors, copy, node)
    else:
        lost = NO_NODE
        for j in range(1, neighbors.shape[1]):
            if neighbors[copy, j] == node:
                neighbors[copy, j] = following
                break
        neighbors[copy, 0] = node
    if lost != NO_NODE:
        hand_over(neighbors, node, lost)


@kernel
def link_back(space, batch, edges, neighbors):
    """Make sure that each node of a batch is pointed to, by a copy of it if there is one.

    Without a copy, and where all it points to pruned it away again, the nearest of them gives up
    its last edge, the farthest or the least needed, and the node gets that one. Returns how
    many had to.
    """
    degree = neighbors.shape[1]
    forced = 0
    for i in range(batch.shape[0]):
        node = np.int64(batch[i])
        nearest = np.int64(edges[i, 0])
        if nearest == NO_NODE:
            continue
        found = False
        copy = np.int64(NO_NODE)
        for j in range(degree):
            other = np.int64(edges[i, j])
            if other == NO_NODE:
                break
            if are_copies(space, node, other):
                copy = other
                break
            for m in range(degree):
                if neighbors[other, m] == node:
                    found = True
                    break
        # Copies that came together did not meet, and have the same neighbours.
        for j in range(degree):
            other = np.int64(neighbors[nearest, j])
            if copy != NO_NODE or other == NO_NODE:
                break
            if other != node and are_copies(space, node, other):
                copy = other
        if copy != NO_NODE and degree > 1:  # a ring must not take the only edge
            join_ring(space, neighbors, copy, node)
        elif not found:
            place = degree - 1
            for m in range(degree):
                if neighbors[nearest, m] == NO_NODE:
                    place = m
                    break
            lost = np.int64(neighbors[nearest, place])
            neighbors[nearest, place] = node
            if lost != NO_NODE:
                hand_over(neighbors, node, lost)
            forced += 1
    return forced


@kernel
def mark_rows(space, marks):
    """Write a number for each node that copies have in common, and hardly any others."""
    for node in range(marks.shape[0]):
        marks[node] = mark_of(space, node)


@kernel
def tie_rings(space, marks, order, live, neighbors):
    """Tie all `live` copies into rings; return how many nodes are in one.

    Parameters
    ----------
    marks : int64 array of shape (n,)
        From `mark_rows`.
    order : int64 array of shape (n,)
        The nodes by their marks, those of one mark ascending.
    """
    tied = 0
    start = 0
    while start < order.shape[0]:
        stop = start + 1
        while stop < order.shape[0] and marks[order[stop]] == marks[order[start]]:
            stop += 1
        first = last = np.int64(NO_NODE)
        for i in range(start, stop):
            node = order[i]
            if not live[node]:
                continue
            if first == NO_NODE:
                first = last = node
            elif are_copies(space, first, node):
                put_first(neighbors, last, node)
                last = node
                tied += 1
        if last != first:
            put_first(neighbors, last, first)
            tied += 1
        start = stop
    return tied
