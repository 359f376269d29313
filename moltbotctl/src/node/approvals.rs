//! What may run on this node, and who must agree.
//!
//! Two things decide. The owner's flags are a ceiling: they are read once, at
//! the start, and nothing that comes over the network can raise them. Under it
//! the exec approvals file may be stricter, for all agents or one. A gateway
//! changes that file only when the owner allowed it, because whoever talks to an
//! assistant could otherwise have it lift the rules that are there against it.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::bail;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{
    command::Found,
    pattern, programs,
    rules::{Ask, Entry, File, Security, Socket},
};
use crate::{client::now_ms, files, identity::hex};

/// The agent whose rules apply when none is named.
const DEFAULT_AGENT: &str = "main";
/// Rules for every agent.
const ANY_AGENT: &str = "*";

/// What applies at most, and where the file says nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ceiling {
    pub(super) security: Security,
    pub(super) ask: Ask,
}

impl Ceiling {
    /// Returns whether a person's approval lets a program run that is not on the
    /// list. With `--exec-ask off` nobody is to be asked, so nobody approves.
    fn takes_approvals(self) -> bool {
        self.security == Security::Full || self.ask != Ask::Off
    }
}

/// What a person has decided already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    None,
    Once,
    Always,
}

/// Why a command does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    Disabled,
    ApprovalRequired,
    AllowlistMiss,
}

impl Denied {
    /// The message of the failed call.
    pub(super) const fn message(self) -> &'static str {
        match self {
            Self::Disabled => "SYSTEM_RUN_DISABLED: security=deny",
            Self::ApprovalRequired => "SYSTEM_RUN_DENIED: approval required",
            Self::AllowlistMiss => "SYSTEM_RUN_DENIED: allowlist miss",
        }
    }

    /// The reason in `exec.denied`.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Disabled => "security=deny",
            Self::ApprovalRequired => "approval-required",
            Self::AllowlistMiss => "allowlist-miss",
        }
    }
}

/// The file and what applies without it.
#[derive(Debug)]
pub(super) struct Approvals {
    path: PathBuf,
    ceiling: Ceiling,
    /// Whether the gateway may change the file.
    remote_changes: bool,
    /// Held while the file is read and replaced.
    lock: Mutex<()>,
}

impl Approvals {
    pub(super) fn new(path: PathBuf, ceiling: Ceiling, remote_changes: bool) -> Self {
        Self { path, ceiling, remote_changes, lock: Mutex::new(()) }
    }

    /// Returns whether the gateway may change the file.
    pub(super) const fn takes_remote_changes(&self) -> bool {
        self.remote_changes
    }

    /// Returns a text for every rule of the file that the ceiling overrules, so
    /// that an owner does not wonder why it has no effect.
    ///
    /// # Errors
    /// When the file cannot be read; nothing runs until it can.
    pub(super) fn overruled(&self) -> anyhow::Result<Vec<String>> {
        let file = self.read()?;
        let sections = file.agents.iter().map(|(name, rules)| (format!("agents.{name}"), rules));
        let all = std::iter::once(("defaults".to_owned(), &file.defaults)).chain(sections);
        let mut texts = Vec::new();
        for (section, rules) in all {
            if let Some(security) = rules.security.filter(|it| *it > self.ceiling.security) {
                texts.push(overruled_text(&section, "security", security, self.ceiling.security));
            }
            if let Some(ask) = rules.ask.filter(|it| *it < self.ceiling.ask) {
                texts.push(overruled_text(&section, "ask", ask, self.ceiling.ask));
            }
        }
        Ok(texts)
    }

