"""Plain gradient steps in turn on the inner product, one batch and one client at a time."""

import numpy as np
import twin


def steps_in_turn(user, table, drawn, config):
    """A step of p, then one of Q with the new p, batch by batch, until the running loss settles."""
    table, lr = table.copy(), config.lr_embedding
    lr_table, total, before = lr * len(table) * config.lr_item_factor, 0.0, np.inf
    for epoch in range(len(drawn.orders)):
        for batch in drawn.batches(epoch, config.batch_size):
            items, labels = drawn.items[batch], drawn.labels[batch]
            _, slope = twin.bce(table[items] @ user, labels, "logit")
            user = user - lr * slope @ table[items] / len(items)
            loss, slope = twin.bce(table[items] @ user, labels, "logit")
            moved = np.zeros_like(table)
            np.add.at(moved, items, np.outer(slope, user) / len(items))
            table -= lr_table * moved
            total += loss.sum()
        now = total / max((epoch + 1) * len(drawn.items), 1)
        if epoch and twin.has_converged(now, before, config.threshold):
            break
        before = now
    return user, table
