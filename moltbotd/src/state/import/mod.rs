//! Takes over the state of a reference gateway: its folder is read and never
//! changed, and what is here already stays as it is, so that a second import
//! finds everything done.
//!
//! Every thing is taken by itself: one that cannot be read is reported and
//! the rest goes on.

mod config;
mod held;
mod people;
mod sessions;
mod source;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use self::source::Folder;
use super::{Place, owner::Owner, report::Report};
use crate::{
    boot::Failure,
    config::{AuthSecrets, Config, GivenToken},
    lock::Guards,
    private,
    store::{Store, StoreError},
};

/// How long something on this host may take to answer a connection.
const KNOCK: Duration = Duration::from_millis(300);

/// One thing that was found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    /// What it is.
    kind: &'static str,
    /// Which one.
    name: String,
    /// What became of it.
    outcome: Outcome,
    /// Why, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// It is here now.
    Taken,
    /// It was here already.
    Present,
    /// Another one is here, and stays.
    Kept,
    /// It is nothing for this gateway.
    Skipped,
    /// It should have been taken and was not.
    Failed,
}

/// Everything that was found.
#[derive(Debug, Default)]
struct Items(Vec<Item>);

impl Items {
    fn add(&mut self, kind: &'static str, name: impl Into<String>, outcome: Outcome) {
        self.0.push(Item { kind, name: name.into(), outcome, why: None });
    }

    fn explain(
        &mut self,
        kind: &'static str,
        name: impl Into<String>,
        outcome: Outcome,
        why: impl Into<String>,
    ) {
        self.0.push(Item { kind, name: name.into(), outcome, why: Some(why.into()) });
    }

    fn fail(&mut self, kind: &'static str, name: impl Into<String>, why: impl ToString) {
        self.explain(kind, name, Outcome::Failed, why.to_string());
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.0.iter().filter(|item| item.outcome == outcome).count()
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Imported<'a> {
    from: &'a Path,
    profile: &'a str,
    state_dir: &'a Path,
    config_file: &'a Path,
    /// Where clients find the gateway.
    port: u16,
    /// Where its shared secret comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    taken: usize,
    present: usize,
    kept: usize,
    skipped: usize,
    failed: usize,
    items: &'a [Item],
    /// What is left to do by hand.
    next: Vec<String>,
}

/// Where things go.
struct Target<'a> {
    place: &'a Place,
    store: Store,
    runtime: tokio::runtime::Runtime,
    /// The configuration that will be in force.
    config: Config,
    /// Where the other gateway keeps conversations, if it was told.
    session_store: Option<String>,
}

impl Target<'_> {
    /// Writes in a transaction.
    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&crate::store::Db<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.runtime.block_on(self.store.write(work))
    }
}

pub(super) fn run(
    place: &Place,
    folder: &Path,
    config_file: Option<&Path>,
) -> Result<Report, Failure> {
    let paths = &place.paths;
    let owner = Owner::of(paths)?;
    if let Some(owner) = &owner {
        owner.check_readable(folder, paths)?;
    }
    let folder = Folder::open(folder, paths)?;
    paths.create()?;
    let _locks = Guards::acquire(paths)?;
    super::backup::finish(paths)?;
    let mut items = Items::default();
    let (config, session_store) = config::take(place, &folder, config_file, &mut items);
    let store = Store::open(&paths.database()).map_err(|error| store_failure(&error, place))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .map_err(anyhow::Error::from)?;
    let target = Target { place, store, runtime, config, session_store };

    people::take(&target, &folder, &mut items);
    sessions::take(&target, &folder, &mut items);
    held::take(&target, &folder, &mut items);
    folder.name_the_rest(&mut items);
    target.runtime.block_on(target.store.close());
    Ok(report(&target, &folder, &items))
}

fn report(target: &Target<'_>, folder: &Folder, items: &Items) -> Report {
    let (place, config) = (target.place, &target.config);
    let port = config.gateway.port;
    let mut next = Vec::new();
    if is_served(port) {
        next.push(format!(
            "something listens on port {port}: stop the other gateway before this one starts, \
             or both ask the channels for messages"
        ));
    }
    let secrets =
        AuthSecrets::resolve(&GivenToken::default(), config, &config.variables, &place.paths);
    let checked = secrets.and_then(|secrets| {
        secrets.check(config.gateway.bind, config)?;
        Ok(secrets.active().map(|(_, source)| source.label()))
    });
    let secret = match checked {
        Ok(secret) => secret,
        Err(error) => {
            next.push(format!("the gateway will not start like this: {error}"));
            None
        }
    };
    let imported = Imported {
        from: &folder.path,
        profile: place.paths.profile_name(),
        state_dir: &place.paths.state_dir,
        config_file: &place.paths.config_file,
        port,
        secret,
        taken: items.count(Outcome::Taken),
        present: items.count(Outcome::Present),
        kept: items.count(Outcome::Kept),
        skipped: items.count(Outcome::Skipped),
        failed: items.count(Outcome::Failed),
        items: &items.0,
        next,
    };
    let lines = lines(&imported);
    Report::new(&imported, lines).with_exit_code(u8::from(imported.failed > 0))
}

fn lines(imported: &Imported<'_>) -> Vec<String> {
    let mut lines: Vec<_> = imported
        .items
        .iter()
        .map(|Item { kind, name, outcome, why }| {
            let outcome = match outcome {
                Outcome::Taken => "taken  ",
                Outcome::Present => "present",
                Outcome::Kept => "kept   ",
                Outcome::Skipped => "skipped",
                Outcome::Failed => "FAILED ",
            };
            let why = why.as_ref().map_or(String::new(), |why| format!(": {why}"));
            format!("{outcome}  {kind} {name}{why}")
        })
        .collect();
    let Imported { taken, present, kept, skipped, failed, port, .. } = imported;
    lines.push(format!(
        "{taken} taken, {present} here already, {kept} kept as they are here, {skipped} skipped, \
         {failed} failed"
    ));
    let secret = imported.secret.as_deref().unwrap_or("none");
    lines.push(format!(
        "port {port}, shared secret from {secret}; paired devices keep their tokens"
    ));
    lines.extend(imported.next.iter().map(|next| format!("next: {next}")));
    lines
}

fn is_served(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, KNOCK).is_ok()
}

fn store_failure(error: &StoreError, place: &Place) -> Failure {
    Failure::Other(anyhow::anyhow!(
        "the database {} cannot be opened: {error}; see what is wrong with: moltbotctl doctor",
        place.paths.database().display()
    ))
}

/// Copies a file to a new one of ours; returns whether it was there already.
fn copy(from: &Path, to: &Path) -> Result<Outcome, private::Error> {
    let failed = |source| private::Error::Io { path: to.display().to_string(), source };
    let bytes = std::fs::read(from)
        .map_err(|source| private::Error::Io { path: from.display().to_string(), source })?;
    match std::fs::read(to) {
        Ok(there) if there == bytes => return Ok(Outcome::Present),
        Ok(_) => return Ok(Outcome::Kept),
        Err(_) => {}
    }
    let folder: PathBuf = to.parent().map(Into::into).unwrap_or_default();
    private::folder(&folder)?;
    let draft = to.with_extension(super::backup::PARTIAL);
    // One that was left by an import that was killed.
    let _ = std::fs::remove_file(&draft);
    let write = || {
        use std::io::Write as _;
        let mut file = private::new_file(&draft)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, to)
    };
    write().map_err(failed)?;
    Ok(Outcome::Taken)
}