    /// Decides whether a command runs, and writes down what was used or newly
    /// allowed.
    pub(super) fn decide(
        &self,
        agent: Option<&str>,
        found: &Found,
        text: &str,
        home: &Path,
        decision: Decision,
    ) -> anyhow::Result<Result<(), Denied>> {
        let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = self.read()?;
        let agent = agent.map(str::trim).filter(|name| !name.is_empty()).unwrap_or(DEFAULT_AGENT);
        let Ceiling { security, ask } = self.policy(&file, agent);
        if security == Security::Deny {
            return Ok(Err(Denied::Disabled));
        }
        let used = if security == Security::Allowlist {
            allowed_by(&file, agent, found, home)
        } else {
            None
        };
        let matched = used.is_some();
        let approved = decision != Decision::None && self.ceiling.takes_approvals();
        let must_ask = match ask {
            Ask::Off => false,
            Ask::OnMiss => security == Security::Allowlist && !matched,
            Ask::Always => true,
        };
        if must_ask && !approved {
            return Ok(Err(Denied::ApprovalRequired));
        }
        if security == Security::Allowlist && !matched && !approved {
            return Ok(Err(Denied::AllowlistMiss));
        }
        // What a person approves for good over the network changes the file as much as `set` does.
        let learned = decision == Decision::Always
            && approved
            && security == Security::Allowlist
            && self.remote_changes;
        let changed = note_use(&mut file, used.unwrap_or_default(), text)
            | (learned && learn(&mut file, agent, found));
        if changed {
            self.write(&file)?;
        }
        Ok(Ok(()))
    }

    /// Answers `system.execApprovals.get`; creates the file.
    pub(super) fn get(&self) -> anyhow::Result<Value> {
        let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.snapshot()
    }

    /// Answers `system.execApprovals.set`.
    pub(super) fn set(&self, params: &Map<String, Value>) -> anyhow::Result<Value> {
        if !self.remote_changes {
            bail!(
                "INVALID_REQUEST: this node takes no changes of its exec approvals from a gateway; \
                 edit {} there, or start it with --allow-remote-approvals",
                self.path.display()
            );
        }
        let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(given) = params.get("file").filter(|file| file.is_object()) else {
            bail!("INVALID_REQUEST: exec approvals file required");
        };
        if let Some(text) = files::read(&self.path)? {
            match params.get("baseHash").and_then(Value::as_str).map(str::trim) {
                None | Some("") => {
                    bail!("INVALID_REQUEST: exec approvals base hash required; reload and retry")
                }
                Some(hash) if hash != hash_of(&text) => {
                    bail!("INVALID_REQUEST: exec approvals changed; reload and retry")
                }
                Some(_) => {}
            }
        }
        let mut file: File = serde_json::from_value(given.clone())
            .map_err(|error| anyhow::anyhow!("INVALID_REQUEST: exec approvals file: {error}"))?;
        let kept = self.read()?.socket;
        file.socket = merged(file.socket, kept);
        self.write(&file)?;
        self.snapshot()
    }

    fn snapshot(&self) -> anyhow::Result<Value> {
        let text = match files::read(&self.path)? {
            Some(text) => text,
            None => files::create(&self.path, &text_of(&File { version: 1, ..File::default() })?)?,
        };
        let mut file: File = self.parse(&text)?;
        if let Some(socket) = &mut file.socket {
            socket.token = None;
        }
        Ok(json!({ "path": self.path, "exists": true, "hash": hash_of(&text), "file": file }))
    }

    fn policy(&self, file: &File, agent: &str) -> Ceiling {
        let sections = [file.agents.get(agent), file.agents.get(ANY_AGENT), Some(&file.defaults)];
        let sections = || sections.iter().flatten();
        let Ceiling { security, ask } = self.ceiling;
        Ceiling {
            security: sections().find_map(|it| it.security).map_or(security, |it| it.min(security)),
            ask: sections().find_map(|it| it.ask).map_or(ask, |it| it.max(ask)),
        }
    }

    fn read(&self) -> anyhow::Result<File> {
        match files::read(&self.path)? {
            Some(text) => self.parse(&text),
            None => Ok(File { version: 1, ..File::default() }),
        }
    }

    /// A file that cannot be understood allows nothing.
    fn parse(&self, text: &str) -> anyhow::Result<File> {
        serde_json::from_str(text)
            .map_err(|error| anyhow::anyhow!("the exec approvals file is damaged: {error}"))
    }

    fn write(&self, file: &File) -> anyhow::Result<()> {
        files::replace(&self.path, &text_of(file)?)
    }
}

