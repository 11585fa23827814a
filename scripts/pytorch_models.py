"""The models that are measured next to Peerless', in PyTorch, with the same layers and shapes."""

from torch import nn
from torch.nn import functional as F


class LeNet5(nn.Module):
    shape = (1, 28, 28)

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))


class Cnn(nn.Module):
    shape = (1, 28, 28)

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class ResNet18(nn.Module):
    """With the stem for small images."""

    shape = (3, 32, 32)

    def __init__(self):
        super().__init__()
        blocks, inputs = [], 64
        for outputs, stride in [(64, 1), (128, 2), (256, 2), (512, 2)]:
            blocks += [Residual(inputs, outputs, stride), Residual(outputs, outputs, 1)]
            inputs = outputs
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.blocks, self.fc = nn.Sequential(*blocks), nn.Linear(512, 10)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def conv_norm(inputs, outputs, kernel, stride=1, groups=1):
    norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), norm)


class Inverted(nn.Module):
    def __init__(self, inputs, kernel, expanded, outputs, excited, hard, stride):
        super().__init__()
        self.activation = F.hardswish if hard else F.relu
        self.expand = conv_norm(inputs, expanded, 1) if expanded != inputs else None
        self.depthwise = conv_norm(expanded, expanded, kernel, stride, expanded)
        self.project = conv_norm(expanded, outputs, 1)
        self.excitation = None
        if excited:
            wanted = expanded // 4
            squeezed = max((wanted + 4) // 8 * 8, 8)
            squeezed += 8 if 10 * squeezed < 9 * wanted else 0
            self.excitation = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(expanded, squeezed, 1), nn.ReLU(),
                nn.Conv2d(squeezed, expanded, 1), nn.Hardsigmoid())
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x):
        y = x if self.expand is None else self.activation(self.expand(x))
        y = self.activation(self.depthwise(y))
        if self.excitation is not None:
            y = y * self.excitation(y)
        y = self.project(y)
        return x + y if self.shortcut else y


class MobileNetV3Small(nn.Module):
    shape = (3, 32, 32)
    rows = [
        (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1), (5, 288, 96, True, True, 2),
        (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
    ]

    def __init__(self):
        super().__init__()
        blocks, inputs = [], 16
        for row in self.rows:
            blocks.append(Inverted(inputs, *row))
            inputs = row[2]
        self.stem, self.blocks, self.last = conv_norm(3, 16, 3, 2), nn.Sequential(*blocks), conv_norm(96, 576, 1)
        self.hidden, self.classifier = nn.Linear(576, 1024), nn.Linear(1024, 10)

    def forward(self, x):
        x = F.hardswish(self.last(self.blocks(F.hardswish(self.stem(x))))).mean((2, 3))
        return self.classifier(F.dropout(F.hardswish(self.hidden(x)), 0.2, self.training))


MODELS = {"lenet5": LeNet5, "cnn-1.2m": Cnn, "resnet18": ResNet18, "mobilenet-v3-small": MobileNetV3Small}
