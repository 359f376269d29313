//! Who is let in: devices with their tokens, nodes of the older pairing,
//! senders of channels; and where each channel's messages go on.

use std::{fs, time::UNIX_EPOCH};

use moltbot_protocol::methods::{
    device::{PairedDevice, TokenSummary},
    node::NodePaired,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{
    Items, Outcome, Target,
    source::{self, Folder},
};
use crate::{
    auth::{device::identity, pairing::OWN_HOST},
    clock,
    nodes::wake_words,
    store::{Device, DeviceToken},
};

const DEFAULT_ACCOUNT: &str = "default";

pub(super) fn take(target: &Target<'_>, folder: &Folder, items: &mut Items) {
    each(folder, "devices/paired.json", "device", items, |name, value, items| {
        device(target, name, value, items);
    });
    each(folder, "nodes/paired.json", "node pairing", items, |name, value, items| {
        node(target, name, value, items);
    });
    for name in folder.names("credentials") {
        if let Some(channel) = name.strip_suffix("-allowFrom.json") {
            senders(target, folder, channel, items);
        } else if name.ends_with("-pairing.json") {
            folder.file(&format!("credentials/{name}"));
            let why = "codes end after an hour; who still waits writes again";
            items.explain("pairing requests", name, Outcome::Skipped, why);
        }
    }
    for name in folder.names("telegram") {
        let account =
            name.strip_prefix("update-offset-").and_then(|rest| rest.strip_suffix(".json"));
        if let Some(account) = account {
            offset(target, folder, account, items);
        }
    }
    wake(target, folder, items);
}

/// Shows the entries of a file that holds an object to `visit`.
fn each(
    folder: &Folder,
    file: &str,
    kind: &'static str,
    items: &mut Items,
    mut visit: impl FnMut(&str, Value, &mut Items),
) {
    let Some(path) = folder.file(file) else { return };
    match source::object(&path) {
        Ok(entries) => {
            for (name, value) in entries {
                visit(&name, value, items);
            }
        }
        Err(why) => items.fail(kind, file, why),
    }
}

fn parsed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| format!("it is not understood: {error}"))
}

#[derive(Deserialize)]
struct Token {
    token: String,
    #[serde(flatten)]
    summary: TokenSummary,
}

fn device(target: &Target<'_>, name: &str, value: Value, items: &mut Items) {
    let device = match read_device(value) {
        Ok(device) => device,
        Err(why) => return items.fail("device", name, why),
    };
    let shown = match &device.info.display_name {
        Some(display) => format!("{} ({display})", device.info.device_id),
        None => device.info.device_id.clone(),
    };
    match target.write(move |db| {
        if let Some(here) = db.device(&device.info.device_id)? {
            return Ok(if is_same(&here, &device) { Outcome::Present } else { Outcome::Kept });
        }
        db.put_device(&device.info)?;
        for token in &device.tokens {
            db.put_token(&device.info.device_id, token)?;
        }
        Ok(Outcome::Taken)
    }) {
        Ok(Outcome::Kept) => items.explain(
            "device",
            shown,
            Outcome::Kept,
            "it is known here with other rights or tokens, which stay",
        ),
        Ok(outcome) => items.add("device", shown, outcome),
        Err(error) => items.fail("device", shown, error),
    }
}

fn read_device(mut value: Value) -> Result<Device, String> {
    let tokens = value.as_object_mut().and_then(|device| device.remove("tokens"));
    let mut info: PairedDevice = parsed(value)?;
    let (id, key) = identity(&info.public_key).ok_or("its public key is none")?;
    if id != info.device_id {
        return Err("its id is not that of its key".into());
    }
    info.public_key = key;
    // It could run everything there.
    let is_node = info.roles.iter().flatten().chain(&info.role).any(|role| role == "node");
    info.allow = is_node.then(|| OWN_HOST.map(String::from).to_vec());
    let tokens: Map<String, Value> = match tokens {
        Some(tokens) => parsed(tokens)?,
        None => Map::new(),
    };
    let tokens = tokens.into_iter().map(|(role, value)| {
        let Token { token, summary } = parsed(value)?;
        let fits = !token.is_empty() && token.len() <= 256 && summary.role == role;
        if fits { Ok(DeviceToken { summary, token }) } else { Err("a token of it is odd".into()) }
    });
    let tokens = tokens.collect::<Result<_, String>>()?;
    Ok(Device { info, tokens })
}

/// Returns whether two devices have the same rights. When they were used does
/// not matter.
fn is_same(here: &Device, there: &Device) -> bool {
    let tokens = |device: &Device| {
        let mut tokens: Vec<_> = device
            .tokens
            .iter()
            .map(|token| {
                let TokenSummary { role, revoked_at_ms, .. } = &token.summary;
                (role.clone(), token.token.clone(), revoked_at_ms.is_some())
            })
            .collect();
        tokens.sort();
        tokens
    };
    let rights = |device: &Device| {
        let PairedDevice { roles, scopes, .. } = &device.info;
        json!([roles.clone().unwrap_or_default(), scopes.clone().unwrap_or_default()])
    };
    tokens(here) == tokens(there) && rights(here) == rights(there)
}

