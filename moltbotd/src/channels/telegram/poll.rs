//! Long polling: one question at a time, and every answer is committed before
//! the next question confirms it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use frankenstein::{methods::GetUpdatesParams, response::MethodResponse, types::AllowedUpdate};
use serde_json::{Value, value::RawValue};
use tokio_util::sync::CancellationToken;

use super::{
    Telegram,
    access::Access,
    api::ApiError,
    update::{Activation, History, Me, Reader, Unpacked},
};
use crate::{
    channels::{driver::Arrival, inbox::Desk, service::jittered},
    clock::now_ms,
    sessions::key,
    store::Db,
};

/// Updates in one answer; the most that Telegram gives.
const BATCH: u32 = 100;

/// How much longer than the server we wait for its answer.
const MARGIN: Duration = Duration::from_secs(15);

const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// After a week without messages Telegram begins to count anew, at a number
/// that may be lower. An offset older than this would then confirm messages
/// that were never seen.
const OFFSET_LIFETIME_MS: i64 = 6 * 24 * 60 * 60 * 1000;

/// The next update to ask for, and when the one before it came.
#[derive(Clone, Copy, Debug, Default)]
struct Offset(Option<(i64, i64)>);

impl Offset {
    const fn at(next: i64, at_ms: i64) -> Self {
        Self(Some((next, at_ms)))
    }

    /// Returns the offset to ask with now.
    fn now(self) -> Option<i64> {
        self.after(now_ms())
    }

    fn after(self, now_ms: i64) -> Option<i64> {
        let Self(known) = self;
        known.filter(|(_, at_ms)| now_ms - at_ms < OFFSET_LIFETIME_MS).map(|(next, _)| next)
    }
}

/// Polls until told to stop. Dropping it cancels the question that is open.
pub(super) struct Poller<'a> {
    bot: &'a Telegram,
    desk: &'a Desk,
    stop: &'a CancellationToken,
    history: History,
    pause: Duration,
}

impl<'a> Poller<'a> {
    pub(super) fn new(bot: &'a Telegram, desk: &'a Desk, stop: &'a CancellationToken) -> Self {
        Self { bot, desk, stop, history: History::default(), pause: FIRST_PAUSE }
    }

    pub(super) async fn run(mut self) -> Result<(), String> {
        let Some(me) = self.meet().await else { return Ok(()) };
        self.recognise(&me).await?;
        let mut offset = self.first_offset().await?;
        while let Some(answer) = self.stop.run_until_cancelled(self.ask(offset.now())).await {
            let updates = match answer {
                Ok(updates) => updates,
                Err(error) => {
                    if !self.recover(&error).await {
                        return Ok(());
                    }
                    continue;
                }
            };
            let batch = self.read(&me, &updates).await?;
            let next = batch.iter().map(|arrival| arrival.update_id + 1).max();
            if !batch.is_empty()
                && let Err(error) = self.desk.accept(batch).await
            {
                tracing::error!(%error, "messages could not be stored; asking for them again");
                let text = "messages cannot be stored: see the log; free disk space if it is full";
                if !self.wait(text.into(), self.pause).await {
                    return Ok(());
                }
                continue;
            }
            self.works();
            if let Some(next) = next {
                offset = Offset::at(next, now_ms());
            }
        }
        Ok(())
    }

    /// Asks who the bot is until that is known; `None` when told to stop.
    async fn meet(&mut self) -> Option<Me> {
        loop {
            match self.stop.run_until_cancelled(self.bot.meet()).await? {
                Ok(me) => {
                    self.works();
                    return Some(me);
                }
                Err(error) => {
                    if !self.recover(&error).await {
                        return None;
                    }
                }
            }
        }
    }

    /// The numbers of another bot's messages say nothing about this one's: with
    /// them as the offset its messages would be confirmed unseen.
    async fn recognise(&self, me: &Me) -> Result<(), String> {
        let (channel, account) = (self.desk.channel, self.desk.account.clone());
        let source = me.id.to_string();
        let other = self
            .desk
            .store
            .write(move |db| db.receive_from(channel, &account, &source))
            .await
            .map_err(|error| format!("the inbox cannot be written: {error}"))?;
        if other {
            tracing::info!(account = self.desk.account, "another bot than before");
        }
        Ok(())
    }

    async fn first_offset(&self) -> Result<Offset, String> {
        let account = self.desk.account.clone();
        let channel = self.desk.channel;
        let last = self
            .desk
            .store
            .read(move |db| db.last_update(channel, &account))
            .await
            .map_err(|error| format!("the inbox cannot be read: {error}"))?;
        Ok(Offset(last.map(|(update_id, at_ms)| (update_id + 1, at_ms))))
    }

