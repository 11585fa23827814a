#!/usr/bin/env python3
"""Writes layers.json: the results of PyTorch's layers and their gradients (made with 2.15.0, CPU, in float64).

    python make_layers.py

Each case describes a layer and holds its output and the gradients of sum(output * factors) at its inputs and
parameters. Inputs, parameters and factors are those of `numbers` below, which tests/layer_gradients.rs computes again,
so that only results have to be stored. They are exact to the 9 digits kept, which tell any two f32 apart.
"""

import json
import pathlib

import numpy
import torch
from torch.nn import functional

# Which numbers are used for what; the same in layer_gradients.rs.
SEEDS = {"weight": 1, "input": 2, "bias": 3, "factors": 4, "other": 5, "mean": 6, "variance": 7}


def numbers(count, seed):
    """As `numbers` in tests/common: between -1 and 1, each a multiple of 2^-23."""

    def mix(x):
        x = (x ^ (x >> numpy.uint32(16))) * numpy.uint32(0x45D9F3B)
        return (x ^ (x >> numpy.uint32(15))) * numpy.uint32(0x2C1B3C6D)

    x = mix(mix(numpy.arange(count, dtype=numpy.uint32)) ^ numpy.uint32(seed))
    return (x >> numpy.uint32(8)).astype(numpy.float64) / (1 << 23) - 1.0


def tensor(name, shape):
    values = numbers(int(numpy.prod(shape)), SEEDS[name])
    return torch.from_numpy(values.reshape(shape)).requires_grad_()


def given(case):
    """The input, stretched, or in whole steps so that many values are the same."""
    values = tensor("input", case["shape"]).detach()
    if "steps" in case:
        values = (values * case["steps"]).floor()
    return (values * case.get("times", 1)).requires_grad_()


def results(output, **leaves):
    """Output, and gradients at what it was made from."""
    (output * tensor("factors", output.shape).detach()).sum().backward()
    return {"output": output} | {f"gradient at the {name}": leaf.grad for name, leaf in leaves.items()}


def with_bias(case, count):
    return {"bias": tensor("bias", [count])} if case["bias"] else {}


