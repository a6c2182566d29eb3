"""Adam of a server, in NumPy."""

import numpy as np


class ServerAdam:
    """Steps along a direction, with bias correction.

    Its numbers are `lr_server`, `beta1` and `beta2` of a configuration.
    """

    def __init__(self, config, decay=0.0):
        self.config, self.mean, self.square, self.count = config, 0.0, 0.0, 0
        self.decay = decay

    def step(self, along):
        first, second = self.config.beta1, self.config.beta2
        self.count += 1
        self.mean = first * self.mean + (1 - first) * along
        self.square = second * self.square + (1 - second) * along**2
        square = self.square / (1 - second**self.count)
        mean = self.mean / (1 - first**self.count)
        return self.config.lr_server * mean / (np.sqrt(square) + 1e-8)


def moved(adam, before, tables, shares):
    """The average of tables or, where Adam is not None, what a step of it towards that makes.

    Moves are averaged, so that what nobody moved is 0 and no rounding, of which Adam would make a
    step.
    """
    average = sum(share * (table - before) for share, table in zip(shares, tables, strict=True))
    if adam is None:
        return before + average
    return before + adam.step(average - adam.decay * before)


def adam_of(config, decay=None):
    """Adam, if the server has it; else None. A table has the penalty of the configuration."""
    if config.server_optimiser == "none":
        return None
    return ServerAdam(config, config.server_decay if decay is None else decay)