fn node(target: &Target<'_>, name: &str, value: Value, items: &mut Items) {
    let node: NodePaired = match parsed(value) {
        Ok(node) => node,
        Err(why) => return items.fail("node pairing", name, why),
    };
    match target.write(move |db| match db.node_pairing(&node.node_id)? {
        Some(here) if here.token == node.token => Ok(Outcome::Present),
        Some(_) => Ok(Outcome::Kept),
        None => db.put_node_pairing(&node).map(|()| Outcome::Taken),
    }) {
        Ok(Outcome::Kept) => items.explain(
            "node pairing",
            name,
            Outcome::Kept,
            "it is paired here with another token, which stays",
        ),
        Ok(outcome) => items.add("node pairing", name, outcome),
        Err(error) => items.fail("node pairing", name, error),
    }
}

/// The reference lets a sender in on every account of a channel.
fn senders(target: &Target<'_>, folder: &Folder, channel: &str, items: &mut Items) {
    let file = format!("credentials/{channel}-allowFrom.json");
    let Some(path) = folder.file(&file) else { return };
    let list = match source::object(&path) {
        Ok(object) => object.get("allowFrom").and_then(Value::as_array).cloned(),
        Err(why) => return items.fail("senders", file, why),
    };
    let Some(list) = list else {
        return items.fail("senders", file, "it holds no list \"allowFrom\"");
    };
    let senders: Vec<String> = list.iter().filter_map(|sender| id_of(channel, sender)).collect();
    let accounts = accounts(target, channel);
    let (channel, count) = (channel.to_owned(), senders.len());
    let added = target.write(move |db| {
        let mut added = false;
        for account in &accounts {
            let known = db.allowed_senders(&channel, account)?;
            for sender in senders.iter().filter(|sender| !known.contains(sender)) {
                db.allow_sender(&channel, account, sender, clock::now_ms())?;
                added = true;
            }
        }
        Ok(added)
    });
    match added {
        Ok(added) => {
            let outcome = if added { Outcome::Taken } else { Outcome::Present };
            items.explain("senders", file, outcome, format!("{count} people"));
        }
        Err(error) => items.fail("senders", file, error),
    }
}

fn id_of(channel: &str, sender: &Value) -> Option<String> {
    let text = sender.as_str().map(str::to_owned).or_else(|| Some(sender.as_i64()?.to_string()))?;
    let text = text.trim();
    let text = text.strip_prefix(&format!("{channel}:")).unwrap_or(text);
    let text = if channel == "telegram" { text.strip_prefix("tg:").unwrap_or(text) } else { text };
    (!text.is_empty()).then(|| text.to_owned())
}

fn accounts(target: &Target<'_>, channel: &str) -> Vec<String> {
    let section = target.config.channels.get(channel);
    let named = section.and_then(|section| section.get("accounts")?.as_object());
    let named = named.into_iter().flat_map(Map::keys).filter(|name| *name != DEFAULT_ACCOUNT);
    [DEFAULT_ACCOUNT.to_owned()].into_iter().chain(named.cloned()).collect()
}

/// The last update that the reference handled: ours go on behind it.
fn offset(target: &Target<'_>, folder: &Folder, account: &str, items: &mut Items) {
    let file = format!("telegram/update-offset-{account}.json");
    let Some(path) = folder.file(&file) else { return };
    let last = source::object(&path).and_then(|object| {
        object.get("lastUpdateId").and_then(Value::as_i64).ok_or("it holds no number".into())
    });
    let last = match last {
        Ok(last) => last,
        Err(why) => return items.fail("update offset", file, why),
    };
    let written = fs::metadata(&path).and_then(|file| file.modified()).unwrap_or(UNIX_EPOCH);
    let at_ms = written.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let at_ms = i64::try_from(at_ms).unwrap_or_default();
    let account = account.to_owned();
    let put = target.write(move |db| match db.last_update("telegram", &account)? {
        Some(_) => Ok(Outcome::Present),
        None => db.put_inbox("telegram", &account, last, None, at_ms).map(|_| Outcome::Taken),
    });
    match put {
        Ok(outcome) => items.add("update offset", file, outcome),
        Err(error) => items.fail("update offset", file, error),
    }
}

fn wake(target: &Target<'_>, folder: &Folder, items: &mut Items) {
    let file = "settings/voicewake.json";
    let Some(path) = folder.file(file) else { return };
    let words = match source::object(&path) {
        Ok(object) => object.get("triggers").and_then(Value::as_array).cloned().unwrap_or_default(),
        Err(why) => return items.fail("wake words", file, why),
    };
    let words = wake_words::normalize(&words);
    let put = target.write(move |db| match db.setting::<Vec<String>>(wake_words::SETTING)? {
        Some(here) if here == words => Ok(Outcome::Present),
        Some(_) => Ok(Outcome::Kept),
        None => db.put_setting(wake_words::SETTING, &words).map(|()| Outcome::Taken),
    });
    match put {
        Ok(outcome) => items.add("wake words", file, outcome),
        Err(error) => items.fail("wake words", file, error),
    }
}
