//! Where the gradients of a peer's own units are kept and summed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerless_protocol::{Digest, UnitSet};

use super::SumsError;
use crate::error::AtPath;
use crate::files;
use crate::payload::{Payload, PayloadFormat};

/// Elements that are read and hashed together: 256 KiB, so that the bytes are still in the cache.
const READ_ELEMENTS: usize = 64 << 10;

/// The gradients of the units that this peer has computed in the round that is under way, and their exact sums.
/// Every implementation gives the same bytes.
pub trait UnitGradients: Debug + Send {
    /// Forgets all units.
    ///
    /// # Errors
    /// [`SumsError::File`] if a gradient file cannot be removed; the units are forgotten all the same.
    fn clear(&mut self) -> Result<(), SumsError>;

    /// The units that have been added.
    fn units(&self) -> &UnitSet;

    /// Takes the gradient in `path`; see [`RoundSums::add_unit`](super::RoundSums::add_unit).
    ///
    /// # Errors
    /// Those of [`RoundSums::add_unit`](super::RoundSums::add_unit) except for an unknown unit; nothing has
    /// changed then.
    fn add(&mut self, unit: u32, path: &Path, digest: Digest) -> Result<(), SumsError>;

    /// The exact sum of these units, which are at least one.
    ///
    /// # Errors
    /// [`SumsError::MissingUnit`], [`SumsError::Lost`], or an error of reading a gradient again.
    fn sum(&mut self, units: &UnitSet) -> Result<Arc<Payload>, SumsError>;
}

#[derive(Debug)]
struct UnitFile {
    path: PathBuf,
    digest: Digest,
}

/// Gradients in the files that functions wrote; the sum of all of them grows with each.
#[derive(Debug)]
pub struct GradientFiles {
    format: PayloadFormat,
    files: BTreeMap<u32, UnitFile>,
    units: UnitSet,
    /// The sum of all units. Shared once it has been announced; a unit that is added later then makes a copy.
    all: Arc<Payload>,
    gradient: Vec<f32>,
}

impl GradientFiles {
    /// No gradients yet.
    pub fn new(format: PayloadFormat) -> Self {
        let all = Arc::new(format.zeros());
        Self { format, files: BTreeMap::new(), units: UnitSet::new(), all, gradient: Vec::new() }
    }

    /// The digest of the gradient of a unit.
    #[cfg(feature = "redis")]
    pub(super) fn digest(&self, unit: u32) -> Option<Digest> {
        self.files.get(&unit).map(|file| file.digest)
    }

    /// The gradient of a unit that was added.
    #[cfg(feature = "redis")]
    pub(super) fn read(&mut self, unit: u32) -> Result<&[f32], SumsError> {
        let file = self.files.get(&unit).ok_or(SumsError::MissingUnit { unit })?;
        read_gradient(&mut self.gradient, &self.format, unit, &file.path, file.digest)?;
        Ok(&self.gradient)
    }

    fn sum_again(&mut self, units: &UnitSet) -> Result<Payload, SumsError> {
        let mut payload = self.format.zeros();
        for unit in units.iter() {
            let file = self.files.get(&unit).ok_or(SumsError::MissingUnit { unit })?;
            read_gradient(&mut self.gradient, &self.format, unit, &file.path, file.digest)?;
            self.format.grid().accumulate(payload.sums_mut(), &self.gradient, unit)?;
        }
        Ok(payload)
    }
}

impl UnitGradients for GradientFiles {
    fn clear(&mut self) -> Result<(), SumsError> {
        if !self.units.is_empty() {
            self.units = UnitSet::new();
            match Arc::get_mut(&mut self.all) {
                Some(all) => all.sums_mut().fill(0),
                None => self.all = Arc::new(self.format.zeros()),
            }
        }
        let files = std::mem::take(&mut self.files).into_values();
        let removed: Vec<_> = files.map(|file| files::remove(&file.path)).collect();
        Ok(removed.into_iter().collect::<Result<(), _>>()?)
    }

    fn units(&self) -> &UnitSet {
        &self.units
    }

    fn add(&mut self, unit: u32, path: &Path, digest: Digest) -> Result<(), SumsError> {
        if let Some(present) = self.files.get(&unit) {
            return duplicate(unit, present, path, digest);
        }
        read_gradient(&mut self.gradient, &self.format, unit, path, digest)?;
        let all = Arc::make_mut(&mut self.all);
        self.format.grid().accumulate(all.sums_mut(), &self.gradient, unit)?;
        self.files.insert(unit, UnitFile { path: path.to_path_buf(), digest });
        self.units.insert(unit);
        Ok(())
    }

    fn sum(&mut self, units: &UnitSet) -> Result<Arc<Payload>, SumsError> {
        Ok(if *units == self.units { Arc::clone(&self.all) } else { Arc::new(self.sum_again(units)?) })
    }
}

fn duplicate(unit: u32, present: &UnitFile, path: &Path, digest: Digest) -> Result<(), SumsError> {
    if present.digest != digest {
        return Err(SumsError::NotDeterministic { unit, first: present.digest, second: digest });
    }
    if present.path != path {
        files::remove(path)?;
    }
    Ok(())
}

/// Reads a gradient into `gradient` and hashes it piece by piece on the way.
fn read_gradient(
    gradient: &mut Vec<f32>,
    format: &PayloadFormat,
    unit: u32,
    path: &Path,
    digest: Digest,
) -> Result<(), SumsError> {
    let expected = 4 * format.elements() as u64;
    let wrong_length = |found| SumsError::GradientLength { unit, path: path.to_path_buf(), found, expected };
    let mut file = File::open(path).at("open gradient", path)?;
    let found = file.metadata().at("inspect gradient", path)?.len();
    if found != expected {
        return Err(wrong_length(found));
    }
    gradient.resize(format.elements(), 0.0);
    let mut hasher = blake3::Hasher::new();
    for (index, chunk) in gradient.chunks_mut(READ_ELEMENTS).enumerate() {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(chunk);
        match file.read_exact(bytes) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(wrong_length(4 * (index * READ_ELEMENTS) as u64));
            }
            result => result.at("read gradient", path)?,
        }
        hasher.update(bytes);
    }
    let found = Digest(*hasher.finalize().as_bytes());
    if found == digest {
        return Ok(());
    }
    Err(SumsError::GradientDigest { unit, found, expected: digest })
}
