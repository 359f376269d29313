//! Writes the configuration file on a client's word.
//!
//! A client sees the configuration without its secrets, with variables looked
//! up and with defaults. What it sends back says only what it wants to be
//! different: everything it left as it was shown stays as it is written, with
//! its references, includes, comments and order.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Range,
};

use moltbot_protocol::{
    limits,
    methods::config::{ConfigChange, ConfigIssue, ConfigPlanned},
};
use moltbot_settings::{
    Path,
    book::{Book, BookError, Draft, hash},
    edit::{self, Change, EditError},
    locate,
};
use serde_json::{Map, Value};

use super::{
    Effect, Guard, Live, Loaded, Overlay, PLACEHOLDER, Plan, Source, Trigger,
    issue::Issue,
    known, redact,
    snapshot::{shown, with_defaults},
};

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The call is not right; the text is for the client.
    #[error("{0}")]
    Refused(String),
    /// The result could not be used.
    #[error("invalid config")]
    Invalid(Vec<Issue>),
    /// Some keys are changed from another host only by somebody who shows the secret again.
    #[error("changing {} needs the gateway's secret again", .0.join(", "))]
    Guarded(Vec<String>),
    /// A file cannot be edited or written.
    #[error(transparent)]
    Book(#[from] BookError),
}

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// What the file says now.
    pub loaded: Loaded,
    /// What is in force, and what waits.
    pub plan: Plan,
}

impl Written {
    /// Returns what it means, without secrets.
    #[must_use]
    pub fn shown(&self) -> Value {
        redact::value(&with_defaults(&self.loaded.resolved))
    }
}

impl Live {
    /// Replaces what the file says. Reads and writes files: not to be called on
    /// a runtime's thread.
    pub fn replace(
        &self,
        raw: &str,
        base_hash: Option<&str>,
        by: &str,
        guard: Guard<'_>,
    ) -> Result<Written, WriteError> {
        let sent = object(raw, "config raw must be an object")?;
        let mut draft = Book::of(&self.source().file).change()?;
        check_hash(draft.text(), base_hash)?;
        let before = self.source().load_over(Overlay::new());
        if is_from_a_form(raw, draft.text(), &before) {
            let wanted = restored(&sent, &Seen::whole(&before))?;
            let changes = edit::difference(&before.written, &wanted);
            check_effort(draft.text().unwrap_or_default(), &changes)?;
            draft.apply(&changes)?;
        } else {
            let wanted = restored(&sent, &Seen::text(&before))?;
            let changes = edit::difference(&sent, &wanted);
            check_effort(raw, &changes)?;
            let text = edit::apply(raw, &changes)
                .map_err(|error| WriteError::Refused(error.to_string()))?;
            let text = as_it_stood(text, draft.text().unwrap_or_default(), &changes);
            draft.replace(text);
        }
        self.install(draft, &before, by, guard)
    }

    /// Changes what a merge patch says. Reads and writes files: not to be
    /// called on a runtime's thread.
    pub fn patch(
        &self,
        raw: &str,
        base_hash: Option<&str>,
        by: &str,
        guard: Guard<'_>,
    ) -> Result<Written, WriteError> {
        // Before the lock: it is not held for what is refused anyway.
        let sent = object(raw, "config.patch raw must be an object");
        let mut draft = Book::of(&self.source().file).change()?;
        check_hash(draft.text(), base_hash)?;
        let before = self.source().load_over(Overlay::new());
        if !before.is_valid() {
            return Err(WriteError::Refused("invalid config; fix before patching".into()));
        }
        let sent = sent?;
        let patch = restored(&sent, &Seen::whole(&before))?;
        let mut wanted = before.written.clone();
        for change in edit::merge_patch(&before.written, &patch) {
            edit::change_value(&mut wanted, &change)
                .map_err(|error| WriteError::Refused(error.to_string()))?;
        }
        let changes = edit::difference(&before.written, &wanted);
        check_effort(draft.text().unwrap_or_default(), &changes)?;
        draft.apply(&changes)?;
        self.install(draft, &before, by, guard)
    }

