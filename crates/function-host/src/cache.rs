//! Vectors that came over the network, in a folder for temporary files: for the other functions of this machine, and
//! for the one that takes this one's place.
//!
//! It is a convenience. Whatever goes wrong here, the vector is fetched.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bytemuck::{cast_slice, cast_slice_mut};
use peerless_protocol::Digest;

/// Vectors that stay: that of the round, and of the one before for units that are not given up yet.
const KEPT: usize = 2;

/// How long another function is waited for that fetches the same vector: it may hang.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(2);

/// A folder of vectors by digest, each as its bytes.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Makes the folder. `None` if it is not this user's alone: others must not read a model.
    pub(crate) fn open(folder: &Path) -> Option<Self> {
        // It may be there already.
        let _ = DirBuilder::new().mode(0o700).recursive(true).create(folder);
        let metadata = fs::symlink_metadata(folder).ok()?;
        let me = fs::metadata("/proc/self").ok()?.uid();
        let own = metadata.is_dir() && metadata.uid() == me && metadata.mode() & 0o077 == 0;
        own.then(|| Self { folder: folder.to_owned() })
    }

    /// The bytes of a vector with this digest, as they are or as `fetch` brings them. One function fetches it, unless that
    /// takes long.
    pub(crate) fn get<E>(
        &self,
        digest: Digest,
        values: &mut [f32],
        fetch: impl FnOnce(&mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = self.folder.join(digest.to_string());
        if read(&path, digest, values).is_ok() {
            return Ok(());
        }
        let partial = path.with_extension("partial");
        let turn = open(&partial).and_then(|file| take_turn(&file).map(|()| file));
        // Somebody else may have fetched it in the meantime.
        if read(&path, digest, values).is_ok() {
            return Ok(());
        }
        if let Err(error) = fetch(values) {
            if turn.is_ok() {
                // Whoever waits for the turn may find the file gone, and then another one fetches at the same time.
                let _ = fs::remove_file(&partial);
            }
            return Err(error);
        }
        if let Err(error) = turn.and_then(|file| self.keep(file, &partial, &path, values)) {
            tracing::debug!(%error, "a vector is not kept");
        }
        Ok(())
    }

    fn keep(&self, mut file: File, partial: &Path, path: &Path, values: &[f32]) -> io::Result<()> {
        file.set_len(0)?;
        if let Err(error) = file.write_all(cast_slice(values)).and_then(|()| fs::rename(partial, path)) {
            // Such as a full disk, which is not to stay full.
            let _ = fs::remove_file(partial);
            return Err(error);
        }
        self.remove_old()
    }

    fn remove_old(&self) -> io::Result<()> {
        let modified =
            |entry: &fs::DirEntry| entry.metadata().and_then(|it| it.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut entries: Vec<_> = fs::read_dir(&self.folder)?.filter_map(Result::ok).collect();
        entries.retain(|entry| entry.path().extension().is_none());
        entries.sort_by_key(|entry| std::cmp::Reverse(modified(entry)));
        // Another function may remove the same ones.
        entries.iter().skip(KEPT).for_each(|entry| drop(fs::remove_file(entry.path())));
        Ok(())
    }
}

fn open(partial: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).open(partial)
}

fn take_turn(file: &File) -> io::Result<()> {
    let asked = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if asked.elapsed() < PATIENCE => thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::TimedOut.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Fills `values` with the file, if it has the digest.
fn read(path: &Path, digest: Digest, values: &mut [f32]) -> io::Result<()> {
    let mut file = File::open(path)?;
    let bytes: &mut [u8] = cast_slice_mut(values);
    if file.metadata()?.len() != bytes.len() as u64 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    file.read_exact(bytes)?;
    match Digest::of(bytes) == digest {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn vector(seed: u32) -> (Vec<f32>, Digest) {
        let values: Vec<f32> = (0..1000).map(|index| (index * seed) as f32).collect();
        let digest = Digest::of(cast_slice(&values));
        (values, digest)
    }

    /// Whether it had to be fetched.
    fn fetched(cache: &Cache, seed: u32) -> bool {
        let (expected, digest) = vector(seed);
        let (mut values, mut fetched) = (vec![0.0; expected.len()], false);
        let fetch = |to: &mut [f32]| {
            fetched = true;
            to.copy_from_slice(&expected);
            Ok::<_, Infallible>(())
        };
        cache.get(digest, &mut values, fetch).unwrap();
        assert_eq!(values, expected);
        fetched
    }

    #[test]
    fn a_vector_is_fetched_once_and_the_newest_two_stay() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::open(&place.path().join("vectors")).unwrap();
        let needed: Vec<bool> = [1, 1, 2, 1, 2, 3, 3, 2, 1].map(|seed| fetched(&cache, seed)).into();
        assert_eq!(needed, [true, false, true, false, false, true, false, false, true]);
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 2);
        let again = Cache::open(&cache.folder).unwrap();
        assert!(!fetched(&again, 1), "another process reads it");
    }

    #[test]
    fn a_file_that_was_damaged_or_cut_is_fetched_again() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::open(&place.path().join("vectors")).unwrap();
        fetched(&cache, 1);
        let path = cache.folder.join(vector(1).1.to_string());
        let whole = fs::read(&path).unwrap();
        let damaged = [&[whole[0] ^ 1], &whole[1..]].concat();
        for content in [damaged, whole[..3000].to_vec(), Vec::new()] {
            fs::write(&path, content).unwrap();
            assert!(fetched(&cache, 1));
            assert!(!fetched(&cache, 1), "it was not replaced");
        }
    }

    #[test]
    fn of_functions_that_want_it_at_the_same_time_one_fetches_it() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("vectors");
        let fetches = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let cache = Cache::open(&folder).unwrap();
                    fetches.fetch_add(u32::from(fetched(&cache, 7)), Ordering::Relaxed);
                });
            }
        });
        assert_eq!(fetches.into_inner(), 1);
    }

    #[test]
    fn what_cannot_be_fetched_leaves_its_turn_to_the_next_one() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::open(&place.path().join("vectors")).unwrap();
        assert_eq!(cache.get(vector(1).1, &mut [0.0; 1000], |_| Err("gone")), Err("gone"));
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 0, "it has left something");
        assert!(fetched(&cache, 1) && !fetched(&cache, 1));
    }

    #[test]
    fn a_function_that_hangs_while_it_fetches_holds_up_no_other_one() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::open(&place.path().join("vectors")).unwrap();
        let partial = cache.folder.join(vector(1).1.to_string()).with_extension("partial");
        let hangs = open(&partial).unwrap();
        hangs.lock().unwrap();
        assert!(fetched(&cache, 1) && fetched(&cache, 1), "what another one may be writing was taken");
        assert!(partial.exists());
        drop(hangs);
        assert!(fetched(&cache, 1) && !fetched(&cache, 1));
    }

    #[test]
    fn a_folder_that_others_can_read_or_that_is_a_link_is_not_used() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("vectors");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Cache::open(&folder).is_none());
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(Cache::open(&folder).is_some());
        symlink(&folder, place.path().join("link")).unwrap();
        assert!(Cache::open(&place.path().join("link")).is_none());
    }
}
