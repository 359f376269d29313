//! Files: what comes with messages and what may go out.

use std::path::{Path, PathBuf};

use frankenstein::types::Message;

use crate::channels::driver::FileRef;

/// What comes with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Media {
    /// Nothing.
    None,
    /// Something that is only named.
    Placeholder(String),
    /// A file that is to be fetched, and what stands for it without a caption.
    File {
        /// The file.
        file: FileRef,
        /// What stands for it.
        placeholder: &'static str,
    },
    /// A file above the limit.
    TooLarge,
}

/// How a file is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Photo,
    Animation,
    Video,
    Audio,
    Voice,
    Document,
}

/// Returns what comes with a message.
pub(super) fn of(message: &Message, max_bytes: u64) -> Media {
    if let Some(sizes) = &message.photo {
        // The largest that is allowed: sizes are of the same picture.
        let fitting = sizes.iter().filter(|size| size.file_size.unwrap_or_default() <= max_bytes);
        return match fitting.max_by_key(|size| u64::from(size.width) * u64::from(size.height)) {
            Some(size) => Media::File {
                file: FileRef {
                    id: size.file_id.clone(),
                    mime: "image/jpeg".into(),
                    file_name: None,
                },
                placeholder: "<media:image>",
            },
            None => Media::TooLarge,
        };
    }
    if let Some(sticker) = &message.sticker {
        let emoji = sticker.emoji.as_deref().unwrap_or_default();
        return Media::Placeholder(format!("<media:sticker> {emoji}").trim_end().to_owned());
    }
    if let Some(place) = &message.location {
        return Media::Placeholder(format!("[location {}, {}]", place.latitude, place.longitude));
    }
    let Some((file, size, placeholder)) = file(message) else { return Media::None };
    if size.unwrap_or_default() > max_bytes {
        return Media::TooLarge;
    }
    Media::File { file, placeholder }
}

/// Returns whether anything comes with a message.
pub(super) fn has(message: &Message) -> bool {
    of(message, u64::MAX) != Media::None
}

/// Tells a sender that a file was left out.
pub(super) fn too_large(max_mb: f64) -> String {
    format!("⚠️ That file is too large for me: the limit is {max_mb} MB.")
}

/// Stands for a part of an album that was left out: the assistant is told, and
/// can tell its sender.
pub(super) fn left_out(max_mb: f64) -> String {
    format!("[a file came with this message and was left out: it is above {max_mb} MB]")
}

fn file(message: &Message) -> Option<(FileRef, Option<u64>, &'static str)> {
    let make =
        |id: &str, mime: Option<&str>, otherwise: &str, file_name: Option<&String>| FileRef {
            id: id.to_owned(),
            mime: mime.unwrap_or(otherwise).to_owned(),
            file_name: file_name.cloned(),
        };
    if let Some(it) = &message.animation {
        let file = make(&it.file_id, it.mime_type.as_deref(), "video/mp4", it.file_name.as_ref());
        return Some((file, it.file_size, "<media:video>"));
    }
    if let Some(it) = &message.document {
        let mime = it.mime_type.as_deref();
        let file = make(&it.file_id, mime, "application/octet-stream", it.file_name.as_ref());
        return Some((file, it.file_size, "<media:document>"));
    }
    if let Some(it) = &message.voice {
        let file = make(&it.file_id, it.mime_type.as_deref(), "audio/ogg", None);
        return Some((file, it.file_size, "<media:audio>"));
    }
    if let Some(it) = &message.audio {
        let file = make(&it.file_id, it.mime_type.as_deref(), "audio/mpeg", it.file_name.as_ref());
        return Some((file, it.file_size, "<media:audio>"));
    }
    if let Some(it) = &message.video {
        let file = make(&it.file_id, it.mime_type.as_deref(), "video/mp4", it.file_name.as_ref());
        return Some((file, it.file_size, "<media:video>"));
    }
    let it = message.video_note.as_ref()?;
    Some((make(&it.file_id, None, "video/mp4", None), it.file_size, "<media:video>"))
}

/// Returns how a file is sent, by the end of its name.
pub(super) fn kind(name: &str) -> Kind {
    let name = name.split(['?', '#']).next().unwrap_or_default().to_lowercase();
    match name.rsplit_once('.').map_or("", |(_, end)| end) {
        "jpg" | "jpeg" | "png" | "webp" => Kind::Photo,
        "gif" => Kind::Animation,
        "mp4" | "mov" | "m4v" => Kind::Video,
        "mp3" | "m4a" | "flac" | "wav" => Kind::Audio,
        "ogg" | "oga" | "opus" => Kind::Voice,
        _ => Kind::Document,
    }
}

/// Finds the file that a path means, if it may be sent: it lies in one of the
/// folders after every link in its path is followed.
pub(super) fn permitted(path: &str, roots: &[PathBuf], max_bytes: u64) -> Result<PathBuf, String> {
    let path = path.strip_prefix("file://").unwrap_or(path);
    let refused = || "the file is not in a folder that files may be sent from".to_owned();
    if !Path::new(path).is_absolute() {
        return Err(refused());
    }
    let real = Path::new(path).canonicalize().map_err(|_| refused())?;
    let allowed = roots.iter().filter_map(|root| root.canonicalize().ok());
    if !allowed.into_iter().any(|root| real.starts_with(root)) {
        return Err(refused());
    }
    let facts = real.metadata().map_err(|_| refused())?;
    if !facts.is_file() {
        return Err("only files can be sent".into());
    }
    if facts.len() > max_bytes {
        return Err(format!("the file has {} bytes, the limit is {max_bytes}", facts.len()));
    }
    Ok(real)
}

/// Returns the end of a file's name that fits what it is.
pub(super) fn extension(mime: &str) -> &'static str {
    match mime {
        "image/jpeg" => "jpg",
        "image/png" => "png",
        "image/webp" => "webp",
        "image/gif" => "gif",
        "audio/ogg" => "ogg",
        "audio/mpeg" => "mp3",
        "video/mp4" => "mp4",
        "application/pdf" => "pdf",
        "text/plain" => "txt",
        _ => "bin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_below_a_root_may_be_sent() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("media");
        std::fs::create_dir(&root).unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "x").unwrap();
        let good = root.join("a.txt");
        std::fs::write(&good, "x").unwrap();
        std::os::unix::fs::symlink(&secret, root.join("link")).unwrap();
        let roots = [root.clone()];
        let ask = |path: &Path| permitted(path.to_str().unwrap(), &roots, 10);
        assert!(ask(&good).is_ok());
        for path in
            [&secret, &root.join("../secret"), &root.join("link"), &root.join("none"), &root]
        {
            assert!(ask(path).is_err(), "{}", path.display());
        }
        assert!(permitted("a.txt", &roots, 10).is_err());
        assert!(permitted(good.to_str().unwrap(), &roots, 0).is_err());
    }

    #[test]
    fn the_name_decides_how_a_file_is_sent() {
        assert_eq!(kind("https://e.org/a.PNG?x=1"), Kind::Photo);
        assert_eq!(kind("/a/b.gif"), Kind::Animation);
        assert_eq!(kind("/a/b"), Kind::Document);
    }
}
