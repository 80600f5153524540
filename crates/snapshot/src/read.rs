//! Reads files of the work directory that somebody may be writing, and never takes a torn one for whole.
//!
//! Size, modification and change time are compared before and after. The kernel's clock for these times ticks every
//! few milliseconds, so a file that was changed within the last tick is left alone for a moment first: a write
//! during the reading then always gives another time. (Writes through a shared memory map may be stamped later than
//! they happen; a program that does that while its files are saved must stop first, as it does at a notice.)

use std::fs::File;
use std::io::{self, Read};
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
    device: u64,
    inode: u64,
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
        Ok(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            attributes: Attributes::of(&stat),
            changed: (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0)),
            is_moving: false,
        })
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

/// Appends a file's bytes to `buffer`, unless it has more than `max`: then `None`, and `buffer` is as it was.
///
/// # Errors
/// [`Failure`] after [`READ_ATTEMPTS`]; `buffer` is then as it was.
pub(crate) fn read_whole(
    dirs: &mut Dirs,
    path: &EntryPath,
    buffer: &mut Vec<u8>,
    max: u64,
) -> Result<Option<Whole>, Failure> {
    let start = buffer.len();
    for _ in 0..READ_ATTEMPTS {
        let (file, before) = open_settled(dirs, path)?;
        if before.size > max {
            return Ok(None);
        }
        let read = (&file).take(max + 1).read_to_end(buffer);
        let length = u64::try_from(buffer.len() - start).unwrap_or(u64::MAX);
        let is_same = Version::of(&file).is_ok_and(|after| after == before);
        match read {
            Ok(_) if is_same && length == before.size => {
                let digest = Digest::of(&buffer[start..]);
                return Ok(Some(Whole { version: before, digest }));
            }
            Ok(_) => buffer.truncate(start),
            Err(error) => {
                buffer.truncate(start);
                return Err(error.into());
            }
        }
    }
    Err(Failure::changed())
}
