//! Files and folders that nobody else may read.
//!
//! They get their mode when they are created, not afterwards, so that there is
//! no moment at which others can open them. What belongs to somebody else is
//! refused; modes that grew too wide are narrowed and reported.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io,
    os::unix::fs::{
        DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
        PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use nix::unistd::{Uid, User};

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Bits that let the group or others in.
const OTHERS: u32 = 0o077;

/// Why a file or folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It belongs to another user.
    #[error(
        "{path} belongs to user {owner}, this process runs as user {me}; {}",
        advice_about_owner(path, *owner, *me)
    )]
    Foreign {
        /// The file or folder.
        path: String,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        me: u32,
    },
    /// Others may change it.
    #[error("{path} can be changed by others (mode {mode:04o}); run: chmod go-w {path}")]
    Writable {
        /// The file.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// Something else stands in its place.
    #[error("{path} is a {what}; move it out of the way: mv {path} {path}.old")]
    InTheWay {
        /// The file or folder.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// The system said no.
    #[error("cannot use {path}: {source}{}", advice(path, source))]
    Io {
        /// The file or folder.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io { path, source }
    }

    /// Returns whether this user may not use it.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Returns whether another try would end the same: it would not be safe,
    /// or somebody must change something first.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let Self::Io { source, .. } = self else { return true };
        matches!(
            source.kind(),
            io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::AlreadyExists
        )
    }
}

/// Returns what helps. Root has no need of the file: to take it away from its
/// owner would keep that user's gateway from starting.
fn advice_about_owner(path: &str, owner: u32, me: u32) -> String {
    if me == 0 {
        let user = User::from_uid(Uid::from_raw(owner)).ok().flatten();
        let user = user.map_or_else(|| format!("'#{owner}'"), |user| user.name);
        return format!("run this as that user: sudo -u {user} …");
    }
    format!("use another path or run: chown -R {me} {path}")
}

/// Returns the command that helps.
fn advice(path: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("; see who may: namei -l {path}")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            format!("; choose a place that can be written, or see: findmnt -T {path}")
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            format!("; a file is where a folder should be: namei -l {path}")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("; make room, see: df -h {path}")
        }
        _ if error.raw_os_error() == Some(nix::libc::EMFILE) => "; raise LimitNOFILE".to_owned(),
        _ => String::new(),
    }
}

/// Makes sure a folder exists and is ours alone. Returns the mode it had when
/// that had to be narrowed.
pub fn folder(path: &Path) -> Result<Option<u32>, Error> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path).map_err(Error::io(path))?;
    let metadata = fs::metadata(path).map_err(Error::io(path))?;
    own(path, &metadata)?;
    let set = |mode| fs::set_permissions(path, mode);
    narrow(path, &metadata, FOLDER_MODE, set)
}

/// Opens a file of ours for reading and writing, creating it as needed.
/// Returns the mode it had when that had to be narrowed.
pub fn file(path: &Path) -> Result<(File, Option<u32>), Error> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            // A link is not followed, a pipe not waited for.
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(path)
    };
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && make_writable(path) => {
            open()
        }
        result => result,
    };
    let file = match file {
        Ok(file) => file,
        Err(error) => return Err(in_the_way(path).unwrap_or_else(|| Error::io(path)(error))),
    };
    let metadata = file.metadata().map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(
            in_the_way(path).unwrap_or_else(|| Error::io(path)(io::ErrorKind::Other.into()))
        );
    }
    own(path, &metadata)?;
    // The one that was opened: another may be at its place by now, or none.
    let narrowed = narrow(path, &metadata, FILE_MODE, |mode| file.set_permissions(mode))?;
    Ok((file, narrowed))
}

/// Opens a file of ours to write at its end, creating it as needed.
pub fn appended(path: &Path) -> Result<File, Error> {
    drop(file(path)?);
    OpenOptions::new()
        .append(true)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .map_err(Error::io(path))
}

/// Creates a file that does not exist yet.
pub fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

