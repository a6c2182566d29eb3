"""Prints what questions are answered on one device and on eight, as JSON. Its arguments name them.

A process of its own, since the others have two devices.
"""

import json
import sys
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from lab import config_of
from toy import small_federation

import fedem_jax as fj
from fedem_jax.core.algorithm import State
from fedem_jax.core.size_classes import ClientLoad, lay_out
from fedem_jax.runs.export import parameters
from fedem_jax.runs.placement import Places, by_name, on_devices
from fedem_jax.server.shares import aggregate_shares, shares_of, signatures

jax.config.update("jax_num_cpu_devices", 8)  # before JAX first computes

FEDERATION = small_federation("leak-free", 11)
FEW = {"rounds": 2, "top_k": 3, "local_epochs": 1}
FEDMF = config_of("fedmf", **FEW)
WAITING = config_of("fedem", aggregation_fraction=1.0, client_fraction=1.0)
FEDEM = config_of("fedem", merging="once", adapter_widths=(2,), **FEW)


def sweep():
    table = fj.sweep(FEDMF, "lr_embedding=0.01,0.03", FEDERATION, width=2).trials
    return table.filter(regex="hr@|ndcg@|loss")


def comparison():
    few = {"local_epochs": 1, "top_k": 3, "dim": 4, "size_classes": 1}
    return fj.compare(["fedmf"], FEDERATION, seeds=1, rounds=2, **few).table.filter(regex="hr|ndcg")


def bottleneck():
    study = fj.bottleneck(FEDEM, FEDERATION, alone=2)
    return study.rounds.drop(columns=["round", "client"])


def recommend():
    return result().recommend(k=3)[["item", "score"]].astype(float)


def newcomer():
    return result().recommend_new(FEDERATION.item_ids[:5], k=4)[["item", "score"]].astype(float)


def evaluate():
    return np.array([[*metrics.values()] for metrics in result().evaluate(3).values()])


def server_step():
    """Bytes that a device needs to weigh the tables of all clients by similarity."""
    load = ClientLoad.of(FEDERATION, 2, 16)
    layout = lay_out(FEDERATION, load, devices=jax.devices(), num_classes=1, block=1)
    layout = layout._replace(num_items=600)
    number = layout.num_clients

    def step(held, weights, before):
        uploads = shares_of(layout, held, jnp.arange(number))
        signature = signatures(layout, uploads, number)
        return signature, aggregate_shares(layout, weights, uploads, before)

    held = jnp.zeros((layout.padded, 600, 8), device=layout.sharded())
    weights, before = jnp.zeros((number, number)), jnp.zeros((number, 600, 8))
    program = jax.jit(step, donate_argnums=2).lower(held, weights, before).compile()
    return program.memory_analysis().temp_size_in_bytes


def servers_tables():
    """Bytes of the tables that wait for clients, on one device."""
    simulation = fj.Simulation(WAITING, FEDERATION)
    rows = jax.tree.leaves(simulation.init().server.items)[0]
    (of_device, *_) = {part.data.nbytes for part in rows.addressable_shards}
    assert of_device == simulation.memory.server
    return of_device


def waiting():
    """Tables that wait for six clients on one device, brought here, to three devices and back."""
    draw, tables = np.random.default_rng(0), FEDERATION.num_clients
    one = fj.Simulation(WAITING, FEDERATION, DEVICES[:1])
    state = one.init()
    items = jnp.float32(draw.normal(size=(tables, *state.server.items.shape[1:])))
    slot = jnp.int32([4, -1, 0, 1, -1, 3, 2, -1, -1, -1, 5])
    state = State(state.clients._replace(slot=slot), state.server._replace(items=items))
    for devices in (jax.devices(), DEVICES[:3], jax.devices()):
        other = fj.Simulation(WAITING, FEDERATION, devices)
        places, args = Places.of(one.layout), (other.init(), other.layout, other.algorithm)
        one, state = other, on_devices(by_name(state), places, *args)
    named = parameters(one, state)
    slot = named["clients.slot"]
    return np.where(slot[:, None, None] >= 0, named["server.items"][slot], 0)


@cache
def result_on(number):
    done = fj.run(FEDMF, FEDERATION)
    assert done.layout.mesh.size == number
    return done


def result():
    return result_on(len(jax.devices()))


if __name__ == "__main__":
    answers, DEVICES = {}, jax.devices()
    assert len(DEVICES) == 8
    for number in (1, 8):
        jax.devices = lambda *_, number=number: DEVICES[:number]
        answers[number] = {name: np.asarray(globals()[name]()).tolist() for name in sys.argv[1:]}
    print(json.dumps(answers))
