//! What `moltbotctl` looks like in a terminal, and how a conversation is typed there.

use moltbot_tests::{
    Ctl, Daemon, NodeHost, Options, SteeredModel, daemon::TOKEN, terminal::Terminal,
};
use serde_json::json;

/// A command, and cells of one row of its table with their headings.
type Case<'a> = (&'a Ctl, &'a [&'a str], &'a [(&'a str, &'a str)]);

/// A daemon with a node, a channel and a device that another program shows.
async fn busy_daemon() -> (Daemon, Ctl, NodeHost) {
    let config = json!({
        "gateway": { "auth": { "token": TOKEN } },
        "channels": { "telegram": { "enabled": false, "botToken": "1:x" } },
    });
    let daemon = Daemon::start_with(Options::with(config)).await;
    let ctl = Ctl::beside(&daemon);
    let mut node = NodeHost::start(&ctl, &[]);
    node.says("connected to").await;
    (daemon, ctl, node)
}

/// Waits for a command to end, with all that it printed on the screen.
async fn shown(ctl: &Ctl, arguments: &[&str], columns: u16) -> Terminal {
    let mut terminal = Terminal::start(&ctl.command(arguments), columns);
    terminal.ended().await;
    // The last output may still be on its way to the screen.
    let mut before = Vec::new();
    terminal
        .until("something", |lines| {
            !lines.is_empty() && lines.last().is_some_and(|line| !line.is_empty())
        })
        .await;
    while before != terminal.screen() {
        before = terminal.screen();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    terminal
}

fn column(line: &str, text: &str) -> Option<usize> {
    let at = line.find(text)?;
    Some(line[..at].chars().count())
}

#[tokio::test]
async fn tables_are_straight_and_whole_at_every_width() {
    let (_daemon, ctl, _node) = busy_daemon().await;
    // Profiles are looked for in a home, whatever one daemon was told.
    let home = tempfile::tempdir().unwrap();
    let alone = Ctl::alone(home.path());
    let cases: [Case<'_>; 5] = [
        (
            &ctl,
            &["nodes", "list"],
            &[("NAME", "lab"), ("STATE", "connected"), ("PLATFORM", "linux"), ("CAPS", "system")],
        ),
        (&alone, &["profile", "list"], &[("PROFILE", "default"), ("STATE", "stopped")]),
        (&ctl, &["where"], &[("CANDIDATE", "controlSocket"), ("URL", "unix:")]),
        (&ctl, &["channels", "status"], &[("CHANNEL", "telegram"), ("STATE", "disabled")]),
        (&ctl, &["devices", "list"], &[("ROLES", "node"), ("PLATFORM", "linux")]),
    ];
    for (ctl, arguments, cells) in cases {
        for columns in [40, 80, 200] {
            let terminal = shown(ctl, arguments, columns).await;
            let lines = terminal.screen();
            let place = format!("{arguments:?} at {columns}: {lines:#?}");
            assert!(!lines.iter().any(|line| line.contains("[0m")), "{place}");
            match lines.iter().position(|line| cells.iter().all(|(name, _)| line.contains(name))) {
                Some(head) => {
                    let row = head + is_straight(&lines[head..], cells, &place);
                    let fits = !terminal.is_wrapped(head) && !terminal.is_wrapped(row);
                    assert!(fits, "no line is wider than the terminal: {place}");
                }
                None => {
                    assert_ne!(columns, 200, "there is room for a table: {place}");
                    is_list(&lines, cells, &place);
                }
            }
        }
    }
}

/// Every cell stands under its heading. Returns which line the row is.
fn is_straight(lines: &[String], cells: &[(&str, &str)], place: &str) -> usize {
    let (_, first) = cells[0];
    let row = lines.iter().position(|line| line.contains(first));
    let row = row.unwrap_or_else(|| panic!("a row with {first}: {place}"));
    for (name, value) in cells {
        assert_eq!(column(&lines[0], name), column(&lines[row], value), "{name}: {place}");
    }
    row
}

/// Every heading is whole, and its cell stands beside it.
fn is_list(lines: &[String], cells: &[(&str, &str)], place: &str) {
    for (name, value) in cells {
        let fits = |line: &String| line.starts_with(name) && line.contains(value);
        assert!(lines.iter().any(fits), "{name} {value}: {place}");
    }
}

#[tokio::test]
async fn colours_of_remarks_follow_where_they_go() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("errors");
    let program = moltbot_tests::programs::moltbotctl();
    // Results to the terminal, errors to a file, and the other way round.
    let script = format!(
        "{0} --url ws://127.0.0.1:1 --token x status 2>{1}; {0} --url ws://127.0.0.1:1 --token x status >/dev/null",
        program.display(),
        file.display()
    );
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", &script]).env("HOME", home.path()).env("PATH", "/usr/bin:/bin");
    let mut terminal = Terminal::start(&command, 120);
    terminal.ended().await;
    terminal.shows("error:").await;
    assert!(terminal.is_coloured());
    let errors = std::fs::read_to_string(file).unwrap();
    assert!(errors.starts_with("error: ") && !errors.contains('\u{1b}'), "{errors:?}");
}

const LEFT: &str = "\u{1b}[D";
const UP: &str = "\u{1b}[A";
const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";

