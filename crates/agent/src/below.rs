//! Files below a directory, read without following any link on the way: what is in it is somebody else's.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Reads a file below `dir` without following any link on the way.
pub(crate) fn read_below(dir: &Path, path: &Path, size_max: u64) -> io::Result<Vec<u8>> {
    let mut file = open_below(dir, path)?;
    let size = file.metadata()?.len();
    if size > size_max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{size} bytes are more than {size_max}"),
        ));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(size_max + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn open_below(dir: &Path, path: &Path) -> io::Result<std::fs::File> {
    // O_NONBLOCK: a pipe in the file's place must not hang the stage.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let base = rustix::fs::open(dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened: OwnedFd = rustix::fs::openat2(&base, path, flags, Mode::empty(), resolve)?;
    regular(std::fs::File::from(opened))
}

pub(crate) fn regular(file: std::fs::File) -> io::Result<std::fs::File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_the_work_directory_is_read() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let work = temp.path().join("work");
        std::fs::create_dir_all(work.join("sub")).expect("created");
        std::fs::write(temp.path().join("secret"), "s").expect("written");
        std::fs::write(work.join("sub/state.json"), "{}").expect("written");
        std::os::unix::fs::symlink("../secret", work.join("link")).expect("linked");
        std::os::unix::fs::symlink("..", work.join("up")).expect("linked");
        assert_eq!(read_below(&work, Path::new("sub/state.json"), 9).expect("read"), b"{}");
        for path in ["link", "up/secret", "../secret", "sub"] {
            assert!(read_below(&work, Path::new(path), 9).is_err(), "{path}");
        }
        assert!(read_below(&work, Path::new("sub/state.json"), 1).is_err(), "too large");
    }
}
