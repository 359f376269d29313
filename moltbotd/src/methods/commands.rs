//! `commands.list`

use moltbot_protocol::methods::commands::{
    ChatCommand, CommandListing, CommandScope, CommandsList,
};

use super::Context;
use crate::{
    agent::commands::{self, ListedCommand},
    gateway::Gateway,
    rpc::{Result, Router},
};

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(list);
}

async fn list(cx: Context, _: CommandsList) -> Result<CommandListing> {
    let config = cx.gateway.config.get();
    let commands = commands::listed(&config.session).into_iter().map(shown).collect();
    Ok(CommandListing { commands })
}

fn shown(command: ListedCommand) -> ChatCommand {
    let usual = command.words.first().map_or("", |word| word.trim_start_matches('/'));
    ChatCommand {
        name: usual.to_owned(),
        description: command.description.to_owned(),
        source: "native".into(),
        scope: CommandScope::Text,
        accepts_args: !command.arguments.is_empty(),
        text_aliases: command.words,
    }
}
