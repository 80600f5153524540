//! Reads files of the work directory that somebody may be writing, and never takes a torn one for whole.
//!
//! Size, modification and change time are compared before and after. The kernel's clock for these times ticks every
//! few milliseconds, so a file that was changed within the last tick is left alone for a moment first: a write
//! during the reading then always gives another time. (Writes through a shared memory map may be stamped later than
//! they happen; a program that does that while its files are saved must stop first, as it does at a notice.)

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use crate::dirs::Dirs;
use crate::id::Digest;
use crate::manifest::LeftOutReason;
use crate::path::EntryPath;
use crate::scan::{Attributes, reason_of};

/// A file that changes is read so often before it is left out.
pub(crate) const READ_ATTEMPTS: u32 = 3;

/// Source: Linux stamps files by a clock that ticks 100 to 1,000 times a second (CONFIG_HZ): two slow ticks.
const SETTLE: Duration = Duration::from_millis(20);

/// Why a file is not in the recovery point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: LeftOutReason,
    pub(crate) message: String,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { reason: reason_of(&error), message: error.to_string() }
    }
}

impl Failure {
    pub(crate) fn changed() -> Self {
        let message = format!("it changed during each of {READ_ATTEMPTS} attempts");
        Self { reason: LeftOutReason::ChangedWhileRead, message }
    }
}

/// Everything that a write to a file changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) attributes: Attributes,
    changed: (i64, i64),
    /// It did not settle: what is read now may change again without another time, so this equals no later look.
    is_moving: bool,
}

impl Version {
    /// As the open file is now.
    ///
    /// # Errors
    /// Also when it is no regular file: it was replaced since it was found.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let stat = rustix::fs::fstat(file)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            return Err(rustix::io::Errno::LOOP.into());
        }
        Ok(Self::from_stat(&stat))
    }

    /// As `stat` says of a regular file.
    pub(crate) fn from_stat(stat: &rustix::fs::Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            attributes: Attributes::of(stat),
            changed: (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0)),
            is_moving: false,
        }
    }

    /// Whether a file of this version may have become `later` by nothing but bytes added to its end.
    pub(crate) const fn may_have_grown_to(&self, later: &Self) -> bool {
        self.device == later.device && self.inode == later.inode && later.size > self.size
    }

    /// Whether `stat` is of the same file (its content aside).
    pub(crate) const fn is_of(&self, stat: &rustix::fs::Stat) -> bool {
        self.device == stat.st_dev && self.inode == stat.st_ino
    }

    /// Whether it was changed so recently that another change might get the same time.
    fn is_fresh(&self) -> bool {
        let (seconds, nanos) = self.changed;
        let changed =
            u64::try_from(seconds).ok().zip(u32::try_from(nanos).ok()).map(|(s, n)| Duration::new(s, n));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok();
        match (changed, now) {
            // A time in the future is another machine's (a network file system): waiting would not help.
            (Some(changed), Some(now)) => now >= changed && now - changed < SETTLE,
            (Some(_) | None, Some(_) | None) => false,
        }
    }
}

/// Opens a file and takes its version once it has settled. One that is written to all the time does not: its
/// version then equals no other, and whoever read it tries again.
pub(crate) fn open_settled(dirs: &mut Dirs, path: &EntryPath) -> io::Result<(File, Version)> {
    let file = dirs.open_file(path.split())?;
    let mut version = Version::of(&file)?;
    if version.is_fresh() {
        std::thread::sleep(SETTLE);
        let settled = Version::of(&file)?;
        version = Version { is_moving: settled != version, ..settled };
    }
    Ok((file, version))
}

/// A file that was read whole.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) version: Version,
    pub(crate) digest: Digest,
}

/// Reads a file's bytes into `buffer`, unless there are more than `max` or than find room: then the size.
///
/// A file that only grows while it is read (a log) is taken as of one instant: what was read is read again, and is
/// the file's beginning if it is still the same.
///
/// # Errors
/// [`Failure`] after [`READ_ATTEMPTS`].
pub(crate) fn read_whole(
    dirs: &mut Dirs,
    path: &EntryPath,
    buffer: &mut [u8],
    max: u64,
) -> Result<Result<Whole, u64>, Failure> {
    for _ in 0..READ_ATTEMPTS {
        let (file, before) = open_settled(dirs, path)?;
        let room = usize::try_from(before.size.min(max)).ok().and_then(|size| buffer.get_mut(..size));
        let Some(room) = room.filter(|_| before.size <= max) else { return Ok(Err(before.size)) };
        match file.read_exact_at(room, 0) {
            Ok(()) => {}
            // It has become shorter.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            Err(error) => return Err(error.into()),
        }
        let digest = Digest::of(room);
        let after = Version::of(&file)?;
        let is_whole = after == before
            || (before.may_have_grown_to(&after) && prefix_digest(&file, before.size)? == digest);
        if is_whole {
            return Ok(Ok(Whole { version: before, digest }));
        }
    }
    Err(Failure::changed())
}

/// The hash of the first `size` bytes.
fn prefix_digest(file: &File, size: u64) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut file = file;
    file.seek(SeekFrom::Start(0))?;
    hasher.update_reader(file.take(size))?;
    Ok(hasher.finalize().into())
}