fn overruled_text(
    section: &str,
    key: &str,
    rule: impl serde::Serialize,
    ceiling: impl serde::Serialize,
) -> String {
    let word = |it: Value| it.as_str().unwrap_or_default().to_owned();
    let (rule, ceiling) = (word(json!(rule)), word(json!(ceiling)));
    format!(
        "exec-approvals.json: {section}.{key} is {rule}, but this node was started with \
         {ceiling}, which counts; to allow it: --exec-{key} {rule}"
    )
}

fn text_of(file: &File) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(file)?))
}

fn hash_of(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn merged(given: Option<Socket>, kept: Option<Socket>) -> Option<Socket> {
    let (given, kept) = match (given, kept) {
        (Some(given), Some(kept)) => (given, kept),
        (given, kept) => return given.or(kept),
    };
    Some(Socket { path: given.path.or(kept.path), token: given.token.or(kept.token) })
}

/// An entry of an agent's allowlist and the program it allowed.
type Use = (String, usize, PathBuf);

/// Returns the entries that allow the command: the command itself, or every
/// program of its script.
fn allowed_by(file: &File, agent: &str, found: &Found, home: &Path) -> Option<Vec<Use>> {
    let one = |program: &PathBuf| {
        let spellings = programs::spellings(program);
        [agent, ANY_AGENT].into_iter().find_map(|agent| {
            let rules = file.agents.get(agent)?;
            let at = rules.allowlist.iter().position(|entry| {
                spellings.iter().any(|path| pattern::matches(&entry.pattern, path, Some(home)))
            })?;
            Some((agent.to_owned(), at, program.clone()))
        })
    };
    let whole = found.command.as_ref().and_then(one).map(|used| vec![used]);
    whole.or_else(|| found.script.as_ref()?.iter().map(one).collect())
}

fn note_use(file: &mut File, used: Vec<Use>, text: &str) -> bool {
    let any = !used.is_empty();
    for (agent, at, program) in used {
        let entry = file.agents.get_mut(&agent).and_then(|rules| rules.allowlist.get_mut(at));
        if let Some(entry) = entry {
            entry.last_used_at = Some(now_ms());
            entry.last_used_command = Some(text.to_owned());
            entry.last_resolved_path = Some(program.to_string_lossy().into_owned());
        }
    }
    any
}

/// Adds what was approved for good. A shell, or another program that runs what it
/// is given, is never added: that would allow everything.
fn learn(file: &mut File, agent: &str, found: &Found) -> bool {
    let programs: Vec<PathBuf> = match (&found.script, found.is_runner) {
        (Some(programs), _) => programs.clone(),
        (None, true) => Vec::new(),
        (None, false) => found.command.iter().cloned().collect(),
    };
    let rules = file.agents.entry(agent.to_owned()).or_default();
    let before = rules.allowlist.len();
    for pattern in programs.iter().filter_map(|path| programs::spellings(path).into_iter().next()) {
        // A path with pattern characters would allow more than itself.
        if !pattern.contains(['*', '?']) && rules.allowlist.iter().all(|it| it.pattern != pattern) {
            rules.allowlist.push(Entry {
                id: Some(uuid::Uuid::new_v4().to_string()),
                pattern,
                last_used_at: Some(now_ms()),
                ..Entry::default()
            });
        }
    }
    rules.allowlist.len() > before
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Ceiling = Ceiling { security: Security::Full, ask: Ask::Off };
    const DEFAULT: Ceiling = Ceiling { security: Security::Allowlist, ask: Ask::OnMiss };

    const HOME: &str = "/nowhere";

    struct Setup {
        _folder: tempfile::TempDir,
        approvals: Approvals,
    }

    fn setup(file: Option<Value>) -> Setup {
        setup_under(DEFAULT, true, file)
    }

    fn setup_under(ceiling: Ceiling, remote: bool, file: Option<Value>) -> Setup {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exec-approvals.json");
        if let Some(file) = file {
            files::create(&path, &file.to_string()).unwrap();
        }
        Setup { approvals: Approvals::new(path, ceiling, remote), _folder: folder }
    }

    fn found(program: &str) -> Found {
        Found { command: Some(program.into()), script: None, is_runner: false }
    }

    fn decide(setup: &Setup, found: &Found, decision: Decision) -> Result<(), Denied> {
        setup.approvals.decide(None, found, "text", HOME.as_ref(), decision).unwrap()
    }

    #[test]
    fn every_row_of_the_policy_table_decides_as_documented() {
        use Ask::{Always, Off, OnMiss};
        use Decision::{None as No, Once};
        use Denied::{AllowlistMiss, ApprovalRequired, Disabled};
        use Security::{Allowlist, Deny, Full};
        let table = [
            (Deny, Off, true, Once, Err(Disabled)),
            (Deny, Always, false, No, Err(Disabled)),
            (Allowlist, Off, true, No, Ok(())),
            (Allowlist, OnMiss, true, No, Ok(())),
            (Allowlist, Always, true, No, Err(ApprovalRequired)),
            (Allowlist, OnMiss, false, No, Err(ApprovalRequired)),
            (Allowlist, Always, false, No, Err(ApprovalRequired)),
            (Allowlist, Off, false, No, Err(AllowlistMiss)),
            (Allowlist, Off, false, Once, Ok(())),
            (Allowlist, OnMiss, false, Once, Ok(())),
            (Full, Off, false, No, Ok(())),
            (Full, OnMiss, false, No, Ok(())),
            (Full, Always, false, No, Err(ApprovalRequired)),
            (Full, Always, false, Once, Ok(())),
        ];
        for (security, ask, listed, decision, expected) in table {
            let setup = setup_under(
                WIDE,
                true,
                Some(json!({
                    "version": 1,
                    "agents": { "main": { "security": security, "ask": ask,
                        "allowlist": [{ "pattern": "/usr/bin/listed" }] } },
                })),
            );
            let found = found(if listed { "/usr/bin/listed" } else { "/usr/bin/other" });
            let row = format!("{security:?} {ask:?} {listed} {decision:?}");
            assert_eq!(decide(&setup, &found, decision), expected, "{row}");
        }
    }

    #[test]
    fn the_agents_rules_beat_those_of_every_agent_and_the_defaults() {
        let setup = setup_under(
            WIDE,
            true,
            Some(json!({
                "version": 1,
                "defaults": { "security": "deny" },
                "agents": { "*": { "security": "allowlist", "ask": "off" }, "ops": { "security": "full" } },
            })),
        );
        let decide = |agent| {
            let found = found("/usr/bin/x");
            setup.approvals.decide(agent, &found, "", HOME.as_ref(), Decision::None).unwrap()
        };
        assert_eq!(decide(Some("ops")), Ok(()));
        assert_eq!(decide(None), Err(Denied::AllowlistMiss));
    }

    #[test]
    fn allow_always_adds_the_program_but_never_a_shell() {
        let setup = setup(None);
        decide(&setup, &found("/usr/bin/id"), Decision::Always).unwrap();
        assert_eq!(decide(&setup, &found("/usr/bin/id"), Decision::None), Ok(()));
        let shell = Found { is_runner: true, ..found("/bin/sh") };
        decide(&setup, &shell, Decision::Always).unwrap();
        assert_eq!(decide(&setup, &shell, Decision::None), Err(Denied::ApprovalRequired));
    }

    #[test]
    fn a_script_runs_when_all_its_programs_are_allowed() {
        let setup = setup(Some(json!({
            "version": 1, "agents": { "*": { "allowlist": [{ "pattern": "/opt/*/tool" }] } },
        })));
        let script = |programs: &[&str]| Found {
            command: Some("/bin/sh".into()),
            script: Some(programs.iter().map(Into::into).collect()),
            is_runner: true,
        };
        assert_eq!(decide(&setup, &script(&["/opt/x/tool"]), Decision::None), Ok(()));
        let mixed = script(&["/opt/x/tool", "/usr/bin/id"]);
        assert_eq!(decide(&setup, &mixed, Decision::None), Err(Denied::ApprovalRequired));
    }

    #[test]
    fn a_set_needs_the_hash_of_what_it_replaces_and_a_damaged_file_allows_nothing() {
        let setup = setup(None);
        let hash = setup.approvals.get().unwrap()["hash"].clone();
        let set = |params: Value| {
            setup.approvals.set(params.as_object().unwrap()).map_err(|error| error.to_string())
        };
        let file = json!({ "version": 1, "defaults": { "security": "full" } });
        assert!(set(json!({})).unwrap_err().contains("file required"));
        assert!(set(json!({ "file": file })).unwrap_err().contains("base hash required"));
        assert!(set(json!({ "file": file, "baseHash": "x" })).unwrap_err().contains("changed"));
        set(json!({ "file": file, "baseHash": hash })).unwrap();
        assert_eq!(
            decide(&setup, &found("/usr/bin/x"), Decision::None),
            Err(Denied::ApprovalRequired),
            "the ceiling stands"
        );
        files::replace(&setup.approvals.path, "{").unwrap();
        let found = found("/usr/bin/x");
        assert!(setup.approvals.decide(None, &found, "", HOME.as_ref(), Decision::Once).is_err());
    }

    #[test]
    fn the_file_can_be_stricter_than_the_ceiling_and_never_wider() {
        use Ask::{Always, Off, OnMiss};
        use Security::{Allowlist, Deny, Full};
        for security in [Deny, Allowlist, Full] {
            for ask in [Off, OnMiss, Always] {
                let ceiling = Ceiling { security, ask };
                for (in_file, ask_in_file) in [(Deny, Always), (Allowlist, OnMiss), (Full, Off)] {
                    let rules = json!({ "security": in_file, "ask": ask_in_file });
                    let file = json!({ "version": 1, "defaults": rules, "agents": { "*": rules } });
                    let setup = setup_under(ceiling, true, Some(file));
                    let effective = setup.approvals.policy(&setup.approvals.read().unwrap(), "x");
                    assert_eq!(effective.security, in_file.min(security));
                    assert_eq!(effective.ask, ask_in_file.max(ask));
                    let overruled = setup.approvals.overruled().unwrap();
                    let wider = usize::from(in_file > security) + usize::from(ask_in_file < ask);
                    assert_eq!(overruled.len(), 2 * wider, "{overruled:?}");
                }
            }
        }
        let setup = setup_under(
            DEFAULT,
            true,
            Some(json!({ "version": 1, "defaults": { "security": "full" } })),
        );
        assert_eq!(
            setup.approvals.overruled().unwrap(),
            ["exec-approvals.json: defaults.security is full, but this node was started with \
              allowlist, which counts; to allow it: --exec-security full"]
        );
    }

    #[test]
    fn a_gateways_approval_counts_only_where_the_flags_let_a_person_be_asked() {
        let off = Ceiling { security: Security::Allowlist, ask: Ask::Off };
        let file = json!({ "version": 1, "defaults": { "ask": "on-miss" } });
        let setup = setup_under(off, true, Some(file));
        for decision in [Decision::Once, Decision::Always] {
            let refused = decide(&setup, &found("/usr/bin/x"), decision);
            assert_eq!(refused, Err(Denied::ApprovalRequired));
        }
    }

    #[test]
    fn a_gateway_changes_the_file_only_when_the_owner_allowed_it() {
        let setup = setup_under(DEFAULT, false, None);
        let before = setup.approvals.get().unwrap();
        let file = json!({ "version": 1, "defaults": { "security": "deny" } });
        let params = json!({ "file": file, "baseHash": before["hash"] });
        let refusal = setup.approvals.set(params.as_object().unwrap()).unwrap_err().to_string();
        assert!(refusal.contains("--allow-remote-approvals"), "{refusal}");
        // An approval for good counts once.
        assert_eq!(decide(&setup, &found("/usr/bin/id"), Decision::Always), Ok(()));
        let again = decide(&setup, &found("/usr/bin/id"), Decision::None);
        assert_eq!(again, Err(Denied::ApprovalRequired));
        assert_eq!(setup.approvals.get().unwrap(), before);
    }

    #[test]
    fn a_token_of_the_socket_is_never_shown_and_survives_a_set() {
        let setup = setup(Some(json!({
            "version": 1, "socket": { "path": "/s", "token": "secret" } })));
        let shown = setup.approvals.get().unwrap();
        assert!(!shown.to_string().contains("secret"));
        let params = json!({ "file": shown["file"], "baseHash": shown["hash"] });
        setup.approvals.set(params.as_object().unwrap()).unwrap();
        assert!(files::read(&setup.approvals.path).unwrap().unwrap().contains("secret"));
    }
}
