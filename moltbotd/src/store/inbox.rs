//! Table `inbox`.

use rusqlite::{OptionalExtension as _, params};

use super::Db;

/// How many rows back messages that belong together are looked for.
const LATEST: i64 = 1000;

/// Reads the last rows by their ids: each index would lead to all rows of an
/// account.
const LATEST_WITH: &str = "SELECT id, body, state = 'ignored' FROM inbox NOT INDEXED
     WHERE id > (SELECT coalesce(max(id), 0) FROM inbox) - ?4
     AND channel = ?1 AND account = ?2 AND instr(body, ?3) > 0 ORDER BY id";

/// A channel's message that waits to be handled.
#[derive(Clone, Debug)]
pub struct InboxRow {
    /// Its place in the table.
    pub id: i64,
    /// The message as JSON.
    pub body: String,
}

impl Db<'_> {
    /// Stores an update of a channel once. Returns its id, or `None` when it
    /// was stored before. Without a body there is nothing to do for it, and it
    /// is kept only to know it again.
    pub fn put_inbox(
        &self,
        channel: &str,
        account: &str,
        update_id: i64,
        body: Option<&str>,
        now_ms: i64,
    ) -> rusqlite::Result<Option<i64>> {
        let state = if body.is_some() { "received" } else { "ignored" };
        let added = self
            .0
            .prepare_cached(
                "INSERT INTO inbox (channel, account, update_id, body, state, received_at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            )?
            .execute(params![channel, account, update_id, body, state, now_ms])?;
        Ok((added > 0).then(|| self.0.last_insert_rowid()))
    }

    /// Stores an update of a channel once that nothing is to be done for unless
    /// it is [taken up](Self::take_up) later: an ignored one that has a body is
    /// held, one without is ignored for good, as a held one is that is
    /// [forgotten](Self::forget_held). Returns its id as
    /// [`put_inbox`](Self::put_inbox) does.
    pub fn hold_inbox(
        &self,
        channel: &str,
        account: &str,
        update_id: i64,
        body: &str,
        now_ms: i64,
    ) -> rusqlite::Result<Option<i64>> {
        let added = self
            .0
            .prepare_cached(
                "INSERT INTO inbox (channel, account, update_id, body, state, received_at_ms)
                 VALUES (?1, ?2, ?3, ?4, 'ignored', ?5) ON CONFLICT DO NOTHING",
            )?
            .execute(params![channel, account, update_id, body, now_ms])?;
        Ok((added > 0).then(|| self.0.last_insert_rowid()))
    }

    /// Returns an account's latest messages whose body contains a text, oldest
    /// first, and whether each is only held.
    pub fn latest_with(
        &self,
        channel: &str,
        account: &str,
        text: &str,
    ) -> rusqlite::Result<Vec<(InboxRow, bool)>> {
        self.0
            .prepare_cached(LATEST_WITH)?
            .query_map(params![channel, account, text, LATEST], |row| {
                Ok((InboxRow { id: row.get(0)?, body: row.get(1)? }, row.get(2)?))
            })?
            .collect()
    }

    /// Marks a message that was held as one that waits to be handled.
    pub fn take_up(&self, id: i64) -> rusqlite::Result<()> {
        self.0
            .prepare_cached(
                "UPDATE inbox SET state = 'received'
                 WHERE id = ?1 AND state = 'ignored' AND body IS NOT NULL",
            )?
            .execute([id])?;
        Ok(())
    }

    /// Notes who at the service an account's updates come from. Another one
    /// numbers its updates in its own way, so that the numbers of the earlier
    /// one's are forgotten. Returns whether it is another one.
    pub fn receive_from(
        &self,
        channel: &str,
        account: &str,
        source: &str,
    ) -> rusqlite::Result<bool> {
        let key = format!("inbox.source:{channel}:{account}");
        let known: Option<String> = self.setting(&key)?;
        if known.as_deref() == Some(source) {
            return Ok(false);
        }
        self.put_setting(&key, &source)?;
        if known.is_some() {
            // Numbers of updates are never negative, and ids of rows are unique.
            self.0
                .prepare_cached(
                    "UPDATE inbox SET update_id = -id
                     WHERE channel = ?1 AND account = ?2 AND update_id >= 0",
                )?
                .execute([channel, account])?;
        }
        Ok(known.is_some())
    }

    /// Marks a message as handled. Belongs into the transaction that stores
    /// what came of it.
    pub fn finish_inbox(&self, id: i64) -> rusqlite::Result<()> {
        self.0.prepare_cached("UPDATE inbox SET state = 'done' WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    /// Returns the messages that are not handled yet and that no run has taken,
    /// oldest first. A run knows what it was asked; nothing may be added to it.
    pub fn open_inbox(&self) -> rusqlite::Result<Vec<InboxRow>> {
        self.0
            .prepare_cached(
                "SELECT id, body FROM inbox WHERE state = 'received'
                 AND NOT EXISTS (SELECT 1 FROM run WHERE inbox_id = inbox.id) ORDER BY id",
            )?
            .query_map([], |row| Ok(InboxRow { id: row.get(0)?, body: row.get(1)? }))?
            .collect()
    }

    /// Returns how many messages are not handled yet, by channel.
    pub fn inbox_depth(&self) -> rusqlite::Result<Vec<(String, u32)>> {
        self.0
            .prepare_cached(
                "SELECT channel, count(*) FROM inbox WHERE state = 'received' GROUP BY channel",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    }

    /// Replaces the message of a row that waits.
    pub fn replace_inbox(&self, id: i64, body: &str) -> rusqlite::Result<()> {
        self.0
            .prepare_cached("UPDATE inbox SET body = ?2 WHERE id = ?1 AND state = 'received'")?
            .execute(params![id, body])?;
        Ok(())
    }

    /// Marks a message as one that nothing is to be done for.
    pub fn ignore_inbox(&self, id: i64) -> rusqlite::Result<()> {
        self.0
            .prepare_cached("UPDATE inbox SET state = 'ignored', body = NULL WHERE id = ?1")?
            .execute([id])?;
        Ok(())
    }

    /// Returns the update of an account that was stored last and when, `None`
    /// before the first: the channel's offset follows from it. The last one is
    /// not always the highest, since a channel may begin to count anew.
    pub fn last_update(
        &self,
        channel: &str,
        account: &str,
    ) -> rusqlite::Result<Option<(i64, i64)>> {
        self.0
            .prepare_cached(
                "SELECT update_id, received_at_ms FROM inbox
                 WHERE channel = ?1 AND account = ?2 AND update_id >= 0
                 ORDER BY id DESC LIMIT 1",
            )?
            .query_row(params![channel, account], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
    }

    /// Forgets what messages say that were held before a point in time and that
    /// nobody took up; they are still known again.
    pub fn forget_held(&self, before_ms: i64) -> rusqlite::Result<()> {
        self.0.execute(
            "UPDATE inbox SET body = NULL
             WHERE state = 'ignored' AND body IS NOT NULL AND received_at_ms < ?1",
            [before_ms],
        )?;
        Ok(())
    }

    /// Forgets what was handled before a point in time, except each account's
    /// last update.
    pub fn prune_inbox(&self, before_ms: i64) -> rusqlite::Result<()> {
        self.0.execute(
            "DELETE FROM inbox WHERE state <> 'received' AND received_at_ms < ?1
             AND id NOT IN (SELECT max(id) FROM inbox GROUP BY channel, account)",
            [before_ms],
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::LATEST_WITH;
    use crate::store::{NewRun, Store};

    #[tokio::test]
    async fn what_came_long_ago_costs_no_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("test.db")).unwrap();
        let explain = |db: &crate::store::Db<'_>| {
            db.0.prepare(&format!("EXPLAIN QUERY PLAN {LATEST_WITH}"))?
                .query_map(("telegram", "default", "album", 1000), |row| row.get("detail"))?
                .collect::<rusqlite::Result<Vec<String>>>()
        };
        let plan = store.read(explain).await.unwrap();
        assert_eq!(plan[0], "SEARCH inbox USING INTEGER PRIMARY KEY (rowid>?)", "{plan:?}");
    }

    #[tokio::test]
    async fn texts_that_nobody_took_up_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("test.db")).unwrap();
        let work = |db: &crate::store::Db<'_>| {
            db.hold_inbox("telegram", "default", 1, "a", 0)?;
            let taken_up = db.hold_inbox("telegram", "default", 2, "b", 0)?.unwrap();
            db.take_up(taken_up)?;
            let done = db.put_inbox("telegram", "default", 3, Some("c"), 0)?.unwrap();
            db.finish_inbox(done)?;
            db.hold_inbox("telegram", "default", 4, "d", 10)?;
            db.forget_held(10)?;
            db.0.prepare("SELECT body FROM inbox ORDER BY update_id")?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<Option<String>>>>()
        };
        let left = store.write(work).await.unwrap();
        let left: Vec<_> = left.iter().map(Option::as_deref).collect();
        assert_eq!(left, [None, Some("b"), Some("c"), Some("d")]);
    }

    #[tokio::test]
    async fn another_source_is_counted_anew() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("test.db")).unwrap();
        let work = |db: &crate::store::Db<'_>| {
            assert!(!db.receive_from("telegram", "default", "1")?);
            db.put_inbox("telegram", "default", 900, Some("{}"), 0)?;
            assert!(!db.receive_from("telegram", "default", "1")?);
            assert_eq!(db.last_update("telegram", "default")?, Some((900, 0)));
            assert!(db.receive_from("telegram", "default", "2")?);
            assert_eq!(db.last_update("telegram", "default")?, None);
            assert!(db.put_inbox("telegram", "default", 900, Some("{}"), 0)?.is_some());
            assert!(db.receive_from("telegram", "default", "1")?);
            assert!(db.put_inbox("telegram", "default", 900, Some("{}"), 0)?.is_some());
            assert_eq!(db.open_inbox()?.len(), 3);
            Ok(())
        };
        store.write(work).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_run_has_taken_is_not_handed_over_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("test.db")).unwrap();
        let work = |db: &crate::store::Db<'_>| {
            let inbox_id = db.put_inbox("telegram", "default", 1, Some("{}"), 0)?;
            let waiting = db.put_inbox("telegram", "default", 2, Some("{}"), 0)?;
            db.add_run(&NewRun {
                id: "r".into(),
                session_key: "s".into(),
                inbox_id,
                request: "{}".into(),
                accepted_at_ms: 0,
            })?;
            let open: Vec<_> = db.open_inbox()?.iter().map(|row| Some(row.id)).collect();
            assert_eq!(open, [waiting]);
            Ok(())
        };
        store.write(work).await.unwrap();
    }
}
