"Processes as torchrun starts them, without its half minute: all know their rank, one may die."

import multiprocessing
import os
import signal
import socket
import traceback
from multiprocessing.connection import wait

import torch

from effdl_nb.checkpoints import _leave

# one process imports, all others are copies of it; optimizers import torch._dynamo, which is slow
START = multiprocessing.get_context("forkserver")
STUDY = ["effdl_nb.msunet.stages", "effdl_nb.condensation.experts"]
START.set_forkserver_preload([*STUDY, "torch._dynamo"])


def _run(rank, world, port, errors, function, arguments):
    "What one process does."
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world}
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    torch.set_num_threads(1)
    try:
        function(*arguments)
    except BaseException as error:
        errors.put(f"rank {rank}: {type(error).__name__}: {error}\n{traceback.format_exc()}")
        os._exit(1)
    _leave()


def run_ranks(function, *arguments, world=2, timeout=500) -> list[str]:
    "Call a function in `world` processes, and tell what they raised; the first to fail ends all."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    errors = START.SimpleQueue()
    job = (world, port, errors, function, arguments)
    ranks = [START.Process(target=_run, args=(rank, *job)) for rank in range(world)]
    for rank in ranks:
        rank.start()
    running = {rank.sentinel: rank for rank in ranks}
    while running:
        ended = wait(list(running), timeout)
        assert ended, "the processes wait for each other"
        for sentinel in ended:
            if running.pop(sentinel).exitcode:
                for other in running.values():
                    other.kill()
    raised = []
    while not errors.empty():
        raised.append(errors.get())
    return raised + [f"killed by {-rank.exitcode}" for rank in ranks if rank.exitcode < -1]


def die_at(step: int, rank: int):
    "A hook that kills one process before a step."

    def hook(model, at, epoch):
        if at == step and os.environ.get("RANK") == str(rank):
            os.kill(os.getpid(), signal.SIGKILL)

    return hook
