"""The processes that flags, srun and mpirun name."""

import pytest

from fedem_jax.cli.cluster import Peers, peers_of
from fedem_jax.cli.main import main
from fedem_jax.errors import UserError

HERE = "10.0.0.1:8476"


def test_flags_name_the_processes():
    assert peers_of("", -1, 0, {}) == Peers("", 0, 1)
    assert peers_of(HERE, 1, 4, {}) == Peers(HERE, 1, 4)


@pytest.mark.parametrize(
    "environ",
    [
        {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"},
        {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"},
    ],
)
def test_launchers_name_them_and_flags_come_first(environ):
    assert peers_of("", -1, 0, environ) == Peers("", 3, 4)
    assert peers_of(HERE, -1, 0, environ) == Peers(HERE, 3, 4)
    assert peers_of(HERE, 0, 2, environ) == Peers(HERE, 0, 2)


def test_a_batch_script_that_asked_for_several_tasks_is_one_process():
    alone = {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    assert not peers_of("", -1, 0, alone).several
    assert not peers_of("", -1, 0, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}).several


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((HERE, -1, 2), "give --coordinator, --process-id and --num-processes together"),
        (("", 0, 2), "give --coordinator, --process-id and --num-processes together"),
        ((HERE, 2, 2), "process_id: 2 is none of 2 processes; count from 0 to 1"),
        (("localhost", 0, 2), "coordinator: 'localhost' is no HOST:PORT"),
        (("localhost:0", 0, 2), "coordinator: 'localhost:0' is no HOST:PORT"),
    ],
)
def test_mistakes_are_named(given, sentence):
    with pytest.raises(UserError, match=sentence):
        peers_of(*given, {})


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "out: several processes write one run; give all of them the same --out."),
        (["--out", "run", "--alternatives", "yes"], "alternatives: several processes train one"),
    ],
)
def test_what_several_cannot_do_is_refused(args, sentence, capsys):
    together = ["--coordinator", HERE, "--process-id", "1", "--num-processes", "2"]
    with pytest.raises(SystemExit):
        main(["train", *args, *together])
    assert sentence in " ".join(capsys.readouterr().err.split())