    /// Tells what other texts would do.
    #[must_use]
    pub fn plan(&self, files: Overlay) -> ConfigPlanned {
        planned(&self.source().load_over(files), &self.in_force())
    }

    fn install(
        &self,
        draft: Draft,
        before: &Loaded,
        by: &str,
        guard: Guard<'_>,
    ) -> Result<Written, WriteError> {
        let mut loaded = self.source().load_over(draft.changed());
        loaded.issues.extend(new_unknown_keys(before, &loaded));
        if !loaded.is_valid() {
            return Err(WriteError::Invalid(loaded.issues));
        }

        // Both as it is written and as it is in force: a reference to a variable or an included
        // file may hide the one from the other.
        let mut guarded = guard.refuses(&before.written, &loaded.written);
        guarded.extend(guard.refuses(&before.resolved, &loaded.resolved));
        if !guarded.is_empty() {
            guarded.sort_unstable();
            guarded.dedup();
            return Err(WriteError::Guarded(guarded));
        }

        draft.install(by)?;
        // The file's watcher comes to the same end, a little later.
        let plan = self.reload(Trigger::Changed).map_err(WriteError::Refused)?;
        Ok(Written { loaded, plan })
    }
}

impl Source {
    /// Tells what other texts would do, compared with what the file says.
    #[must_use]
    pub fn plan(&self, files: Overlay) -> ConfigPlanned {
        planned(&self.load_over(files), &self.load_over(Overlay::new()).resolved)
    }
}

fn planned(loaded: &Loaded, in_force: &Value) -> ConfigPlanned {
    let change = |(path, effect): (&str, Effect)| ConfigChange {
        path: path.into(),
        effect: effect.name().into(),
    };
    let plan = loaded.is_valid().then(|| Plan::between(in_force, &loaded.resolved));
    ConfigPlanned {
        path: loaded.file.display().to_string(),
        valid: loaded.is_valid(),
        issues: loaded.issues.iter().map(shown).collect(),
        warnings: loaded.warnings.iter().map(shown).collect(),
        changes: plan.iter().flat_map(Plan::effects).map(change).collect(),
        restrictions: super::restrictions(&loaded.config)
            .into_iter()
            .map(|(path, message)| ConfigIssue { path, message })
            .collect(),
    }
}

/// Gives values that were put back the form that they have in the old text.
fn as_it_stood(text: String, old: &str, changes: &[Change]) -> String {
    let (Some(spots), Some(stood)) = (locate::spots(&text), locate::spots(old)) else {
        return text;
    };
    let changed: HashSet<_> = changes.iter().map(|change| change.path().to_string()).collect();
    // Of a key given twice the last counts.
    let stood: HashMap<_, _> =
        stood.iter().map(|spot| (spot.path.to_string(), &spot.bytes)).collect();
    let mut form = text.clone();
    // From the end, so that earlier positions stay right.
    for spot in spots.iter().rev() {
        let path = spot.path.to_string();
        let Some(before) = stood.get(&path).filter(|_| changed.contains(&path)) else { continue };
        let (new, old) = (&text[spot.bytes.clone()], &old[Range::clone(before)]);
        if edit::parse(new).is_ok_and(|new| edit::parse(old) == Ok(new)) {
            form.replace_range(spot.bytes.clone(), old);
        }
    }
    form
}

/// Each change of a text is an edit of its own, which reads the text again.
fn check_effort(text: &str, changes: &[Change]) -> Result<(), WriteError> {
    let most = limits::CONFIG_EDIT_BYTES / text.len().max(1);
    if changes.len() <= most {
        return Ok(());
    }
    Err(WriteError::Refused(format!(
        "{} changes of a configuration of {} bytes are too many at once; send at most {most}, or \
         change the file itself: moltbotctl config edit",
        changes.len(),
        text.len()
    )))
}

