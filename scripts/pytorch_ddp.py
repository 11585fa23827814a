"""One process of a training with PyTorch's DistributedDataParallel over gloo; scripts/bench-pytorch-ddp starts them.

usage: pytorch_ddp.py JOB RANK

JOB is a file of JSON: `spec`, the spec of a run as `peerless runs show --json` has it, which is trained with the same
global batch, optimizer, learning rates, evaluations and end; `data`, the folder with MNIST's files; `processes`, their
number; `rendezvous`, a file that does not exist, by which they find each other; `channels_last`, whether weights and
images are laid out so. Rank 0 prints one line of JSON.

No time is lost to loading: images stay in memory as bytes, and a batch is taken from them by index and normalised as
a whole. Gradients are views into the bucket that is summed. An epoch's order is drawn from the seed; samples left over
by its last incomplete batch are skipped.
"""

import datetime
import json
import math
import os
import sys
import time

import torch
from torch import distributed
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from pytorch_models import MODELS

# MNIST's, over its training set.
MEAN, DEVIATION = 0.1307, 0.3081
# Images that are evaluated together. More than this leave the core's cache.
EVALUATION_BATCH = 250
# After which a process gives up on the other ones.
PATIENCE = datetime.timedelta(minutes=5)


def read_split(folder, name, shape):
    """Images (as bytes) and labels of `train` or `t10k`."""

    def read(kind, header):
        with open(os.path.join(folder, f"{name}-{kind}-ubyte"), "rb") as file:
            return torch.frombuffer(bytearray(file.read()), dtype=torch.uint8, offset=header)

    return read("images-idx3", 16).view(-1, *shape), read("labels-idx1", 8).long()


def normalised(images):
    return images.float().div_(255).sub_(MEAN).div_(DEVIATION)


def learning_rate(rate, round):
    """The learning rate of a round, counted from 0: linear warm-up, then half a cosine."""
    cosine, warm_up = rate["schedule"]["cosine"], rate["warm_up_rounds"]
    risen = min((round + 1) / warm_up, 1) if warm_up else 1
    done = max(round - warm_up, 0) / max(cosine["total_rounds"] - warm_up, 1)
    least = cosine["minimum_fraction"]
    return rate["base"] * risen * (least + (1 - least) * 0.5 * (1 + math.cos(math.pi * min(done, 1))))


class Training:
    def __init__(self, job, rank):
        spec = job["spec"]
        self.spec, self.rank, self.processes = spec, rank, job["processes"]
        torch.manual_seed(spec["seed"])
        model = MODELS[spec["model"]]()
        if job["channels_last"]:
            model = model.to(memory_format=torch.channels_last)
        self.train, self.test = (read_split(job["data"], name, model.shape) for name in ("train", "t10k"))
        self.model = DistributedDataParallel(model, gradient_as_bucket_view=True)
        momentum = spec["optimizer"]["momentum"]
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=spec["learning_rate"]["base"], momentum=momentum["momentum"],
            nesterov=momentum["nesterov"], weight_decay=momentum["weight_decay"])
        self.order = torch.Generator().manual_seed(spec["seed"])
        self.epoch = []

    def batch(self):
        """This process' part of the next batch."""
        if not self.epoch:
            together = self.spec["units_per_round"] * self.spec["samples_per_unit"]
            order = torch.randperm(len(self.train[0]), generator=self.order)
            # In the order in which they are popped.
            self.epoch = list(reversed(order.split(together)[: len(order) // together]))
        samples = self.epoch.pop().chunk(self.processes)[self.rank]
        images, labels = self.train
        return normalised(images[samples]), labels[samples]

    def step(self, round):
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.spec["learning_rate"], round)
        images, labels = self.batch()
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.model(images), labels).backward()
        self.optimizer.step()

    @torch.inference_mode()
    def evaluate(self):
        """Test samples that are predicted right; each process looks at its part of them."""
        images, labels = (part.chunk(self.processes)[self.rank] for part in self.test)
        correct = torch.zeros((), dtype=torch.long)
        for some, right in zip(images.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH)):
            correct += (self.model.module(normalised(some)).argmax(1) == right).sum()
        distributed.all_reduce(correct)
        return correct.item()

    def run(self):
        """When each round ended, in seconds since the Unix epoch, with what its evaluation counted or None.

        A round evaluates the state that it begins with if it has to; the last one does nothing else.
        """
        rounds, every, enough = self.spec["rounds"], self.spec["evaluation"]["every_rounds"], self.spec["until_correct"]
        ends = []
        for round in range(rounds + 1):
            last = round == rounds
            correct = self.evaluate() if last or (round > 0 and round % every == 0) else None
            last = last or (enough is not None and correct is not None and correct >= enough)
            if not last:
                self.step(round)
            ends.append((round, time.time(), correct))
            if last:
                return ends


def main():
    with open(sys.argv[1]) as file:
        job = json.load(file)
    rank = int(sys.argv[2])
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{job['rendezvous']}", rank=rank, world_size=job["processes"], timeout=PATIENCE)
    ends = Training(job, rank).run()
    if rank == 0:
        print(json.dumps({"ends": ends, "version": torch.__version__,
                          "instructions": torch.backends.cpu.get_cpu_capability()}))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
