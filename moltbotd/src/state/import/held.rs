//! What no part of this version runs yet. It is kept in the database for the
//! version that does, and the report says so.

use serde_json::{Value, json};

use super::{
    Items, Outcome, Target,
    source::{self, Folder},
};
use crate::{clock, store::ImportedRow};

const NO_CRON: &str = "kept in the database; this version runs no scheduled jobs yet";
const NO_APPROVALS: &str = "kept in the database; this version asks nobody before it runs \
                            something. For a node host on this host copy the file to the folder \
                            node of the state folder";
const NO_PROFILES: &str = "kept in the database; this version reads keys of models from \
                           models.providers.NAME.apiKey or variables such as ANTHROPIC_API_KEY";
const NO_SPEECH: &str = "kept in the database; this version does not speak yet";

pub(super) fn take(target: &Target<'_>, folder: &Folder, items: &mut Items) {
    jobs(target, folder, items);
    whole(
        target,
        folder,
        ("exec-approvals.json", "exec-approvals", "gateway"),
        NO_APPROVALS,
        items,
    );
    whole(target, folder, ("settings/tts.json", "tts", "gateway"), NO_SPEECH, items);
    for agent in folder.names("agents") {
        for name in ["auth-profiles.json", "auth.json"] {
            let file = format!("agents/{agent}/agent/{name}");
            let id = if name == "auth.json" { format!("{agent}/auth") } else { agent.clone() };
            whole(target, folder, (&file, "auth-profiles", &id), NO_PROFILES, items);
        }
    }
    let oauth = ("credentials/oauth.json", "auth-profiles", "oauth");
    whole(target, folder, oauth, NO_PROFILES, items);
}

fn jobs(target: &Target<'_>, folder: &Folder, items: &mut Items) {
    let file = "cron/jobs.json";
    let Some(path) = folder.file(file) else { return };
    let jobs = source::object(&path).and_then(|object| {
        object.get("jobs").and_then(Value::as_array).cloned().ok_or("it holds no jobs".into())
    });
    let jobs = match jobs {
        Ok(jobs) => jobs,
        Err(why) => return items.fail("cron job", file, why),
    };
    for (index, job) in jobs.into_iter().enumerate() {
        let Some(id) = job.get("id").and_then(Value::as_str).map(str::to_owned) else {
            items.fail("cron job", format!("{file}, number {}", index + 1), "it has no id");
            continue;
        };
        let name = job.get("name").and_then(Value::as_str).unwrap_or(&id).to_owned();
        let row = ImportedRow {
            kind: "cron-job",
            id,
            body: job.to_string(),
            origin: path.display().to_string(),
        };
        keep(target, row, ("cron job", name), NO_CRON, items);
    }
    for name in folder.names("cron/runs") {
        folder.note(&folder.path.join("cron/runs").join(name));
    }
}

/// Keeps a file as a whole.
fn whole(
    target: &Target<'_>,
    folder: &Folder,
    (file, kind, id): (&str, &'static str, &str),
    why: &str,
    items: &mut Items,
) {
    let Some(path) = folder.file(file) else { return };
    match source::object(&path) {
        Ok(object) => {
            let row = ImportedRow {
                kind,
                id: id.into(),
                body: json!(object).to_string(),
                origin: path.display().to_string(),
            };
            keep(target, row, (kind, file.into()), why, items);
        }
        Err(why) => items.fail(kind, file, why),
    }
}

fn keep(
    target: &Target<'_>,
    row: ImportedRow,
    (kind, name): (&'static str, String),
    why: &str,
    items: &mut Items,
) {
    match target.write(move |db| db.put_imported(&row, clock::now_ms())) {
        Ok(true) => items.explain(kind, name, Outcome::Taken, why),
        Ok(false) => items.explain(kind, name, Outcome::Present, why),
        Err(error) => items.fail(kind, name, error),
    }
}
