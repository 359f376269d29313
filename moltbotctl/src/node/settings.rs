//! What this node is called, kept between starts.

use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::files;

/// The installation's id and name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Settings {
    version: u32,
    pub(super) node_id: String,
    pub(super) display_name: String,
}

/// Reads the settings; what is given replaces what is kept.
pub(super) fn load(
    folder: &Path,
    node_id: Option<&str>,
    display_name: Option<&str>,
) -> anyhow::Result<Settings> {
    let path = folder.join("node.json");
    let kept: Option<Settings> = match files::read(&path)? {
        Some(text) => Some(
            serde_json::from_str(&text)
                .with_context(|| format!("{} is damaged; remove it", path.display()))?,
        ),
        None => None,
    };
    let known =
        |given: Option<&str>| given.map(str::trim).filter(|it| !it.is_empty()).map(Into::into);
    let settings = Settings {
        version: 1,
        node_id: known(node_id)
            .or_else(|| kept.as_ref().map(|kept| kept.node_id.clone()))
            .unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        display_name: known(display_name)
            .or_else(|| kept.as_ref().map(|kept| kept.display_name.clone()))
            .unwrap_or_else(host_name),
    };
    files::replace(&path, &format!("{}\n", serde_json::to_string_pretty(&settings)?))?;
    Ok(settings)
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "node".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_stays_and_a_given_name_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let first = load(folder.path(), None, Some("Lab")).unwrap();
        let second = load(folder.path(), None, None).unwrap();
        assert_eq!(second.node_id, first.node_id);
        assert_eq!(second.display_name, "Lab");
    }
}
