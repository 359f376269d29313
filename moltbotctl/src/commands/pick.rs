//! Finding one of several things by what a person calls it.

use serde_json::Value;

use crate::{
    context::helped,
    output::{cell, short},
};

/// How many characters of an id are enough.
const SHORTEST_PREFIX: usize = 6;

/// What is looked for: how it is called, where its id is, which command lists it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) id: &'static str,
    pub(super) list: &'static str,
}

/// Finds an item by id, address, name, or at least six characters of the id.
pub(super) fn pick(kind: Kind, items: &[Value], wanted: &str) -> anyhow::Result<String> {
    let wanted = wanted.trim();
    let text = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    let name = normal(wanted);
    let matches: [&dyn Fn(&Value) -> bool; 4] = [
        &|item| text(item, kind.id) == wanted,
        &|item| !wanted.is_empty() && text(item, "remoteIp") == wanted,
        &|item| !name.is_empty() && normal(&text(item, "displayName")) == name,
        &|item| wanted.len() >= SHORTEST_PREFIX && text(item, kind.id).starts_with(wanted),
    ];
    for matches in matches {
        let found: Vec<&Value> = items.iter().filter(|item| matches(item)).collect();
        match found[..] {
            [] => {}
            [only] => return Ok(text(only, kind.id)),
            _ => return Err(ambiguous(kind, wanted, &found)),
        }
    }
    Err(helped(
        format!("no {} is called {wanted:?}", kind.name),
        format!("see all {}s: {}", kind.name, kind.list),
    ))
}

fn ambiguous(kind: Kind, wanted: &str, found: &[&Value]) -> anyhow::Error {
    let described = |item: &&Value| {
        let id = cell(item, &format!("/{}", kind.id));
        format!("{} ({})", short(&id), cell(item, "/displayName"))
    };
    let list: Vec<String> = found.iter().map(described).collect();
    helped(
        format!("{wanted:?} is ambiguous: {}", list.join(", ")),
        format!("name the {} by its id or its beginning", kind.name),
    )
}

/// Lower-case letters and digits, everything else one hyphen.
fn normal(name: &str) -> String {
    let dashed: String = name
        .chars()
        .map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    dashed.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NODE: Kind = Kind { name: "node", id: "nodeId", list: "moltbotctl nodes list" };

    fn nodes() -> Vec<Value> {
        vec![
            json!({ "nodeId": "abcdef01", "displayName": "My Laptop", "remoteIp": "10.0.0.1" }),
            json!({ "nodeId": "abcdef02", "displayName": "twin" }),
            json!({ "nodeId": "fedcba03", "displayName": "Twin" }),
        ]
    }

    #[test]
    fn a_node_is_found_by_id_address_name_and_prefix() {
        for wanted in ["abcdef01", "10.0.0.1", "my-laptop", " My  laptop! "] {
            assert_eq!(pick(NODE, &nodes(), wanted).unwrap(), "abcdef01", "{wanted}");
        }
        assert_eq!(pick(NODE, &nodes(), "fedcba").unwrap(), "fedcba03");
    }

    #[test]
    fn an_ambiguous_name_lists_the_candidates() {
        let error = pick(NODE, &nodes(), "TWIN").unwrap_err().to_string();
        assert!(error.contains("abcdef02") && error.contains("fedcba03"), "{error}");
        assert!(pick(NODE, &nodes(), "abcdef").unwrap_err().to_string().contains("ambiguous"));
    }

    #[test]
    fn a_short_prefix_or_nothing_finds_no_node() {
        for wanted in ["fedcb", "", "-", "nobody"] {
            assert!(pick(NODE, &nodes(), wanted).is_err(), "{wanted}");
        }
    }
}
