use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// Asks a server that sends `head`, and then nothing more.
async fn ask_silent_server(head: &'static str) -> Vec<Result<Chunk, ProviderError>> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            // The client may have given up already.
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(head.as_bytes()).await;
            open.push(stream);
        }
    });
    let short = Duration::from_millis(20);
    let timing = Timing { wait: Duration::ZERO, ..Timing::default() };
    let timing = if head.is_empty() {
        Timing { headers: short, ..timing }
    } else {
        Timing { idle: short, ..timing }
    };
    let hosted = Hosted { timing, ..Hosted::default() };
    let provider = json!({ "baseUrl": format!("http://{address}/v1") });
    let sections = json!({ "models": { "providers": { "mine": provider } } });
    let config: Config = serde_json::from_value(sections).unwrap();
    let model = hosted.find(&config, &ModelRef::parse("mine/m").unwrap()).unwrap();
    let turns = vec![Turn::User {
        text: "hello".into(),
        own_words: String::new(),
        attachments: Vec::new(),
    }];
    let chunks = model.stream(Prompt { turns, ..Prompt::default() }).collect().await;
    server.abort();
    chunks
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let chunks = ask_silent_server("").await;
    let text = chunks[0].as_ref().unwrap_err().to_string();
    assert!(text.ends_with("did not answer in time"), "{text}");
}

#[tokio::test]
async fn a_server_that_stops_within_its_answer_is_given_up() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n\
                data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Good\"}}]}\n\n";
    let chunks = ask_silent_server(head).await;
    assert_eq!(chunks[0].as_ref().unwrap(), &Chunk::Text("Good".into()));
    let text = chunks[1].as_ref().unwrap_err().to_string();
    assert!(text.ends_with("stopped answering"), "{text}");
    assert_eq!(chunks.len(), 2);
}

#[test]
fn waits_double_and_are_spread() {
    let failure = |retry_after| Failure {
        error: ProviderError::Failed(String::new()),
        transient: true,
        retry_after,
    };
    let first = Duration::from_millis(500);
    for (attempt, shortest, longest) in [(1, 375, 625), (2, 750, 1250)] {
        let waited = wait(&failure(None), attempt, first).as_millis();
        assert!((shortest..=longest).contains(&waited), "{attempt}: {waited}");
    }
    let asked = Duration::from_secs(7);
    assert_eq!(wait(&failure(Some(asked)), 1, first), asked);
}

#[test]
fn arguments_that_are_missing_are_an_empty_object() {
    assert_eq!(arguments(json!("")), json!({}));
    assert_eq!(arguments(Value::Null), json!({}));
    assert_eq!(arguments(json!("{\"a\":")), json!("{\"a\":"));
    assert_eq!(arguments(json!({ "a": 1 })), json!({ "a": 1 }));
}
