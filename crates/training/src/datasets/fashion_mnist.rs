//! Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747): 70,000 articles of clothing, in MNIST's format.

use peerless_protocol::Digest;

use super::{Augmentation, DatasetInfo, Definition, FileDefinition, Format, Origin};

pub(super) const DEFINITION: Definition = Definition {
    info: DatasetInfo {
        name: "fashion-mnist",
        folder: "fashion-mnist",
        description: "Fashion-MNIST: 60,000 and 10,000 articles of clothing, 28x28 grey pixels",
        shape: [1, 28, 28],
        classes: 10,
        train_samples: 60_000,
        test_samples: 10_000,
        augmentation: Augmentation::None,
        digest: Digest([
            0x7f, 0x60, 0xee, 0x3f, 0x20, 0x5c, 0xd4, 0xe3, 0x35, 0x8e, 0xc6, 0x73, 0xd1, 0x3e, 0xeb, 0x0e, 0xec, 0xd1,
            0x03, 0x1a, 0x67, 0x17, 0x75, 0x29, 0xa6, 0x4b, 0x0f, 0xd5, 0x36, 0x6d, 0xbe, 0x0b,
        ]),
        bytes: 47_040_016 + 60_008 + 7_840_016 + 10_008,
    },
    format: Format::Idx(&FILES),
    mean: &[0.2860],
    deviation: &[0.3530],
    origins: &[
        Origin::Debian { package: "dataset-fashion-mnist", folder: "usr/share/datasets/fashion-mnist" },
        Origin::Mirror { url: "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion" },
    ],
};

const FILES: [FileDefinition; 4] = [
    FileDefinition {
        name: "train-images-idx3-ubyte",
        alias: "train-images.idx3-ubyte",
        bytes: 47_040_016,
        sha256: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    },
    FileDefinition {
        name: "train-labels-idx1-ubyte",
        alias: "train-labels.idx1-ubyte",
        bytes: 60_008,
        sha256: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    },
    FileDefinition {
        name: "t10k-images-idx3-ubyte",
        alias: "t10k-images.idx3-ubyte",
        bytes: 7_840_016,
        sha256: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    },
    FileDefinition {
        name: "t10k-labels-idx1-ubyte",
        alias: "t10k-labels.idx1-ubyte",
        bytes: 10_008,
        sha256: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
];
