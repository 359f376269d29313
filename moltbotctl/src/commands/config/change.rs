//! Changes of the configuration file on this host: checked, then written so
//! that they can be taken back. A running gateway notices the file.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use moltbot_protocol::methods::config::ConfigPlanned;
use moltbot_settings::{
    Path as Key, Step,
    book::{Book, BookError, Draft, Entry},
    edit::{self, Change},
    include::Texts,
};
use nix::unistd::Uid;
use serde_json::{Value, json};

use super::judge::{self, Files, Standing};
use crate::{
    context::{Context, helped},
    environment::Environment,
    host_gateway::Meant,
    output::clean,
    target::Flags,
};

const NOTHING_WRITTEN: &str = "nothing was written; see what is allowed: moltbotctl config get";

/// Sets a value.
pub(super) async fn set(cx: &Context, key: &str, value: &str, as_text: bool) -> anyhow::Result<()> {
    let value = match value {
        "-" => Value::from(judge::read(Path::new("-"))?.trim_end_matches(['\n', '\r'])),
        value if as_text => Value::from(value),
        value => read_value(value),
    };
    let path = read_key(key)?;
    change(cx, Change::Set(path, value), &format!("moltbotctl config set {key}")).await
}

/// Takes a value away.
pub(super) async fn unset(cx: &Context, key: &str) -> anyhow::Result<()> {
    let path = read_key(key)?;
    let value = Texts::read(local(cx)?.main())?.value()?;
    if edit::get(&value, &path).is_none() {
        let advice = "see everything that is: moltbotctl config get";
        return Err(helped(format!("{key} is not set"), advice));
    }
    change(cx, Change::Unset(path), &format!("moltbotctl config unset {key}")).await
}

async fn change(cx: &Context, change: Change, by: &str) -> anyhow::Result<()> {
    let mut draft = begin(cx)?;
    mendable(draft.apply(&[change]))?;
    install(cx, draft, by, NOTHING_WRITTEN).await
}

/// Lets a person change a copy, and installs it if it can be used.
pub(super) async fn edit(cx: &Context, resume: Option<PathBuf>) -> anyhow::Result<()> {
    let book = local(cx)?;
    let before = fs::read_to_string(book.main()).unwrap_or_default();
    let is_fresh = resume.is_none();
    let copy = match resume {
        Some(copy) => copy,
        None => copy_of(cx, &book, &before)?,
    };
    let resume = format!("go on with: moltbotctl config edit --resume {}", copy.display());
    if let Err(message) = open_editor(cx, &copy) {
        // It may hold secrets, and nothing that is not in the file.
        let is_needless = is_fresh
            && fs::read_to_string(&copy).is_ok_and(|text| text == shown(&before))
            && fs::remove_file(&copy).is_ok();
        let kept = if is_needless { String::new() } else { format!("; {resume}") };
        return Err(helped(format!("{message:#}"), format!("nothing was written{kept}")));
    }
    let text =
        fs::read_to_string(&copy).with_context(|| format!("cannot read {}", copy.display()))?;
    let mut draft = mendable(book.change())?;
    if draft.text().unwrap_or_default() != before {
        let message = format!("{} was changed by somebody else", book.main().display());
        let advice = format!("nothing was written; your version is kept in {}", copy.display());
        return Err(helped(message, advice));
    }
    draft.replace(text);
    install(cx, draft, "moltbotctl config edit", &format!("nothing was written; {resume}")).await?;
    fs::remove_file(&copy).with_context(|| format!("cannot remove {}", copy.display()))
}

/// Takes a change back.
pub(super) async fn undo(cx: &Context, number: Option<u64>) -> anyhow::Result<()> {
    let mut draft = begin(cx)?;
    let undone = mendable(draft.undo(number))?;
    let by = format!("moltbotctl config undo {}", undone.number);
    if !cx.output.json {
        cx.output.line(format!("Taking back change {}: {}.", undone.number, clean(&undone.by)));
    }
    install(cx, draft, &by, NOTHING_WRITTEN).await
}

/// Shows what another file would do.
pub(super) async fn plan(cx: &Context, file: &Path) -> anyhow::Result<()> {
    let book = Book::of(&cx.at_its_files()?.config.path);
    let files = Files::from([(book.main().into(), Some(judge::read(file)?))]);
    let Some(mut planned) = judge::texts(cx, &files).await? else {
        return Err(helped(judge::UNJUDGED, "install moltbotd, or add its folder to PATH"));
    };
    // It was judged in the place of the configuration file.
    let name = match file.to_str() {
        Some("-") => "standard input".into(),
        _ => file.display().to_string(),
    };
    for issue in planned.issues.iter_mut().chain(&mut planned.warnings) {
        for place in [book.main(), &cx.config.path] {
            issue.message = issue.message.replace(&place.display().to_string(), &name);
        }
    }
    if cx.output.json {
        cx.output.value(&json!(planned));
    }
    judge::accept(cx, Some(&planned), "the file could not be used; nothing was changed")?;
    if !cx.output.json {
        show(cx, &planned, Standing::InForce, "It would change nothing.");
    }
    Ok(())
}

