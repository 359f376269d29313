//! `agents.list`, `agent.identity.get`

use moltbot_protocol::methods::agents::{
    AgentIdentity, AgentIdentityGet, AgentList, AgentSummary, AgentsList,
};

use super::Context;
use crate::{
    config::Config,
    gateway::Gateway,
    rpc::{Error, Result, Router},
    sessions::key,
};

const NAME: &str = "Assistant";

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(list).on(identity);
}

async fn list(cx: Context, _: AgentsList) -> Result<AgentList> {
    let config = cx.gateway.config.get();
    let scope = config.session.scope.clone().unwrap_or_else(|| "per-sender".to_owned());
    Ok(AgentList {
        default_id: key::default_agent(&config),
        main_key: key::MAIN.to_owned(),
        scope,
        agents: agents(&config),
    })
}

async fn identity(cx: Context, request: AgentIdentityGet) -> Result<AgentIdentity> {
    let config = cx.gateway.config.get();
    let named = request.agent_id.map(|id| id.trim().to_lowercase());
    let session_key = request.session_key.as_deref().map(str::trim).filter(|key| !key.is_empty());
    let owner = session_key.map(|asked| key::owner(&config, &key::canonical(&config, asked)));
    if let (Some(named), Some(owner)) = (&named, &owner)
        && named != owner
    {
        return Err(Error::Invalid(format!(
            "invalid agent.identity.get params: agent \"{named}\" does not match session key \
             agent \"{owner}\""
        )));
    }
    let agent_id = named.or(owner).unwrap_or_else(|| key::default_agent(&config));
    let listed = config.agents.list.iter().find(|agent| agent.id.eq_ignore_ascii_case(&agent_id));
    let name = listed.and_then(|agent| agent.called()).unwrap_or(NAME).to_owned();
    let sign = listed.and_then(|agent| agent.identity.emoji.as_deref()).map(str::trim);
    let avatar = match sign.filter(|sign| is_sign(sign)) {
        Some(sign) => sign.to_owned(),
        None => name.chars().next().unwrap_or('A').to_uppercase().to_string(),
    };
    Ok(AgentIdentity { agent_id, name, avatar })
}

/// Returns whether a text is short enough to stand beside messages; clients of
/// the reference count in UTF-16.
fn is_sign(text: &str) -> bool {
    !text.contains(char::is_whitespace) && (1..=4).contains(&text.encode_utf16().count())
}

fn agents(config: &Config) -> Vec<AgentSummary> {
    let list = &config.agents.list;
    if list.is_empty() {
        return vec![AgentSummary { id: key::default_agent(config), name: None }];
    }
    list.iter()
        .map(|agent| AgentSummary { id: agent.id.to_lowercase(), name: agent.name.clone() })
        .collect()
}
