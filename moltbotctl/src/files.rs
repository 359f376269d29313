//! Private files: created 0600 in 0700 folders, replaced atomically, refused
//! when they belong to somebody else.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// Returns the text of a private file, or `None` when there is none.
///
/// # Errors
/// When it cannot be read or belongs to another user.
pub fn read(path: &Path) -> anyhow::Result<Option<String>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let owner = nix::unistd::geteuid().as_raw();
    if metadata.uid() != owner && owner != 0 {
        bail!("{} belongs to another user (uid {})", path.display(), metadata.uid());
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("cannot make {} private", path.display()))?;
    }
    fs::read_to_string(path).map(Some).with_context(|| format!("cannot read {}", path.display()))
}

/// Replaces a private file.
///
/// # Errors
/// When the folder cannot be written to.
pub fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let draft = draft(path, text)?;
    fs::rename(&draft, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Creates a private file unless it exists; two processes that try at once agree
/// on one of the texts. Returns the text that is now in the file.
///
/// # Errors
/// When the folder cannot be written to or the file cannot be read.
pub fn create(path: &Path, text: &str) -> anyhow::Result<String> {
    let draft = draft(path, text)?;
    let linked = fs::hard_link(&draft, path);
    let _ = fs::remove_file(&draft); // Only a second name of the same file.
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot create {}", path.display()))
        }
        _ => read(path)?.with_context(|| format!("{} vanished", path.display())),
    }
}

fn draft(path: &Path, text: &str) -> anyhow::Result<PathBuf> {
    let folder = path.parent().context("a file needs a folder")?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let draft = folder.join(format!(".{}.tmp", uuid::Uuid::new_v4()));
    let write = || -> io::Result<()> {
        let mut file: File =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write to {}", folder.display()))?;
    Ok(draft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_created_private_and_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/secret");
        assert_eq!(read(&path).unwrap(), None);
        assert_eq!(create(&path, "first").unwrap(), "first");
        assert_eq!(create(&path, "second").unwrap(), "first");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        replace(&path, "third").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), "third");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_others_could_read_is_made_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("open");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        read(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }
}