/// Opens a file that steers this process and may hold secrets: it must be
/// ours or root's, and nobody else may change it. A file of ours that others
/// may read is narrowed; returns the mode it had.
pub fn trusted(path: &Path) -> Result<(File, Option<u32>), Error> {
    let (file, metadata) = trusted_file(path)?;
    if metadata.uid() == Uid::effective().as_raw() {
        let narrowed = narrow(path, &metadata, FILE_MODE, |mode| file.set_permissions(mode))?;
        return Ok((file, narrowed));
    }
    Ok((file, None))
}

/// Opens such a file and leaves its mode alone; `None` stands for no mode.
pub fn trusted_as_it_is(path: &Path) -> Result<(File, Option<u32>), Error> {
    trusted_file(path).map(|(file, _)| (file, None))
}

fn trusted_file(path: &Path) -> Result<(File, Metadata), Error> {
    let file = File::open(path).map_err(Error::io(path))?;
    let metadata = file.metadata().map_err(Error::io(path))?;
    if metadata.uid() == Uid::effective().as_raw() {
        return Ok((file, metadata));
    }
    if metadata.uid() != 0 {
        own(path, &metadata)?;
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(Error::Writable { path: path.display().to_string(), mode });
    }
    Ok((file, metadata))
}

/// Gives us back the right to write a file of ours.
fn make_writable(path: &Path) -> bool {
    let ours = fs::symlink_metadata(path)
        .is_ok_and(|it| it.is_file() && it.uid() == Uid::effective().as_raw());
    ours && fs::set_permissions(path, Permissions::from_mode(FILE_MODE)).is_ok()
}

/// Names what stands in the place of a file.
fn in_the_way(path: &Path) -> Option<Error> {
    let kind = fs::symlink_metadata(path).ok()?.file_type();
    let what = if kind.is_symlink() {
        "link"
    } else if kind.is_dir() {
        "folder"
    } else if kind.is_fifo() {
        "pipe"
    } else if kind.is_socket() {
        "socket"
    } else if kind.is_file() {
        return None;
    } else {
        "device"
    };
    Some(Error::InTheWay { path: path.display().to_string(), what })
}

fn own(path: &Path, metadata: &Metadata) -> Result<(), Error> {
    let (owner, me) = (metadata.uid(), Uid::effective().as_raw());
    if owner == me {
        return Ok(());
    }
    Err(Error::Foreign { path: path.display().to_string(), owner, me })
}

fn narrow(
    path: &Path,
    metadata: &Metadata,
    wanted: u32,
    set: impl FnOnce(Permissions) -> io::Result<()>,
) -> Result<Option<u32>, Error> {
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(None);
    }
    // A read-only file system keeps its modes; the owner was checked.
    match set(Permissions::from_mode(mode & wanted)) {
        Err(error) if error.kind() != io::ErrorKind::ReadOnlyFilesystem => {
            Err(Error::io(path)(error))
        }
        _ => Ok(Some(mode)),
    }
}

/// Folders whose modes were narrowed, to be reported once logs work.
pub type Narrowed = Vec<(PathBuf, u32)>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_created_is_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        assert_eq!(folder(&inner).unwrap(), None);
        for path in [&inner, &dir.path().join("a")] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700);
        }
        let path = inner.join("secret");
        drop(file(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn wide_modes_are_narrowed_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        assert_eq!(folder(dir.path()).unwrap(), Some(0o755));
        assert_eq!(folder(dir.path()).unwrap(), None);
        let path = dir.path().join("moltbot.json");
        fs::write(&path, "{}").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(trusted(&path).unwrap().1, Some(0o644));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_is_not_followed_to_a_file_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("link")).unwrap();
        assert!(file(&dir.path().join("link")).is_err());
    }

    #[test]
    fn what_belongs_to_somebody_else_is_refused() {
        if !Uid::effective().is_root() {
            return; // Only root can make such a file.
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("theirs");
        fs::write(&path, "{}").unwrap();
        std::os::unix::fs::chown(&path, Some(4242), None).unwrap();
        let error = trusted(&path).unwrap_err();
        assert!(error.is_refusal(), "{error}");
        let told = file(&path).unwrap_err().to_string();
        assert!(told.contains("belongs to user 4242"), "{told}");
        assert!(told.ends_with("run this as that user: sudo -u '#4242' …"), "{told}");
    }
}