    async fn ask(&self, offset: Option<i64>) -> Result<Vec<Box<RawValue>>, ApiError> {
        let hold = self.bot.settings.poll_timeout();
        let params = GetUpdatesParams {
            offset,
            limit: Some(BATCH),
            timeout: u32::try_from(hold.as_secs()).ok(),
            allowed_updates: Some(vec![AllowedUpdate::Message]),
        };
        let timeout = hold + MARGIN;
        let answer: MethodResponse<Vec<Box<RawValue>>> =
            self.bot.api.call("getUpdates", Some(&params), timeout).await?;
        Ok(answer.result)
    }

    async fn read(&mut self, me: &Me, updates: &[Box<RawValue>]) -> Result<Vec<Arrival>, String> {
        let updates: Vec<_> = updates.iter().filter_map(|raw| Unpacked::of(raw)).collect();
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        let (channel, account) = (self.desk.channel, self.desk.account.clone());
        let agent = self.bot.agent.clone();
        let groups: HashSet<String> = updates.iter().filter_map(Unpacked::group).collect();
        let (approved, activation) = self
            .desk
            .store
            .read(move |db| {
                let approved = db.allowed_senders(channel, &account)?;
                let told = groups.into_iter().filter_map(|group| {
                    activation(db, &agent, channel, &group).map(|when| (group, when))
                });
                Ok((approved, told.collect::<HashMap<_, _>>()))
            })
            .await
            .map_err(|error| format!("the list of senders cannot be read: {error}"))?;
        let reader = Reader {
            account: &self.desk.account,
            me,
            access: Access {
                settings: &self.bot.settings,
                group_policy: self.bot.group_policy,
                approved: &approved,
            },
            mentions: &self.bot.mentions,
            activation: &activation,
            history_limit: self.bot.history_limit,
        };
        Ok(reader.read(&updates, &mut self.history))
    }

    fn works(&mut self) {
        self.pause = FIRST_PAUSE;
        self.desk.state.trouble(None);
    }

    /// Shows what is wrong and waits; `false` when told to stop.
    async fn recover(&mut self, error: &ApiError) -> bool {
        let hold = self.bot.settings.poll_timeout();
        let (text, pause) = match error {
            ApiError::Refused { code: 409, description, .. } => {
                let text = format!(
                    "409: another program asks for this bot's messages, or a webhook is set: stop \
                     the other one or delete the webhook ({description})"
                );
                // A shorter pause would only take the other one's turn.
                (text, hold.max(self.pause))
            }
            ApiError::Refused { code: 429, retry_after, .. } => {
                let after = Duration::from_secs(retry_after.unwrap_or_default());
                (format!("429: Telegram asks for a pause of {} s", after.as_secs()), {
                    after.max(self.pause)
                })
            }
            ApiError::Refused { code: 401 | 404, .. } => {
                let text = "Telegram does not know this bot token: check the account's botToken \
                            or tokenFile";
                (text.to_owned(), LONGEST_PAUSE)
            }
            error => (error.to_string(), self.pause),
        };
        self.pause = self.pause.mul_f64(1.8).min(LONGEST_PAUSE);
        self.wait(text, jittered(pause)).await
    }

    async fn wait(&self, text: String, pause: Duration) -> bool {
        let account = &self.desk.account;
        tracing::warn!(account, problem = text, ?pause, "telegram waits");
        self.desk.state.trouble(Some(text));
        self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some()
    }
}

/// Returns what the conversation of a group was told. One that cannot be read
/// says nothing, and is no reason to hear nobody.
fn activation(db: &Db<'_>, agent: &str, channel: &str, group: &str) -> Option<Activation> {
    let key = key::of_group(agent, channel, group);
    let entry = db
        .session(&key)
        .inspect_err(|error| tracing::warn!(key, %error, "a conversation cannot be read"))
        .ok()??;
    Activation::of(&entry.group_activation?)
}

/// Reads the answer of `getMe`.
pub(super) fn me(value: &Value) -> Result<Me, ApiError> {
    serde_json::from_value(value.clone()).map_err(|error| ApiError::Lost(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_forgotten_before_telegram_counts_anew() {
        let week_ms = 7 * 24 * 60 * 60 * 1000;
        let offset = Offset::at(42, 1_000);
        assert_eq!(offset.after(1_000), Some(42));
        assert_eq!(offset.after(1_000 + week_ms / 2), Some(42));
        assert_eq!(offset.after(1_000 + week_ms), None);
        assert_eq!(Offset::default().after(0), None);
    }
}
