//! Root edits the files of another user's gateway with that user's rights.
//!
//! The gateway's user owns the folder, so it could put links there, or a list
//! of changes that names any file of the host. With the rights of that user
//! such a trap leads nowhere that the user could not go by itself, and what is
//! written can be read by the gateway. The rights are those of the whole
//! process, so this is only for a program that does one thing at a time; the
//! daemon never does it.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    process,
};

use nix::{
    fcntl::OFlag,
    unistd::{Gid, Uid, User, setegid, seteuid},
};
use serde::{Deserialize, Serialize};

/// The bits that are kept of a mode; those that change who a program runs as
/// are none of a configuration's.
const PERMISSIONS: u32 = 0o777;
const GROUP: u32 = 0o070;

/// Who may do what with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The permission bits.
    pub mode: u32,
}

impl Access {
    /// Returns the access of a file that is there.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self { uid: found.uid(), gid: found.gid(), mode: found.mode() & PERMISSIONS })
    }

    /// Returns whether the user of this process could read such a file.
    #[must_use]
    pub(crate) fn lets_us_read(self) -> bool {
        let (uid, gid) = (Uid::effective(), Gid::effective());
        if uid.is_root() {
            return true;
        }
        let bit = match () {
            () if self.uid == uid.as_raw() => 0o400,
            () if self.gid == gid.as_raw() => 0o040,
            () => 0o004,
        };
        self.mode & bit != 0
    }

    /// Gives a file that this process made this owner, group and mode. Without
    /// the rights for it the file stays ours, and no wider than it was.
    pub(crate) fn give(self, file: &File) -> io::Result<()> {
        let made = file.metadata()?;
        let mode = self.mode & PERMISSIONS;
        let set = |mode| file.set_permissions(Permissions::from_mode(mode));
        if (made.uid(), made.gid()) == (self.uid, self.gid) {
            return set(mode);
        }
        if Uid::current().is_root() || Uid::effective().is_root() {
            return as_root(|| {
                fchown(file, Some(self.uid), Some(self.gid))?;
                set(mode)
            });
        }
        if made.uid() != self.uid {
            return Ok(());
        }
        match fchown(file, None, Some(self.gid)) {
            Ok(()) => set(mode),
            // Its group's rights are not for the group that it has now.
            Err(_) => set(mode & !GROUP),
        }
    }
}

/// For as long as it lives, this process has the rights of another user.
#[derive(Debug)]
pub struct ActingAs {
    gid: Gid,
    #[cfg(not(target_os = "macos"))]
    groups: Vec<Gid>,
}

impl ActingAs {
    /// Takes the rights of the user who owns a folder; `None` where this
    /// process is not root's or the folder is.
    ///
    /// # Errors
    ///
    /// When the system does not allow it.
    pub fn owner_of(folder: &Path) -> io::Result<Option<Self>> {
        let Ok(found) = fs::metadata(folder) else { return Ok(None) };
        if !Uid::effective().is_root() || found.uid() == 0 {
            return Ok(None);
        }
        let uid = Uid::from_raw(found.uid());
        let user = User::from_uid(uid).ok().flatten();
        let gid = user.as_ref().map_or_else(|| Gid::from_raw(found.gid()), |user| user.gid);
        // Whatever fails, dropping it leads back to root.
        let acting = Self::begin()?;
        #[cfg(not(target_os = "macos"))]
        nix::unistd::setgroups(&groups(user.as_ref(), gid))?;
        setegid(gid)?;
        seteuid(uid)?;
        Ok(Some(acting))
    }

    fn begin() -> io::Result<Self> {
        Ok(Self {
            gid: Gid::effective(),
            #[cfg(not(target_os = "macos"))]
            groups: nix::unistd::getgroups()?,
        })
    }
}

impl Drop for ActingAs {
    fn drop(&mut self) {
        // Root is the real user still, so this is allowed; with fewer rights
        // than it should have the process fails where it needs them.
        let _ = seteuid(Uid::from_raw(0));
        let _ = setegid(self.gid);
        #[cfg(not(target_os = "macos"))]
        let _ = nix::unistd::setgroups(&self.groups);
    }
}

/// Gives the user whose rights this process has what root made in that user's
/// folder. A link is not followed, and a file that has another name elsewhere
/// is left alone: that user could have put either there.
///
/// # Errors
///
/// When it is not root's, is something else than a file or a folder, or when
/// this process has not been root's.
pub fn give_back(path: &Path, mode: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::effective().as_raw(), Gid::effective().as_raw());
    if !Uid::current().is_root() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    as_root(|| {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = File::options().read(true).custom_flags(flags.bits()).open(path)?;
        let found = file.metadata()?;
        if found.uid() != 0 || !(found.is_dir() || found.is_file() && found.nlink() == 1) {
            return Err(io::Error::other("it is no plain file or folder of root's"));
        }
        fchown(&file, Some(uid), Some(gid))?;
        file.set_permissions(Permissions::from_mode(mode & PERMISSIONS))
    })
}

/// Returns the files in a folder that are root's, as root sees them.
///
/// # Errors
///
/// When the folder cannot be read.
pub fn owned_by_root(folder: &Path) -> io::Result<Vec<PathBuf>> {
    as_root(|| {
        let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        let of_root = entries.into_iter().filter(|entry| {
            entry.metadata().is_ok_and(|found| found.is_file() && found.uid() == 0)
        });
        Ok(of_root.map(|entry| entry.path()).collect())
    })
}

#[cfg(not(target_os = "macos"))]
fn groups(user: Option<&User>, gid: Gid) -> Vec<Gid> {
    let name = user.and_then(|user| std::ffi::CString::new(&*user.name).ok());
    let groups = name.and_then(|name| nix::unistd::getgrouplist(&name, gid).ok());
    groups.unwrap_or_else(|| vec![gid])
}

/// Does something with an open file as root in between.
fn as_root<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let uid = Uid::effective();
    if uid.is_root() {
        return work();
    }
    seteuid(Uid::from_raw(0))?;
    let result = work();
    if seteuid(uid).is_err() {
        // To go on as root is what this must never do.
        process::abort();
    }
    result
}