/// Lists the changes that can be taken back.
pub(super) fn history(cx: &Context) -> anyhow::Result<()> {
    let entries = Book::of_owner(&cx.at_its_files()?.config.path).history()?;
    if cx.output.json {
        cx.output.value(&json!(entries));
        return Ok(());
    }
    let row = |entry: &Entry| {
        let names: Vec<_> =
            entry.files.iter().map(|part| part.file.display().to_string()).collect();
        vec![entry.number.to_string(), entry.at.clone(), clean(&entry.by), names.join(", ")]
    };
    let rows = entries.iter().rev().map(row).collect();
    cx.output.table(&["Change", "When", "By", "Files"], rows, "No changes are kept.");
    Ok(())
}

fn begin(cx: &Context) -> anyhow::Result<Draft> {
    mendable(local(cx)?.change())
}

/// Adds what helps where root acts as the gateway's user, who may not use its
/// own files.
fn mendable<T>(result: Result<T, BookError>) -> anyhow::Result<T> {
    match result {
        Err(error @ BookError::Io { .. }) if is_denied(&error) && Uid::effective().is_root() => {
            let advice = "nothing was written; the gateway's user may not use this file: \
                          moltbotctl doctor --fix";
            Err(helped(error.to_string(), advice))
        }
        result => Ok(result?),
    }
}

fn is_denied(error: &BookError) -> bool {
    matches!(error, BookError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied)
}

/// Returns the file on this host; a gateway elsewhere has its own.
fn local(cx: &Context) -> anyhow::Result<Book> {
    if let Some((name, place)) = elsewhere(&cx.flags, &cx.environment) {
        return Err(helped(
            format!("this changes the file of this host, not that of {place}"),
            format!(
                "leave {name} away, or change the other one with: moltbotctl gateway call \
                 config.patch"
            ),
        ));
    }
    let cx = cx.at_its_files()?;
    if let Meant::System(system) = &cx.meant {
        system.make_config_folder()?;
    }
    Ok(Book::of_owner(&cx.config.path))
}

/// Returns what names a gateway that is not on this host, and the gateway: the
/// first as everywhere.
fn elsewhere(flags: &Flags, environment: &Environment) -> Option<(String, String)> {
    if let Some(destination) = &flags.ssh {
        return Some(("--ssh".into(), destination.to_string()));
    }
    let flag = flags.url.as_deref().map(|url| ("--url".to_owned(), url));
    let (name, url) = flag.or_else(|| environment.named("GATEWAY_URL"))?;
    (!url.starts_with("unix:")).then(|| (name, url.to_owned()))
}

/// Checks a draft and writes it.
async fn install(cx: &Context, draft: Draft, by: &str, advice: &str) -> anyhow::Result<()> {
    let files = draft.changed();
    if files.is_empty() {
        if cx.output.json {
            cx.output.value(&json!({ "ok": true, "change": null, "changes": [] }));
        } else {
            cx.output.line("Nothing to change.");
        }
        return Ok(());
    }
    let planned = judge::texts(cx, &files).await?;
    judge::accept(cx, planned.as_ref(), advice)?;
    let entry = mendable(draft.install(by))?;
    let number = entry.map(|entry| entry.number);
    let standing = match &planned {
        Some(_) => judge::standing(cx).await,
        None => Standing::NoGateway,
    };
    if cx.output.json {
        cx.output.value(&json!({
            "ok": true,
            "change": number,
            "files": files.keys().collect::<Vec<_>>(),
            "changes": planned.as_ref().map(|planned| &planned.changes),
            "warnings": planned.as_ref().map(|planned| &planned.warnings),
            "inForce": standing == Standing::InForce,
        }));
        return Ok(());
    }
    for file in files.keys() {
        let number = number.map(|number| format!(" (change {number})")).unwrap_or_default();
        cx.output.line(format!("Wrote {}{number}.", file.display()));
    }
    if let Some(planned) = &planned {
        show(cx, planned, standing, "It changes nothing that is in force.");
        if standing == Standing::Waits {
            cx.output.remark("The gateway has not read the file yet; see: moltbotctl status");
        }
    }
    Ok(())
}

fn show(cx: &Context, planned: &ConfigPlanned, standing: Standing, nothing: &str) {
    let effect = |effect: &str| match (effect, standing) {
        (_, Standing::NoGateway) => "in force when the gateway starts".to_owned(),
        ("restart", _) => "needs a restart of the gateway".to_owned(),
        ("hot" | "channel", Standing::Waits) => "written, not in force yet".to_owned(),
        ("hot", Standing::InForce) => "in force at once".to_owned(),
        ("channel", Standing::InForce) => "the channel starts anew".to_owned(),
        (other, _) => other.to_owned(),
    };
    let row = |change: &moltbot_protocol::methods::config::ConfigChange| {
        vec![clean(&change.path), effect(&change.effect)]
    };
    cx.output.table(&["Key", "Effect"], planned.changes.iter().map(row).collect(), nothing);
}