def conv2d(case):
    inputs, outputs = case["shape"][1], case["outputs"]
    x, weight = given(case), tensor("weight", [outputs, inputs // case["groups"], *case["kernel"]])
    bias = with_bias(case, outputs)
    padded, padding = x, 0
    if case["padding"] == "same":
        padding = "same"
    else:
        top, left, bottom, right = case["padding"]
        padded = functional.pad(x, (left, right, top, bottom))
    y = functional.conv2d(
        padded, weight, bias.get("bias"), case["stride"], padding, case["dilation"], case["groups"]
    )
    return results(functional.relu(y) if case["relu"] else y, input=x, weight=weight, **bias)


def linear(case):
    x, weight = given(case), tensor("weight", [case["shape"][1], case["outputs"]])
    bias = with_bias(case, case["outputs"])
    y = functional.linear(x, weight.t(), bias.get("bias"))
    return results(functional.relu(y) if case["relu"] else y, input=x, weight=weight, **bias)


def max_pool2d(case):
    x = given(case)
    y = functional.max_pool2d(
        x, case["kernel"], case["stride"], case["padding"], case["dilation"], case["ceil_mode"]
    )
    return results(functional.relu(y) if case["relu"] else y, input=x)


def avg_pool2d(case):
    x = given(case)
    return results(functional.avg_pool2d(x, case["kernel"], case["stride"]), input=x)


def adaptive_avg_pool2d(case):
    x = given(case)
    return results(functional.adaptive_avg_pool2d(x, case["size"]), input=x)


def global_average(case):
    x = given(case)
    return results(x.mean((2, 3)), input=x)


def scale_channels(case):
    x, other = given(case), tensor("other", case["shape"][:2])
    return results(x * other[:, :, None, None], input=x, other=other)


def batch_norm(case):
    channels = case["shape"][1]
    x, weight, bias = given(case), tensor("weight", [channels]), tensor("bias", [channels])
    mean, variance = tensor("mean", [channels]).detach(), tensor("variance", [channels]).detach() + 1.5
    other = {"other": tensor("other", case["shape"])} if case["residual"] else {}
    y = functional.batch_norm(
        x, mean, variance, weight, bias, case["training"], case["momentum"], case["epsilon"]
    )
    y = y + other["other"] if other else y
    y = functional.relu(y) if case["relu"] else y
    if not case["training"]:
        return {"output": y}
    running = {"running mean": mean, "running variance": variance}
    return results(y, input=x, weight=weight, bias=bias, **other) | running


def relu(case):
    x = given(case)
    return results(functional.relu(x), input=x)


def hard_sigmoid(case):
    x = given(case)
    return results(functional.hardsigmoid(x), input=x)


def hard_swish(case):
    x = given(case)
    return results(functional.hardswish(x), input=x)


def concatenation(case):
    """Of channels."""
    batch, _, *size = case["shape"]
    x, other = given(case), tensor("other", [batch, case["channels"], *size])
    return results(torch.cat([x, other], 1), input=x, other=other)


def flatten(case):
    x = given(case)
    return results(x.flatten(1), input=x)


CONV = {
    "shape": [1, 2, 5, 4], "outputs": 3, "kernel": [3, 2], "stride": [1, 1], "padding": [0, 0, 0, 0],
    "dilation": [1, 1], "groups": 1, "bias": True, "relu": False,
}  # fmt: skip

# Few channels, and many, at which the gradient is computed in another way; channels by themselves; groups, which the
# tensor library computes.
KINDS = (
    {},
    {"shape": [1, 16, 5, 3], "outputs": 2},
    {"outputs": 2, "groups": 2},
    {"shape": [1, 4, 5, 4], "outputs": 2, "groups": 2},
)


def convolutions():
    for stride in (1, 2, 3):
        for padding in (0, 1, 2):
            # Every pair of stride, padding and dilation.
            dilation = 1 + (stride + padding) % 2
            case = CONV | {"stride": [stride] * 2, "padding": [padding] * 4, "dilation": [dilation] * 2}
            yield from (case | kind for kind in KINDS)
    yield CONV | {"shape": [1, 3, 1, 1], "kernel": [1, 1]}
    yield CONV | {"shape": [3, 1, 1, 1], "outputs": 1, "kernel": [3, 3], "padding": [1] * 4}
    yield CONV | {"shape": [1, 1, 1, 2], "outputs": 70, "kernel": [1, 1]}
    yield CONV | {"shape": [2, 3, 5, 4], "kernel": [1, 1], "stride": [2, 2], "bias": False}
    yield CONV | {"shape": [1, 17, 4, 3], "outputs": 5, "kernel": [1, 1], "stride": [3, 2]}
    yield CONV | {"shape": [2, 3, 5, 6], "kernel": [2, 5], "padding": [1, 0, 0, 2], "relu": True}
    yield CONV | {"shape": [2, 16, 3, 3], "outputs": 1, "kernel": [3, 3], "padding": [1] * 4, "stride": [2, 2]}
    yield CONV | {"shape": [1, 17, 3, 4], "outputs": 2, "kernel": [2, 3], "padding": [1, 0, 0, 2], "stride": [2, 3]}
    yield CONV | {"shape": [1, 3, 6, 3], "dilation": [2, 1], "relu": True}
    yield CONV | {"shape": [2, 3, 6, 5], "outputs": 3, "groups": 3, "kernel": [4, 1], "stride": [1, 2],
                  "dilation": [1, 2], "padding": [0, 1, 3, 0], "bias": False}  # fmt: skip
    yield CONV | {"shape": [2, 3, 4, 5], "kernel": [3, 5], "padding": "same"}
    for kind in KINDS:
        yield CONV | kind | {"stride": [2, 1], "padding": [1, 0, 1, 0], "relu": True}
    # One input channel for two outputs each: not by itself any more.
    yield CONV | {"shape": [2, 2, 4, 3], "outputs": 4, "groups": 2}
    # More windows than one chain of sums takes, and more terms than one block.
    yield CONV | {"shape": [1, 1, 13, 9], "outputs": 1, "kernel": [3, 3], "padding": [4] * 4}
    yield CONV | {"shape": [1, 2, 13, 9], "outputs": 2, "groups": 2, "kernel": [3, 3], "padding": [4] * 4}
    yield CONV | {"shape": [1, 44, 2, 1], "outputs": 1, "kernel": [3, 3], "padding": [1] * 4}


def linears():
    for rows, inputs, outputs, bias, rectified in (
        (1, 1, 1, True, False), (5, 7, 3, True, True), (3, 1, 9, False, False), (1, 9, 33, True, False),
        (260, 1, 1, True, False),
    ):  # fmt: skip
        yield {"shape": [rows, inputs], "outputs": outputs, "bias": bias, "relu": rectified}


def max_pools():
    pool = {"shape": [1, 2, 7, 5], "kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "dilation": [1, 1],
            "ceil_mode": False, "relu": False}  # fmt: skip
    same = {"shape": [1, 2, 6, 7], "steps": 2}
    for case in (
        {"shape": [2, 2, 7, 5]},
        {"kernel": [3, 3], "padding": [1, 1]},
        {"relu": True},
        {"stride": [3, 1], "dilation": [2, 2], "relu": True},
        {"kernel": [3, 3], "ceil_mode": True},
        {"kernel": [3, 2], "stride": [1, 3], "padding": [1, 1], "ceil_mode": True},
        {"stride": [3, 1], "dilation": [2, 3]},
        {"kernel": [3, 2], "padding": [1, 0], "dilation": [2, 2]},
        {"shape": [1, 17, 3, 3], "kernel": [3, 3], "stride": [1, 1]},
        {"shape": [3, 1, 1, 1], "kernel": [1, 1]},
        same,
        same | {"relu": True},
        same | {"kernel": [3, 3], "padding": [1, 1]},
        same | {"kernel": [3, 3], "stride": [1, 1], "dilation": [2, 2]},
    ):
        yield pool | case


def batch_norms():
    norm = {"shape": [2, 3, 5, 3], "momentum": 0.1, "epsilon": 1e-5, "relu": False, "residual": False,
            "training": True}  # fmt: skip
    for rectified in (False, True):
        yield norm | {"relu": rectified}
        yield norm | {"relu": rectified, "momentum": 0.3, "epsilon": 1e-3, "shape": [1, 17, 1, 3]}
        yield norm | {"relu": rectified, "training": False}
    yield norm | {"shape": [3, 2, 1, 1], "relu": True}
    # More rows than one chain of sums takes.
    yield norm | {"shape": [2, 1, 13, 10]}
    yield norm | {"residual": True, "relu": True}
    yield norm | {"residual": True, "relu": True, "training": False}
    yield norm | {"residual": True, "relu": True, "shape": [1, 17, 1, 3]}


def shapes(*shapes, **more):
    return [{"shape": list(shape)} | more for shape in shapes]


CASES = {
    conv2d: convolutions(),
    linear: linears(),
    max_pool2d: max_pools(),
    avg_pool2d: shapes((2, 3, 5, 7), (1, 2, 4, 2), (1, 1, 2, 3), kernel=[2, 2], stride=[2, 2]),
    adaptive_avg_pool2d: shapes((2, 1, 1, 1), (1, 1, 7, 7), (1, 2, 9, 8), size=[7, 7]),
    global_average: shapes((3, 3, 5, 4), (1, 1, 1, 1), (2, 17, 1, 3)),
    scale_channels: shapes((2, 3, 5, 4), (1, 1, 1, 1), (1, 17, 1, 3)),
    batch_norm: batch_norms(),
    relu: shapes((2, 3, 3, 2), steps=4),
    hard_sigmoid: shapes((1, 3, 5, 3), times=4),
    hard_swish: shapes((1, 3, 5, 3), times=4),
    concatenation: shapes((2, 3, 3, 2), (1, 1, 1, 1), channels=2),
    flatten: shapes((2, 3, 3, 2)),
}


def text(case, found):
    """A line for the case, and one for each of its results."""
    lines = []
    for name, values in found.items():
        digits = ",".join(f"{value:.9g}" for value in values.detach().flatten().tolist())
        lines.append(f"  {json.dumps(name)}: [{digits}]")
    return json.dumps(case)[:-1] + ', "values": {\n' + ",\n".join(lines) + "}}"


def main():
    cases = [({"layer": layer.__name__} | case, layer(case)) for layer, cases in CASES.items() for case in cases]
    body = ",\n".join(text(case, found) for case, found in cases)
    version = torch.__version__.partition("+")[0]
    path = pathlib.Path(__file__).with_name("layers.json")
    path.write_text(f'{{"pytorch": "{version}", "cases": [\n{body}\n]}}\n')
    values = sum(value.numel() for _, found in cases for value in found.values())
    print(f"{len(cases)} cases, {values} values, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
