//! Root at work on the state of another user, such as that of a service.
//!
//! It is done as that user: what is written belongs to the gateway that is to
//! use it, and no link in its folders leads root anywhere. What only root can
//! open is opened before.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown},
    path::Path,
};

use nix::unistd::{Gid, Uid, User, setegid, seteuid};

use super::check::shown;
use crate::{boot::Failure, paths::Paths, private};

/// For as long as it lives, this process acts as the owner of the state.
#[derive(Debug)]
pub(super) struct Owner {
    uid: Uid,
}

impl Owner {
    /// Becomes the owner of a state folder; `None` where root does not act for
    /// another user.
    pub(super) fn of(paths: &Paths) -> Result<Option<Self>, Failure> {
        let Ok(state) = fs::metadata(&paths.state_dir) else { return Ok(None) };
        if !Uid::effective().is_root() || state.uid() == 0 {
            return Ok(None);
        }
        // Folders that its service manager makes at a start, and takes away at the end.
        for folder in [&paths.runtime_dir, &paths.log_dir] {
            made_for(folder, &state).map_err(|source| {
                Failure::from(private::Error::Io { path: folder.display().to_string(), source })
            })?;
        }
        let refused = |error: nix::Error| {
            let whose = name_of(state.uid());
            Failure::Refused(format!("cannot act as {whose}, whom the state belongs to: {error}"))
        };
        setegid(Gid::from_raw(state.gid())).map_err(refused)?;
        let uid = Uid::from_raw(state.uid());
        seteuid(uid).map_err(refused)?;
        Ok(Some(Self { uid }))
    }

    /// Refuses a folder that the owner cannot read, with what helps.
    pub(super) fn check_readable(&self, folder: &Path, paths: &Paths) -> Result<(), Failure> {
        let Err(error) = fs::read_dir(folder) else { return Ok(()) };
        if error.kind() != io::ErrorKind::PermissionDenied {
            return Ok(());
        }
        let (owner, copy) = (name_of(self.uid.as_raw()), paths.state_dir.join("to-import"));
        let (from, copy) = (shown(folder), shown(&copy));
        Err(Failure::Refused(format!(
            "{from} cannot be read by {owner}, whom the gateway's state belongs to; give it a copy \
             and import that: cp -a {from} {copy} && chown -R {owner}: {copy} && moltbotctl import \
             {copy} && rm -r {copy}"
        )))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // It was root before, so it may be again; the process ends soon anyway.
        let _ = seteuid(Uid::from_raw(0));
        let _ = setegid(Gid::from_raw(0));
    }
}

fn made_for(folder: &Path, owner: &fs::Metadata) -> io::Result<()> {
    // Only beside what root's system made: whoever owns the parent makes it there.
    let of_root =
        folder.parent().and_then(|it| fs::metadata(it).ok()).is_some_and(|it| it.uid() == 0);
    if !of_root {
        return Ok(());
    }
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => chown(folder, Some(owner.uid()), Some(owner.gid())),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn name_of(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}
