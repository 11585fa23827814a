#!/usr/bin/env python3
"""Writes the reference outputs of this folder with PyTorch and torchvision (made with 2.15.0 and 0.29.2, CPU).

    python make.py

Each file holds the names and shapes of a model's tensors, and its logits for weights and images that `values` below
gives; tests/reference.rs computes the same weights and images, so that neither has to be stored.
"""

import json
import pathlib
import zlib

import numpy
import torch
import torchvision.models


def uniform(name, count):
    """`count` values in [0, 1), from 2^24 evenly spaced ones: a hash of the index with the name's CRC-32."""
    x = numpy.arange(count, dtype=numpy.uint32) * numpy.uint32(2654435761) + numpy.uint32(zlib.crc32(name.encode()))
    for _ in range(2):
        x ^= x >> numpy.uint32(16)
        x *= numpy.uint32(0x45D9F3B)
    x ^= x >> numpy.uint32(16)
    return (x >> numpy.uint32(8)).astype(numpy.float32) / numpy.float32(1 << 24)


def values(name, shape):
    """Weights that keep signals of order one, and statistics that matter."""
    count = int(numpy.prod(shape))
    u = uniform(name, count)
    if name.endswith("running_var"):
        v = numpy.float32(0.75) + numpy.float32(0.5) * u
    elif len(shape) > 1:
        fan_in = count // shape[0]
        v = (u - numpy.float32(0.5)) * numpy.float32(2 * numpy.sqrt(6 / fan_in))
    elif name.endswith("weight"):
        v = numpy.float32(0.9) + numpy.float32(0.2) * u
    else:
        v = (u - numpy.float32(0.5)) * numpy.float32(0.2)
    return torch.from_numpy(v.astype(numpy.float32).reshape(shape))


def small_stem(model):
    """ResNet as its authors trained it on CIFAR-10: a 3x3 stem of stride 1, no pooling behind it."""
    model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool = torch.nn.Identity()
    return model


MODELS = {
    "squeezenet1.1": torchvision.models.squeezenet1_1,
    "mobilenet-v3-small": torchvision.models.mobilenet_v3_small,
    "resnet18": torchvision.models.resnet18,
    "densenet121": torchvision.models.densenet121,
    "vgg11": torchvision.models.vgg11,
}


def write(name, side, classes, images):
    model = MODELS[name](num_classes=classes)
    if name == "resnet18" and side < 64:
        model = small_stem(model)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    model.load_state_dict({key: values(key, value.shape) for key, value in state.items()}, strict=False)
    batch = torch.from_numpy((uniform("images", images * 3 * side * side) * 2 - 1).reshape(images, 3, side, side))
    with torch.no_grad():
        logits = model.eval()(batch)
    tensors = [[key, list(value.shape)] for key, value in state.items()]
    reference = {
        "model": name,
        "input": [3, side, side],
        "classes": classes,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "images": images,
        "logits": [[float(f"{value:.7g}") for value in row] for row in logits.tolist()],
    }
    lines = ",\n".join(json.dumps(tensor) for tensor in tensors)
    text = json.dumps(reference)[:-1] + ', "tensors": [\n' + lines + "\n]}\n"
    pathlib.Path(__file__).with_name(f"{name}-{side}.json").write_text(text)
    print(name, side, reference["parameters"], logits[0][:4].tolist())


if __name__ == "__main__":
    torch.manual_seed(0)
    for name in MODELS:
        write(name, 32, 10, 2)
    for name in MODELS:
        if name != "vgg11":
            write(name, 224, 1000, 1)