async fn chat(ctl: &Ctl) -> Terminal {
    let terminal = Terminal::start(&ctl.command(&["chat"]), 80);
    prompt(&terminal).await;
    terminal
}

/// Waits for an empty line to type on.
async fn prompt(terminal: &Terminal) {
    terminal
        .until("a prompt", |lines| lines.last().is_some_and(|line| line.trim_end() == ">"))
        .await;
}

#[tokio::test]
async fn a_line_of_a_conversation_can_be_edited_called_back_and_cleared() {
    let daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    let mut terminal = chat(&ctl).await;

    terminal.keys(&format!("hello wrld{LEFT}{LEFT}{LEFT}o\r"));
    terminal.shows("> hello world").await;
    terminal
        .until("the answer", |lines| {
            lines.iter().filter(|it| it.contains("hello world")).count() > 1
        })
        .await;
    prompt(&terminal).await;

    terminal.keys("never sent");
    terminal.shows("> never sent").await;
    terminal.keys(CTRL_C);
    prompt(&terminal).await;
    terminal.keys(UP);
    terminal.until("the last line", |lines| lines.last().unwrap() == "> hello world").await;
    terminal.keys(CTRL_C);
    prompt(&terminal).await;

    terminal.keys("/he\t");
    terminal
        .until("a completed command", |lines| lines.last().unwrap().starts_with("> /help"))
        .await;
    terminal.keys(CTRL_C);
    prompt(&terminal).await;

    terminal.keys("my token is abc\r");
    terminal
        .until("the answer", |lines| {
            lines.iter().filter(|it| it.contains("my token is abc")).count() > 1
        })
        .await;
    prompt(&terminal).await;
    terminal.keys(CTRL_D);
    assert!(terminal.ended().await.success());

    let history = daemon.state_dir().join("client/chat-history");
    let text = std::fs::read_to_string(&history).unwrap();
    assert!(text.contains("hello world") && !text.contains("never sent"), "{text}");
    assert!(!text.contains("token"), "what may be a secret is not kept: {text}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&history.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    let mut again = chat(&ctl).await;
    again.keys(UP);
    again.until("the line of before", |lines| lines.last().unwrap() == "> hello world").await;
    again.keys(CTRL_C);
    prompt(&again).await;
    again.keys("/quit\r");
    assert!(again.ended().await.success());
}

#[tokio::test]
async fn a_pasted_text_of_several_lines_is_one_message() {
    let daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    let mut terminal = chat(&ctl).await;
    terminal.paste("first line\nsecond line\nthird line");
    terminal
        .until("the pasted text", |lines| lines.last().is_some_and(|it| it.contains("third line")))
        .await;
    let mut operator = daemon.operator().await;
    let history = json!({ "sessionKey": "agent:main:main" });
    let before = operator.call("chat.history", history.clone()).await.unwrap();
    assert_eq!(before["messages"], json!([]), "nothing is sent before Enter");
    terminal.keys("\r");
    terminal
        .until("an answer and a prompt", |lines| {
            lines.last().is_some_and(|it| it.trim_end() == ">")
        })
        .await;
    let after = operator.call("chat.history", history).await.unwrap();
    let messages = after["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 2, "one question, one answer: {after}");
    assert!(messages[0].to_string().contains("first line\\nsecond line\\nthird line"), "{after}");
}

#[tokio::test]
async fn what_happens_meanwhile_leaves_the_typed_line_whole() {
    let mut daemon = Daemon::start().await;
    let ctl = Ctl::beside(&daemon);
    let mut terminal = chat(&ctl).await;
    terminal.keys("half a sen");
    terminal.shows("> half a sen").await;
    daemon.kill().await;
    let told = |lines: &[String]| lines.iter().any(|line| line.contains("connecting again"));
    terminal.until("that the connection is lost", told).await;
    daemon.start_again().await;
    terminal.shows("connected again").await;
    terminal.until("the line as it was", |lines| lines.last().unwrap() == "> half a sen").await;
    terminal.keys("tence\r");
    let answered =
        |lines: &[String]| lines.iter().filter(|it| it.contains("half a sentence")).count() > 1;
    terminal.until("the answer", answered).await;
}

#[tokio::test]
async fn ctrl_c_stops_an_answer_and_the_conversation_goes_on() {
    let model = SteeredModel::start().await;
    let config = json!({
        "gateway": { "auth": { "token": TOKEN } },
        "models": model.models(),
        "agents": { "defaults": { "model": { "primary": "mock/mock-1" } } },
    });
    let daemon = Daemon::start_with(Options::with(config)).await;
    let mut terminal = chat(&Ctl::beside(&daemon)).await;
    terminal.keys("DRIP\r");
    let streams = |lines: &[String]| lines.last().is_some_and(|line| line.len() > "> DRIP".len());
    terminal.until("the beginning of an answer", streams).await;
    terminal.keys(CTRL_C);
    let stopped = |lines: &[String]| lines.iter().any(|line| line.contains("(stopped)"));
    terminal.until("that it was stopped", stopped).await;
    prompt(&terminal).await;
    terminal.keys("hello\r");
    terminal.shows("Hello from the mock model.").await;
    prompt(&terminal).await;
    terminal.keys(CTRL_D);
    assert!(terminal.ended().await.success());
}
