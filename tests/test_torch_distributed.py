"""Training on two processes: DDP, FSDP1 and FSDP2 give the losses of one process that sees both batches."""

from __future__ import annotations

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from portaloss import functional

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")

X, T = torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), torch.arange(4)


class Model(torch.nn.Module):
    """A head whose weight the loss takes, which FSDP gathers and frees around it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = torch.nn.Linear(8, 8), torch.nn.Linear(8, 16, bias=False)

    def forward(self, x, t):
        return functional.linear_cross_entropy(self.body(x), self.head.weight, t)


def wrapped(kind):
    model = Model()
    if kind == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model)
    if kind == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model.body, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def train(model, x, t):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(x, t)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def work(rank, port, results):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    part = slice(2 * rank, 2 * rank + 2)
    for kind in ("ddp", "fsdp1", "fsdp2"):
        losses = train(wrapped(kind), X[part], T[part])
        dist.all_reduce(losses)
        results[kind] = (losses / 2).tolist()
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_data_parallel_training_is_that_of_one_process():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(work, (port, results), nprocs=2)
        want = train(Model(), X, T)
        assert set(results) == {"ddp", "fsdp1", "fsdp2"}
        for kind, losses in dict(results).items():
            torch.testing.assert_close(torch.tensor(losses), want, rtol=1e-5, atol=0, msg=kind)  # sums in other orders