/// Refuses what would take long to compare and to write.
fn check_size(raw: &str) -> Result<(), WriteError> {
    let most = limits::CONFIG_BYTES;
    if raw.len() <= most {
        return Ok(());
    }
    let length = raw.len();
    Err(WriteError::Refused(format!(
        "the configuration has {length} bytes; it must NOT have more than {most}"
    )))
}

fn check_values(value: &Value) -> Result<(), WriteError> {
    let most = limits::CONFIG_VALUES;
    let mut left = vec![value];
    let mut count = 0_usize;
    while let Some(value) = left.pop() {
        count += 1;
        match value {
            Value::Array(items) => left.extend(items),
            Value::Object(members) => left.extend(members.values()),
            _ => {}
        }
    }
    if count <= most {
        return Ok(());
    }
    Err(WriteError::Refused(format!(
        "the configuration has {count} values; it must NOT have more than {most}"
    )))
}

fn object(raw: &str, otherwise: &str) -> Result<Value, WriteError> {
    let refused = |text: String| Err(WriteError::Refused(text));
    check_size(raw)?;
    let parsed = edit::parse(raw);
    if let Ok(value) = &parsed {
        check_values(value)?;
    }
    match parsed {
        Ok(value) if value.is_object() => Ok(value),
        Ok(_) => refused(otherwise.into()),
        // The form in which clients of the reference know it.
        Err(EditError::Syntax { position, message }) => {
            let at = position.map(|position| format!(" at {position}")).unwrap_or_default();
            refused(format!("SyntaxError: JSON5: {message}{at}"))
        }
        Err(error) => refused(error.to_string()),
    }
}

fn check_hash(text: Option<&str>, base: Option<&str>) -> Result<(), WriteError> {
    let Some(text) = text else { return Ok(()) };
    let why = match base.map(str::trim).filter(|base| !base.is_empty()) {
        Some(base) if base == hash(text) => return Ok(()),
        Some(_) => "config changed since last load; re-run config.get and retry",
        None => "config base hash required; re-run config.get and retry",
    };
    Err(WriteError::Refused(why.into()))
}

/// An unknown key in a file is only odd. One that a program adds is its
/// mistake, and it hears of it as from the reference.
fn new_unknown_keys(before: &Loaded, after: &Loaded) -> Vec<Issue> {
    let old: HashSet<_> = before.warnings.iter().map(|issue| &issue.path).collect();
    let is_old = |issue: &Issue| old.contains(&issue.path);
    let new = after.warnings.iter().filter(|issue| !is_old(issue));
    new.filter_map(|issue| {
        let rest = issue.message.strip_prefix(known::UNKNOWN)?;
        let Ok(mut path) = issue.path.parse::<Path>();
        let key = path.name()?.to_owned();
        path.0.pop();
        Some(Issue::at(&path, format!("Unrecognized key: {key:?}{rest}")))
    })
    .collect()
}

/// Returns whether a text was made from the configuration as it is shown, not
/// from the text of the file: it is plain JSON where the file is more than
/// that.
fn is_from_a_form(raw: &str, text: Option<&str>, before: &Loaded) -> bool {
    let is_json = |text: &str| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    let more = text.is_some_and(|text| !is_json(text)) || before.parsed != before.written;
    more && before.is_valid() && is_json(raw)
}

/// One value as a client saw it, as it is written, and as it is in force.
#[derive(Clone, Copy)]
struct Views<'a> {
    shown: Option<&'a Value>,
    written: Option<&'a Value>,
    resolved: Option<&'a Value>,
}

/// What a client saw before it sent something.
struct Seen<'a> {
    shown: Value,
    written: &'a Value,
    resolved: &'a Value,
}

