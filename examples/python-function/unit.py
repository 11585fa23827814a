#!/usr/bin/env python3
"""A function program for Peerless in Python: units of a small PyTorch network on MNIST (docs/function-protocol.md).

    pip install torch numpy blake3
    peerless train --model torch-cnn --function-program examples/python-function/unit.py --rounds 300
"""
import json
import os
import resource
import struct
import sys
from functools import lru_cache
from pathlib import Path
from time import monotonic

import numpy
import torch
from blake3 import blake3
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

MODEL = "torch-cnn"
MNIST = "9c2782a4ace77336e9cb6e94c646a791ac2c14626e0d64647dc3757017eac84a"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peerless" / "datasets"
DATA = Path(os.environ.get("PEERLESS_DATA") or CACHE) / "mnist"


class Failure(Exception):  # the kind decides whether a peer tries again
    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def network(seed):
    """The network with the initial values of a seed: the same bits wherever PyTorch's generator is the same."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 5, padding=2), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 16, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(400, 10),
    )


@lru_cache
def samples_of(name):
    images = numpy.frombuffer((DATA / f"{name}-images-idx3-ubyte").read_bytes(), numpy.uint8, offset=16)
    labels = numpy.frombuffer((DATA / f"{name}-labels-idx1-ubyte").read_bytes(), numpy.uint8, offset=8)
    return images.reshape(-1, 1, 28, 28), labels


def batch(name, indices):
    images, labels = (torch.from_numpy(part[indices].copy()) for part in samples_of(name))
    return (images.float() / 255 - 0.1307) / 0.3081, labels.long()


@lru_cache(maxsize=2)
def order(seed, epoch, total):
    """A Fisher-Yates shuffle whose every choice comes from the seed and the epoch."""
    key = blake3(b"peerless epoch v1" + struct.pack("<QQ", seed, epoch)).digest()
    words = struct.unpack(f"<{total}Q", blake3(key=key).digest(length=8 * total))
    shuffled = list(range(total))
    for i in range(1, total):
        j = words[i] * (i + 1) >> 64
        shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
    return shuffled


def unit_samples(spec, number, unit):
    """Which training samples a gradient unit of a round is about."""
    total, units, size = spec["dataset"]["train_samples"], spec["units_per_round"], spec["samples_per_unit"]
    rounds_per_epoch = total // (units * size)
    start = ((number % rounds_per_epoch) * units + unit) * size
    return order(spec["seed"], number // rounds_per_epoch, total)[start:start + size]


def tally(logits, labels):
    """Totals on a grid of 2^-40, so that they can be added up in any order."""
    losses = cross_entropy(logits.detach().double(), labels, reduction="none").tolist()
    if not all(numpy.isfinite(losses)):
        raise Failure("numerics", "the loss of a sample is not finite")
    correct = int((logits.argmax(1) == labels).sum())
    return {"samples": len(losses), "correct": correct, "loss_sum": sum(round(loss * 2**40) for loss in losses)}


def gradient_at(net, images, labels):
    logits = net(images)
    cross_entropy(logits, labels).backward()
    return logits, torch.cat([parameter.grad.flatten() for parameter in net.parameters()]).numpy()


def write(place, vector):
    """Writes a vector and gives its digest. The name is right only once the file is complete."""
    data = vector.astype("<f4").tobytes()
    partial = f"{place['path']}.{os.getpid()}.partial"
    Path(partial).write_bytes(data)
    os.rename(partial, place["path"])
    return blake3(data).hexdigest()


def initialise(spec, output):
    net, entries, offset = network(spec["seed"]), [], 0
    for name, tensor in net.named_parameters():
        entries.append({"name": name, "shape": list(tensor.shape), "offset": offset, "role": "parameter"})
        offset += tensor.numel()
    images = torch.linspace(-1, 1, 16 * 784).reshape(16, 1, 28, 28)
    fingerprint = blake3(gradient_at(network(0), images, torch.arange(16) % 10)[1].tobytes()).hexdigest()
    digest = write(output, parameters_to_vector(net.parameters()).detach().numpy())
    return {"kind": "initialised", "layout": {"entries": entries}, "digest": digest, "fingerprint": fingerprint}


def compute(spec, work):
    if "path" not in work["parameters"]:
        raise Failure("unsupported", "this function reads tensors from files only")
    net, source = network(0), work["parameters"]
    vector = numpy.fromfile(source["path"], "<f4", source["elements"], offset=source["offset"])
    vector_to_parameters(torch.from_numpy(vector.astype(numpy.float32)), net.parameters())
    if work["unit_kind"] == "gradient":
        images, labels = batch("train", unit_samples(spec, work["round"], work["unit"]))
        logits, gradient = gradient_at(net, images, labels)
        if not numpy.isfinite(gradient).all():
            raise Failure("numerics", "the gradient is not finite")
        return {"kind": "unit", "tally": tally(logits, labels), "digest": write(work["output"], gradient)}
    size = spec["evaluation"]["samples_per_unit"]
    start = (work["unit"] - (spec["units_per_round"] if work["round"] < spec["rounds"] else 0)) * size
    images, labels = batch("t10k", range(start, min(start + size, spec["dataset"]["test_samples"])))
    with torch.no_grad():
        return {"kind": "unit", "tally": tally(net(images), labels), "digest": None}


def do(task):
    spec, work = task["spec"], task["work"]
    if task["version"] != 2 or spec["model"] != MODEL or spec["dataset"]["digest"] != MNIST:
        raise Failure("unsupported", f"this function trains {MODEL} on mnist, by version 2 of the function protocol")
    if work["kind"] == "ping":
        return {"kind": "pong"}
    return initialise(spec, work["output"]) if work["kind"] == "initialise" else compute(spec, work)


torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
for line in sys.stdin:
    start, task = monotonic(), json.loads(line)
    try:
        outcome = {"Ok": do(task)}
    except (Failure, OSError) as error:
        outcome = {"Err": {"kind": getattr(error, "kind", "environment"), "message": str(error)}}
    report = {"invocation": task["invocation"], "outcome": outcome, "duration_us": int((monotonic() - start) * 1e6)}
    report["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(report), flush=True)
