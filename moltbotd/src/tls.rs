//! The certificate the gateway shows, and its replacement while it runs.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use sha2::{Digest as _, Sha256};

use crate::private;

/// Most that is read of a file; a chain of certificates is a few kilobytes.
const LARGEST_FILE_BYTES: u64 = 256 * 1024;
/// How long a certificate of our own is good. It is trusted by its
/// fingerprint; only strict clients look at the dates as well.
const YEARS: i16 = 10;

/// Where the certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, followed by those that signed it, as PEM.
    pub certificate: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
    /// Whether to make them when they are missing.
    pub make: bool,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be trusted.
    #[error("gateway.tls: {0}")]
    File(#[from] private::Error),
    /// A file cannot be read or written.
    #[error("gateway.tls: cannot use {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is in the files does not do.
    #[error("gateway.tls: {0}")]
    Invalid(String),
}

/// The gateway's side of TLS.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    shown: Arc<Shown>,
    config: Arc<ServerConfig>,
    state: Mutex<State>,
}

/// What is handed to the next peer.
#[derive(Debug)]
struct Shown(ArcSwap<CertifiedKey>);

#[derive(Debug)]
struct State {
    /// What the files looked like when they were last read.
    read: [Stamp; 2],
    trouble: Option<String>,
}

/// Tells two contents of a file apart without reading it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Tls {
    /// Reads the certificate, or makes one for the given names.
    pub fn open(files: Files, names: Vec<String>) -> Result<Self, TlsError> {
        if files.make && !(files.certificate.exists() && files.key.exists()) {
            make(&files, names)?;
        }
        let read = files.stamps();
        let shown = Arc::new(Shown(ArcSwap::from(files.read()?)));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Invalid(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as _);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let state = Mutex::new(State { read, trouble: None });
        Ok(Self { files, shown, config: Arc::new(config), state })
    }

    /// Returns what a connection is accepted with.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Returns where the certificate is.
    #[must_use]
    pub fn certificate(&self) -> &Path {
        &self.files.certificate
    }

    /// Returns the SHA-256 of the certificate in lower-case hex, which is what
    /// clients pin.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let shown = self.shown.0.load();
        let own = shown.cert.first().map(AsRef::as_ref).unwrap_or_default();
        Sha256::digest(own).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns why the files are not what is shown, if they are not.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).trouble.clone()
    }

    /// Reads the files anew if they changed. What cannot be used changes
    /// nothing. Reads files: not to be called on a runtime's thread.
    pub fn refresh(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = self.files.stamps();
        if state.read == stamps {
            return;
        }
        state.read = stamps;
        match self.files.read() {
            Ok(fresh) => {
                self.shown.0.store(fresh);
                state.trouble = None;
                tracing::info!(sha256 = self.fingerprint(), "certificate replaced");
            }
            Err(error) => {
                tracing::error!(%error, "the certificate changed but cannot be used; the old one stays");
                state.trouble = Some(format!("the old certificate stays: {error}"));
            }
        }
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Files {
    fn stamps(&self) -> [Stamp; 2] {
        [&self.certificate, &self.key].map(|path| {
            fs::metadata(path).map_or_else(
                |_| Stamp::default(),
                |file| Stamp {
                    inode: file.ino(),
                    size: file.size(),
                    modified: (file.mtime(), file.mtime_nsec()),
                },
            )
        })
    }

    fn read(&self) -> Result<Arc<CertifiedKey>, TlsError> {
        let invalid =
            |path: &Path, why: String| TlsError::Invalid(format!("{} {why}", path.display()));
        let pem = text(&self.certificate, private::trusted_as_it_is)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| invalid(&self.certificate, format!("is no PEM file: {error}")))?;
        if chain.is_empty() {
            return Err(invalid(&self.certificate, "holds no certificate".to_owned()));
        }
        let pem = text(&self.key, private::trusted)?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|error| invalid(&self.key, format!("holds no private key: {error}")))?;
        let pair = CertifiedKey::from_der(chain, key, &ring::default_provider());
        pair.map(Arc::new).map_err(|error| {
            let files = format!("{} and {}", self.certificate.display(), self.key.display());
            TlsError::Invalid(format!("{files} do not make a pair: {error}"))
        })
    }
}

type Opened = Result<(fs::File, Option<u32>), private::Error>;

fn text(path: &Path, open: fn(&Path) -> Opened) -> Result<Vec<u8>, TlsError> {
    let (file, _) = open(path)?;
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|source| TlsError::Io { path: path.into(), source })?;
    Ok(bytes)
}

/// The key first: a certificate without its key is made again, with a key.
fn make(files: &Files, names: Vec<String>) -> Result<(), TlsError> {
    let invalid = |error: rcgen::Error| TlsError::Invalid(error.to_string());
    if let Some(folder) = files.key.parent() {
        private::folder(folder)?;
    }
    let key = KeyPair::generate().map_err(invalid)?;
    let mut params = CertificateParams::new(names).map_err(invalid)?;
    params.distinguished_name.push(DnType::CommonName, "moltbot-gateway");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let today = jiff::Zoned::now().date();
    // A client whose clock is behind a little may come, too.
    params.not_before = rcgen::date_time_ymd(i32::from(today.year()) - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(i32::from(today.year() + YEARS), 1, 1);
    let certificate = params.self_signed(&key).map_err(invalid)?;
    replace(&files.key, &key.serialize_pem())?;
    replace(&files.certificate, &certificate.pem())?;
    tracing::info!(certificate = %files.certificate.display(), "certificate made");
    Ok(())
}

fn replace(path: &Path, text: &str) -> Result<(), TlsError> {
    let written = (|| {
        let draft = path.with_extension("new");
        let _ = fs::remove_file(&draft); // Left by a start that was cut short.
        let mut file = private::new_file(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    written.map_err(|source| TlsError::Io { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn files(folder: &Path) -> Files {
        Files { certificate: folder.join("t/c.pem"), key: folder.join("t/k.pem"), make: true }
    }

    fn open(files: &Files) -> Result<Tls, TlsError> {
        Tls::open(files.clone(), vec!["localhost".into(), "127.0.0.1".into()])
    }

    #[test]
    fn a_certificate_is_made_once_and_is_for_its_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let first = open(&files).unwrap().fingerprint();
        assert_eq!(first.len(), 64);
        assert_eq!(open(&files).unwrap().fingerprint(), first);
        for path in [&files.certificate, &files.key] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let given = Files { make: false, key: dir.path().join("none"), ..files };
        assert!(open(&given).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn a_changed_file_is_taken_and_a_bad_one_keeps_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let (own, other) = (files(dir.path()), files(&dir.path().join("other")));
        let tls = open(&own).unwrap();
        let (first, second) = (tls.fingerprint(), open(&other).unwrap().fingerprint());
        fs::rename(&other.certificate, &own.certificate).unwrap();
        tls.refresh();
        assert_eq!(tls.fingerprint(), first);
        assert!(tls.trouble().unwrap().contains("do not make a pair"), "{:?}", tls.trouble());
        fs::rename(&other.key, &own.key).unwrap();
        tls.refresh();
        assert_eq!((tls.fingerprint(), tls.trouble()), (second.clone(), None));
        fs::write(&own.certificate, "not a certificate").unwrap();
        tls.refresh();
        assert_eq!(tls.fingerprint(), second);
        assert!(tls.trouble().unwrap().contains("holds no certificate"));
    }
}