impl<'a> Seen<'a> {
    /// It saw what the configuration means.
    fn whole(before: &'a Loaded) -> Self {
        Self {
            shown: redact::value(&with_defaults(&before.resolved)),
            written: &before.written,
            resolved: &before.resolved,
        }
    }

    /// It saw the text of the file.
    fn text(before: &'a Loaded) -> Self {
        Self {
            shown: redact::value(&before.parsed),
            written: &before.parsed,
            resolved: &before.resolved,
        }
    }
}

impl<'a> Views<'a> {
    fn key(self, key: &str) -> Self {
        let inner = |value: Option<&'a Value>| value.and_then(|value| value.get(key));
        self.each(inner)
    }

    fn index(self, index: Option<usize>) -> Self {
        let inner = |value: Option<&'a Value>| value.and_then(|value| value.get(index?));
        self.each(inner)
    }

    fn each(self, inner: impl Fn(Option<&'a Value>) -> Option<&'a Value>) -> Self {
        Self {
            shown: inner(self.shown),
            written: inner(self.written),
            resolved: inner(self.resolved),
        }
    }
}

/// Returns what a client means by what it sent: what is as it was shown stays
/// as it is written.
fn restored(sent: &Value, seen: &Seen<'_>) -> Result<Value, WriteError> {
    let views = Views {
        shown: Some(&seen.shown),
        written: Some(seen.written),
        resolved: Some(seen.resolved),
    };
    let mut unknown = Vec::new();
    let restored = restore(sent, views, &Path::default(), &mut unknown);
    if !unknown.is_empty() {
        return Err(WriteError::Invalid(unknown));
    }
    Ok(restored.unwrap_or_else(|| Value::Object(Map::new())))
}

/// Returns `None` for a default that was shown but is not written anywhere.
fn restore(sent: &Value, views: Views<'_>, at: &Path, unknown: &mut Vec<Issue>) -> Option<Value> {
    if views.shown == Some(sent) {
        return views.written.cloned();
    }
    match sent {
        Value::Object(members) => {
            let restored = members.iter().filter_map(|(key, member)| {
                let member = restore(member, views.key(key), &at.key(key), unknown)?;
                Some((key.clone(), member))
            });
            Some(Value::Object(restored.collect()))
        }
        Value::Array(items) => {
            let partners = partners(items, views.shown);
            let restored =
                items.iter().zip(partners).enumerate().map(|(index, (item, partner))| {
                    restore(item, views.index(partner), &at.index(index), unknown)
                        .unwrap_or_else(|| item.clone())
                });
            Some(restored.collect())
        }
        Value::String(text) if text.contains(PLACEHOLDER) => {
            let why = format!("is {PLACEHOLDER:?}, but no secret is here; give the value itself");
            unknown.push(Issue::at(at, why));
            None
        }
        sent => {
            let is_reference = |it: &&Value| it.as_str().is_some_and(|text| text.contains("${"));
            let reference = views.written.filter(is_reference);
            let same = views.resolved == Some(sent);
            Some(reference.filter(|_| same).unwrap_or(sent).clone())
        }
    }
}

/// Returns which item of a list as it was shown each sent item was made from:
/// the same, else the one with its id or name, else the one at its place while
/// the list is as long as it was.
fn partners(sent: &[Value], shown: Option<&Value>) -> Vec<Option<usize>> {
    let Some(shown) = shown.and_then(Value::as_array) else { return vec![None; sent.len()] };
    let mut partners = Partners { found: vec![None; sent.len()], is_free: vec![true; shown.len()] };
    partners
        .pair(|index| shown.get(index).is_some_and(|other| *other == sent[index]).then_some(index));

    let mut equal = Positions::of(shown, Value::to_string);
    partners.pair_by(|index, is_free| equal.next(&sent[index].to_string(), is_free));

    let text = |item: &Value| name(item).map_or_else(String::new, Value::to_string);
    let mut named = Positions::of(shown, text);
    partners.pair_by(|index, is_free| {
        name(&sent[index]).and_then(|name| named.next(&name.to_string(), is_free))
    });

    let long = sent.len() == shown.len();
    partners.pair(|index| {
        (long && name(&sent[index]).is_none() && name(&shown[index]).is_none()).then_some(index)
    });
    partners.found
}

/// Which item each item was made from, and which were not used yet. Each rule
/// is asked once for each item, so that long lists take no longer than they
/// are.
struct Partners {
    found: Vec<Option<usize>>,
    is_free: Vec<bool>,
}

impl Partners {
    fn pair(&mut self, rule: impl Fn(usize) -> Option<usize>) {
        self.pair_by(|index, is_free| rule(index).filter(|&other| is_free[other]));
    }