/// Reads a key. An empty part is a slip, unless it stands in quotes.
fn read_key(text: &str) -> anyhow::Result<Key> {
    const ADVICE: &str = "name each part, such as gateway.port; one with a dot in it goes in \
                          brackets and quotes: agents.defaults.models[\"a/b-1.5\"]";
    let Ok(key) = text.parse::<Key>();
    let is_empty = |step: &Step| *step == Step::Key(String::new());
    let empty = match key.0.iter().position(is_empty) {
        _ if key.0.is_empty() => return Err(helped("the key is empty", ADVICE)),
        Some(at) if !text.contains("[\"\"]") => at,
        _ if text.ends_with('.') => key.0.len(),
        _ => return Ok(key),
    };
    Err(helped(format!("{text}: part {} of the key is empty", empty + 1), ADVICE))
}

/// What is no JSON5 is a text; so is what JSON cannot say.
fn read_value(text: &str) -> Value {
    match edit::parse(text) {
        Ok(Value::Null) if text.trim() != "null" => Value::from(text),
        Ok(_) if text.trim().is_empty() => Value::from(text),
        Ok(value) => value,
        Err(_) => Value::from(text),
    }
}

fn copy_of(cx: &Context, book: &Book, text: &str) -> anyhow::Result<PathBuf> {
    use std::io::Write as _;
    // Made with the folder of the copies, which is closed to others.
    drop(mendable(book.change())?);
    let name = format!("edit-{}.json5", std::process::id());
    // The folder of another user is no place for an editor that root runs.
    let copy = match cx.meant {
        Meant::System(_) => {
            let folder = cx.paths.client_dir();
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
            folder.join(name)
        }
        _ => book.folder().join(name),
    };
    let failed = || format!("cannot write {}", copy.display());
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&copy).with_context(failed)?;
    file.write_all(shown(text).as_bytes()).with_context(failed)?;
    Ok(copy)
}

/// Returns what the editor is shown of a file.
fn shown(text: &str) -> &str {
    if text.trim().is_empty() { "{\n}\n" } else { text }
}

fn open_editor(cx: &Context, file: &Path) -> anyhow::Result<()> {
    let editor = cx.environment.var("VISUAL").or_else(|| cx.environment.var("EDITOR"));
    // A shell, because an editor may come with arguments.
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("{} \"$1\"", editor.unwrap_or("vi")))
        .arg("sh")
        .arg(file)
        .status()
        .context("cannot start an editor")?;
    anyhow::ensure!(status.success(), "the editor ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_no_empty_part() {
        for (text, error) in [
            ("", "the key is empty"),
            ("a..b", "a..b: part 2 of the key is empty"),
            (".a", ".a: part 1 of the key is empty"),
            ("a.b.", "a.b.: part 3 of the key is empty"),
            ("a[0].", "a[0].: part 3 of the key is empty"),
        ] {
            assert_eq!(read_key(text).unwrap_err().to_string(), error);
        }
        for text in ["a", "a.b[0].c", "a[\"x.y\"].z", "a[\"x.\"]", "a[\"\"]"] {
            assert_eq!(read_key(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_gateway_elsewhere_is_named_by_ssh_a_url_or_the_environment() {
        let url = |url: &str| Flags { url: Some(url.into()), ..Flags::default() };
        let ssh = Flags { ssh: Some("far".parse().unwrap()), ..url("unix:/s") };
        let nothing = Environment::default();
        let variable = Environment::from([("MOLTBOT_GATEWAY_URL", "wss://far")]);
        let name =
            |flags: &Flags, environment: &Environment| Some(elsewhere(flags, environment)?.0);
        assert_eq!(name(&Flags::default(), &nothing), None);
        assert_eq!(name(&url("unix:/s"), &variable), None, "the flag wins");
        assert_eq!(name(&url("wss://a"), &nothing).unwrap(), "--url");
        assert_eq!(name(&ssh, &nothing).unwrap(), "--ssh");
        assert_eq!(name(&Flags::default(), &variable).unwrap(), "MOLTBOT_GATEWAY_URL");
    }

    #[test]
    fn a_value_is_json5_or_a_text() {
        for (text, value) in [
            ("18790", json!(18790)),
            ("true", json!(true)),
            ("null", json!(null)),
            ("lan", json!("lan")),
            ("[1, 'a']", json!([1, "a"])),
            ("{ a: 1 }", json!({ "a": 1 })),
            ("'18790'", json!("18790")),
            ("${TOKEN}", json!("${TOKEN}")),
            ("NaN", json!("NaN")),
            ("", json!("")),
            ("-1", json!(-1)),
        ] {
            assert_eq!(read_value(text), value, "{text}");
        }
    }
}
