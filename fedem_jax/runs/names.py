"""The files of a run directory.

config.json         all settings; a run can be repeated from them
candidates.npz      held-out items and their candidates, as fixed by the seed
metrics.jsonl       one line of JSON per evaluated round
summary.json        headline, best test value, protocol, fingerprint, versions, device, times
per_client.parquet  each client's ranks and metrics at the best validation round (`per_client`)
curves.png          learning curves
checkpoint/         states of all parameters: the best and the last one at the end of the run, and
                    to resume from before (`fedem_jax.storage.checkpoint`)
lock                the process that uses the folder (`fedem_jax.storage.lock`)
rho.jsonl, rho.png  merging weights, if the method learns them: counts after each evaluated round
                    (`fedem_jax.evaluation.rho`), and their picture
alternatives.json, alternatives.png
                    what the clients would get without merging (`fedem_jax.runs.alternatives`), and
                    its picture
tensorboard/, wandb/, mlflow/
                    what trackers show, if `fedem train --log-to` asks for them
"""

CONFIG, CANDIDATES = "config.json", "candidates.npz"
METRICS, SUMMARY, PER_CLIENT, CURVES = (
    "metrics.jsonl", "summary.json", "per_client.parquet", "curves.png",
)  # fmt: skip
RHO, RHO_PICTURE = "rho.jsonl", "rho.png"
ALTERNATIVES, ALTERNATIVES_PICTURE = "alternatives.json", "alternatives.png"
CHECKPOINT = "checkpoint"

FILES = (
    CONFIG, METRICS, SUMMARY, CURVES, CANDIDATES, PER_CLIENT, RHO, RHO_PICTURE, ALTERNATIVES,
    ALTERNATIVES_PICTURE,
)  # fmt: skip
"""Every file that a run writes, except its checkpoints and its lock."""