    fn pair_by(&mut self, mut rule: impl FnMut(usize, &[bool]) -> Option<usize>) {
        for index in 0..self.found.len() {
            if self.found[index].is_none()
                && let Some(other) = rule(index, &self.is_free)
            {
                self.is_free[other] = false;
                self.found[index] = Some(other);
            }
        }
    }
}

/// Where in a list the items with a key are, in their order.
struct Positions(HashMap<String, VecDeque<usize>>);

impl Positions {
    fn of(items: &[Value], key: impl Fn(&Value) -> String) -> Self {
        let mut positions = HashMap::<_, VecDeque<_>>::new();
        for (index, item) in items.iter().enumerate() {
            positions.entry(key(item)).or_default().push_back(index);
        }
        Self(positions)
    }

    /// Returns the first that is free; those before it are not looked at again.
    fn next(&mut self, key: &str, is_free: &[bool]) -> Option<usize> {
        let found = self.0.get_mut(key)?;
        while let Some(&first) = found.front() {
            if is_free[first] {
                return Some(first);
            }
            found.pop_front();
        }
        None
    }
}

fn name(item: &Value) -> Option<&Value> {
    ["id", "name"].iter().find_map(|key| item.get(key)).filter(|name| name.is_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::environment::Environment;

    const TEXT: &str = "// mine
{
  gateway: { auth: { token: 'hunter2hunter2' }, reload: { mode: 'hot' } }, // keep
  models: { providers: { a: { baseUrl: 'http://h', apiKey: '${A_KEY}' } } },
  ui: { assistant: { name: '${NAME}' } },
  bindings: [{ id: 'x', password: 'one' }, { id: 'y', password: 'two' }],
}
";

    fn live(text: &str) -> (tempfile::TempDir, Live) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("moltbot.json");
        fs::write(&file, text).unwrap();
        let environment = Environment::from([("A_KEY", "akey"), ("NAME", "Molty")]);
        let source = Source { file, environment, ..Source::default() };
        let loaded = source.load();
        assert!(loaded.is_valid(), "{:?}", loaded.issues);
        (dir, Live::of(source, loaded))
    }

    fn text(live: &Live) -> String {
        fs::read_to_string(&live.source().file).unwrap()
    }

    fn base(live: &Live) -> Option<String> {
        Some(hash(&text(live)))
    }

    fn refused(result: Result<Written, WriteError>) -> String {
        match result.unwrap_err() {
            WriteError::Invalid(issues) => format!("{issues:?}"),
            error => error.to_string(),
        }
    }

    #[test]
    fn the_text_as_it_was_shown_changes_nothing() {
        let (_dir, live) = live(TEXT);
        let snapshot = live.source().load().snapshot(&json!({}));
        let raw = snapshot.raw.unwrap();
        assert!(raw.contains(PLACEHOLDER));
        live.replace(&raw, base(&live).as_deref(), "test", Guard::Lifted).unwrap();
        assert_eq!(text(&live), TEXT);
        let raw = raw.replace("mode: 'hot'", "mode: 'off'");
        live.replace(&raw, base(&live).as_deref(), "test", Guard::Lifted).unwrap();
        assert_eq!(text(&live), TEXT.replace("mode: 'hot'", "mode: 'off'"));
    }

    #[test]
    fn the_configuration_as_it_was_shown_changes_nothing() {
        let (_dir, live) = live(TEXT);
        let mut form = live.source().load().snapshot(&json!({})).config;
        assert_eq!(form["ui"]["assistant"]["name"], "Molty");
        let raw = serde_json::to_string_pretty(&form).unwrap();
        live.replace(&raw, base(&live).as_deref(), "test", Guard::Lifted).unwrap();
        assert_eq!(text(&live), TEXT);
        form["gateway"]["reload"]["mode"] = "off".into();
        form["bindings"].as_array_mut().unwrap().remove(0);
        live.replace(&form.to_string(), base(&live).as_deref(), "test", Guard::Lifted).unwrap();
        let wanted = TEXT
            .replace("mode: 'hot'", "mode: \"off\"")
            .replace("{ id: 'x', password: 'one' },", "");
        assert_eq!(text(&live), wanted);
    }

    #[test]
    fn a_patch_changes_what_it_names() {
        let (_dir, live) = live(TEXT);
        let patch = json!({
            "gateway": { "auth": { "token": PLACEHOLDER }, "reload": null },
            "models": { "providers": { "a": { "apiKey": PLACEHOLDER, "baseUrl": "http://i" } } },
            "ui": { "assistant": { "name": "Molty" } },
        });
        let written =
            live.patch(&patch.to_string(), base(&live).as_deref(), "test", Guard::Lifted).unwrap();
        let wanted =
            TEXT.replace(", reload: { mode: 'hot' }", "").replace("'http://h'", "\"http://i\"");
        assert_eq!(text(&live), wanted);
        assert_eq!(written.shown()["gateway"]["auth"]["token"], PLACEHOLDER);
        assert_eq!(written.plan.hot, ["gateway.reload.mode", "models.providers.a.baseUrl"]);
    }

    #[test]
    fn a_placeholder_without_its_secret_is_refused() {
        let (_dir, live) = live(TEXT);
        let base = base(&live);
        for patch in [
            json!({ "channels": { "telegram": { "botToken": PLACEHOLDER } } }),
            json!({ "bindings": [{ "id": "z", "password": PLACEHOLDER }] }),
        ] {
            let why =
                refused(live.patch(&patch.to_string(), base.as_deref(), "test", Guard::Lifted));
            assert!(why.contains("give the value itself"), "{why}");
        }
        assert_eq!(text(&live), TEXT);
    }

    #[test]
    fn what_is_not_right_is_refused_as_the_reference_does() {
        let (_dir, live) = live(TEXT);
        let base = base(&live);
        let set =
            |raw: &str, base: Option<&str>| refused(live.replace(raw, base, "test", Guard::Lifted));
        assert!(set("{}", None).starts_with("config base hash required;"));
        assert!(set("{}", Some("00")).starts_with("config changed since last load;"));
        assert!(set("{ nope", base.as_deref()).starts_with("SyntaxError: JSON5: "));
        assert!(set("{ gateway: { port: 'x' } }", base.as_deref()).contains("gateway.port"));
        let why = set("{ gateway: { bogus: 1 } }", base.as_deref());
        assert!(why.contains("path: \"gateway\"") && why.contains("Unrecognized key"), "{why}");
        let patch = |raw: &str| refused(live.patch(raw, base.as_deref(), "test", Guard::Lifted));
        assert_eq!(patch("[]"), "config.patch raw must be an object");
        fs::write(&live.source().file, "{ gateway: 5 }").unwrap();
        let base = Some(hash("{ gateway: 5 }"));
        let why = refused(live.patch("{}", base.as_deref(), "test", Guard::Lifted));
        assert_eq!(why, "invalid config; fix before patching");
        live.replace("{ /* fixed */ }", base.as_deref(), "test", Guard::Lifted).unwrap();
        assert_eq!(text(&live), "{ /* fixed */ }");
    }

    #[test]
    fn items_of_a_list_are_found_by_place_by_value_and_by_name() {
        let list = |value: Value| value.as_array().unwrap().clone();
        let shown = json!(["a", "b", "b", { "id": "x", "n": 1 }, { "id": "y" }, { "id": "y" }]);
        let sent =
            list(json!(["b", { "id": "y" }, "b", "c", { "id": "x", "n": 2 }, { "id": "y" }]));
        let found = partners(&sent, Some(&shown));
        assert_eq!(found, [Some(1), Some(4), Some(2), None, Some(3), Some(5)]);
        let same_length = list(json!(["z", "a", "y"]));
        let by_place = partners(&same_length, Some(&json!(["b", "c", "d"])));
        assert_eq!(by_place, [Some(0), Some(1), Some(2)]);
        assert_eq!(partners(&same_length, None), [None, None, None]);
    }

    /// Comparing each item with each would take hours.
    #[test]
    fn long_lists_take_no_longer_than_they_are() {
        let shown: Value = (0..200_000).map(|index| json!(format!("old {index}"))).collect();
        let sent: Vec<_> = (0..200_001).map(|index| json!(format!("new {index}"))).collect();
        assert_eq!(partners(&sent, Some(&shown)).iter().flatten().count(), 0);
    }

    #[test]
    fn what_is_too_much_is_refused_with_its_size() {
        let (_dir, live) = live(TEXT);
        let base = base(&live);
        let keys = |count: usize| {
            let keys = (0..count).map(|index| (format!("k{index}"), json!(1)));
            json!({ "ui": keys.collect::<Map<_, _>>() }).to_string()
        };
        let set = |raw: &str| refused(live.replace(raw, base.as_deref(), "test", Guard::Lifted));
        let patch = |raw: &str| refused(live.patch(raw, base.as_deref(), "test", Guard::Lifted));
        let wanted = "values; it must NOT have more than 20000";
        assert!(set(&keys(50_000)).contains(wanted));
        assert!(patch(&keys(50_000)).contains(wanted));
        assert!(set(&keys(300_000)).contains("bytes; it must NOT have more than 1048576"));
        assert!(patch(&keys(300_000)).contains("bytes; it must NOT have more than 1048576"));
        assert_eq!(text(&live), TEXT);
    }

    #[test]
    fn the_largest_configuration_is_written_and_many_changes_of_it_are_not() {
        let (_dir, live) = live("{}");
        let keys = |value: i64| {
            let keys = (0..19_000).map(|index| (format!("k{index}"), json!(value)));
            json!({ "ui": keys.collect::<Map<_, _>>() }).to_string()
        };
        live.replace(&keys(1), base(&live).as_deref(), "test", Guard::Lifted).unwrap();
        let why = refused(live.patch(&keys(2), base(&live).as_deref(), "test", Guard::Lifted));
        assert!(why.contains("19000 changes of a configuration of"), "{why}");
        assert_eq!(text(&live), keys(1));
    }

    #[test]
    fn an_included_file_is_changed_where_it_is() {
        let (dir, live) = live(TEXT);
        fs::write(dir.path().join("more.json"), "{ // more\n session: { scope: 'global' } }")
            .unwrap();
        fs::write(&live.source().file, "{ $include: 'more.json', ui: { a: 1 } }").unwrap();
        let patch = "{ session: { scope: 'per-sender' }, ui: { b: 2 } }";
        live.patch(patch, base(&live).as_deref(), "test", Guard::Lifted).unwrap();
        assert_eq!(text(&live), "{ $include: 'more.json', ui: { a: 1, b: 2 } }");
        let more = fs::read_to_string(dir.path().join("more.json")).unwrap();
        assert_eq!(more, "{ // more\n session: { scope: \"per-sender\" } }");
    }
}
