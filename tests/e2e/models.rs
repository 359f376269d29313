//! The model providers against a server that plays recorded answers.

use std::sync::Arc;

use futures_util::StreamExt as _;
use moltbot_tests::model_server::{Asked, ModelServer, Reply};
use moltbotd::{
    config,
    providers::{
        Chunk, Media, ModelRef, Models, Prompt, ProviderError, StopReason, ToolCall, ToolSpec,
        Turn, Usage,
    },
};
use serde_json::{Value, json};

fn models(sections: Value) -> Models {
    let config: config::Config = serde_json::from_value(sections).unwrap();
    Models::new(Arc::new(config::Live::new(config)))
}

fn scripted(server: &ModelServer, api: &str) -> Models {
    models(json!({ "models": server.models(api) }))
}

async fn ask(models: &Models, prompt: Prompt) -> Vec<Result<Chunk, ProviderError>> {
    let model = ModelRef::parse("scripted/m").unwrap();
    models.find(&model).unwrap().stream(prompt).collect().await
}

async fn answer(models: &Models, prompt: Prompt) -> Vec<Chunk> {
    ask(models, prompt).await.into_iter().map(Result::unwrap).collect()
}

async fn failure(models: &Models) -> ProviderError {
    let mut chunks = ask(models, hello()).await;
    assert_eq!(chunks.len(), 1, "{chunks:?}");
    chunks.pop().unwrap().unwrap_err()
}

fn user(text: &str) -> Turn {
    Turn::User { text: text.into(), own_words: text.into(), attachments: Vec::new() }
}

fn hello() -> Prompt {
    Prompt { system: "Be kind.".into(), turns: vec![user("hello")], ..Prompt::default() }
}

fn with_tool(turns: Vec<Turn>) -> Prompt {
    let tool = ToolSpec {
        name: "nodes".into(),
        description: "Lists nodes.".into(),
        schema: json!({ "type": "object", "properties": {} }),
    };
    Prompt { turns, tools: vec![tool], thinking: Some("low".into()), ..hello() }
}

fn texts(chunks: &[Chunk]) -> Vec<&str> {
    let texts = chunks.iter().filter_map(|chunk| match chunk {
        Chunk::Text(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

fn calls(chunks: &[Chunk]) -> Vec<ToolCall> {
    let calls = chunks.iter().filter_map(|chunk| match chunk {
        Chunk::Call(call) => Some(call.clone()),
        _ => None,
    });
    calls.collect()
}

fn end(chunks: &[Chunk]) -> (StopReason, Usage) {
    match chunks.last() {
        Some(Chunk::End { stop, usage }) => (*stop, *usage),
        other => panic!("no end: {other:?}"),
    }
}

fn only(server: &ModelServer) -> Asked {
    let mut requests = server.requests();
    assert_eq!(requests.len(), 1);
    requests.remove(0)
}

#[tokio::test]
async fn openai_answers_piece_by_piece() {
    let server = ModelServer::start([Reply::openai(&["Good ", "morning"])]).await;
    let chunks = answer(&scripted(&server, "openai-completions"), hello()).await;
    assert_eq!(texts(&chunks), ["Good ", "morning"]);
    let usage = Usage { input: 10, output: 5, cache_read: 20, cache_write: 0 };
    assert_eq!(end(&chunks), (StopReason::Stop, usage));
    let asked = only(&server);
    assert_eq!(asked.path, "/v1/chat/completions");
    assert_eq!(asked.header("authorization"), Some("Bearer sk-very-secret"));
    assert_eq!(asked.header("x-team"), Some("moltbot-team"));
    assert_eq!(asked.body["model"], "m");
    assert_eq!(asked.body["messages"][0], json!({ "role": "system", "content": "Be kind." }));
}

#[tokio::test]
async fn a_call_of_openai_is_whole_and_its_result_goes_back() {
    let arguments = json!({ "action": "list", "name": "Küche" });
    let server = ModelServer::start([
        Reply::openai_call("call_1", "nodes", &arguments),
        Reply::openai(&["done"]),
    ])
    .await;
    let models = scripted(&server, "openai-completions");
    let chunks = answer(&models, with_tool(vec![user("list")])).await;
    let made = calls(&chunks);
    assert_eq!(made, [ToolCall { id: "call_1".into(), name: "nodes".into(), arguments }]);
    assert_eq!(end(&chunks).0, StopReason::ToolUse);
    let turns = vec![
        user("list"),
        Turn::Assistant { text: String::new(), calls: made },
        Turn::Tool {
            call_id: "call_1".into(),
            name: "nodes".into(),
            text: "none".into(),
            is_error: false,
        },
    ];
    assert_eq!(texts(&answer(&models, with_tool(turns)).await), ["done"]);
    let body = server.requests().remove(1).body;
    assert_eq!(body["tools"][0]["function"]["name"], "nodes");
    let last = body["messages"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["role"], &last["content"]), (&json!("tool"), &json!("none")));
    assert_eq!(last["tool_call_id"], "call_1");
}

#[tokio::test]
async fn ids_of_calls_are_distinct_within_a_conversation() {
    let reply = || Reply::openai_call("call_0", "nodes", &json!({}));
    let server = ModelServer::start([reply()]).await;
    let earlier = ToolCall { id: "call_0".into(), name: "nodes".into(), arguments: json!({}) };
    let turns = vec![
        user("list"),
        Turn::Assistant { text: String::new(), calls: vec![earlier] },
        Turn::Tool {
            call_id: "call_0".into(),
            name: "nodes".into(),
            text: "none".into(),
            is_error: false,
        },
    ];
    let chunks = answer(&scripted(&server, "openai-completions"), with_tool(turns)).await;
    assert_ne!(calls(&chunks)[0].id, "call_0");
}

#[tokio::test]
async fn anthropic_thinks_and_gets_its_signed_thoughts_back_with_the_result() {
    let arguments = json!({ "action": "list" });
    let server = ModelServer::start([
        Reply::anthropic_call(Some("hm"), "toolu_1", "nodes", &arguments),
        Reply::anthropic(None, &["Good ", "morning"]),
    ])
    .await;
    let models = scripted(&server, "anthropic-messages");
    let chunks = answer(&models, with_tool(vec![user("list")])).await;
    assert_eq!(chunks[0], Chunk::Thinking("hm".into()));
    let made = calls(&chunks);
    assert_eq!(made[0].arguments, arguments);
    let usage = Usage { input: 10, output: 5, cache_read: 7, cache_write: 3 };
    assert_eq!(end(&chunks), (StopReason::ToolUse, usage));
    let result = Turn::Tool {
        call_id: "toolu_1".into(),
        name: "nodes".into(),
        text: "none".into(),
        is_error: false,
    };
    let turns = vec![user("list"), Turn::Assistant { text: String::new(), calls: made }, result];
    let chunks = answer(&models, with_tool(turns)).await;
    assert_eq!(texts(&chunks), ["Good ", "morning"]);

    let requests = server.requests();
    assert_eq!(requests[0].path, "/v1/messages");
    assert_eq!(requests[0].header("x-api-key"), Some("sk-very-secret"));
    let content = &requests[1].body["messages"][1]["content"];
    assert_eq!(content[0]["type"], "thinking", "{content}");
    assert_eq!(content[0]["signature"], "signed");
    assert_eq!(content[1]["type"], "tool_use");
    let result = &requests[1].body["messages"][2]["content"][0];
    assert_eq!(
        (&result["type"], &result["tool_use_id"]),
        (&json!("tool_result"), &json!("toolu_1"))
    );
}

#[tokio::test]
async fn anthropic_is_not_asked_to_think_on_about_thoughts_that_are_gone() {
    let server = ModelServer::start([Reply::anthropic(None, &["done"])]).await;
    let call = ToolCall { id: "toolu_9".into(), name: "nodes".into(), arguments: json!({}) };
    let turns = vec![
        user("list"),
        Turn::Assistant { text: String::new(), calls: vec![call] },
        Turn::Tool {
            call_id: "toolu_9".into(),
            name: "nodes".into(),
            text: "none".into(),
            is_error: true,
        },
    ];
    answer(&scripted(&server, "anthropic-messages"), with_tool(turns)).await;
    let body = only(&server).body;
    assert_eq!((body.get("thinking"), body.get("output_config")), (None, None));
    assert!(body["messages"][2].to_string().contains("Error: none"), "{}", body["messages"]);
}

#[tokio::test]
async fn ollama_answers_in_lines() {
    let line = |fields: Value| {
        let mut line = json!({ "model": "m", "done": false });
        line.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        line
    };
    let function = json!({ "name": "nodes", "arguments": { "action": "list" } });
    let server = ModelServer::start([Reply::lines(&[
        line(json!({ "message": { "role": "assistant", "thinking": "hm", "content": "" } })),
        line(json!({ "message": { "role": "assistant", "content": "Let me see." } })),
        line(json!({ "message": {
            "role": "assistant", "content": "", "tool_calls": [{ "function": function }],
        } })),
        line(json!({
            "message": { "role": "assistant", "content": "" },
            "done": true, "done_reason": "stop", "prompt_eval_count": 8, "eval_count": 4,
        })),
    ])])
    .await;
    let chunks = answer(&scripted(&server, "ollama"), with_tool(vec![user("list")])).await;
    assert_eq!(chunks[0], Chunk::Thinking("hm".into()));
    assert_eq!(texts(&chunks), ["Let me see."]);
    assert_eq!(calls(&chunks)[0].arguments, json!({ "action": "list" }));
    let usage = Usage { input: 8, output: 4, ..Usage::default() };
    assert_eq!(end(&chunks), (StopReason::ToolUse, usage));
    assert_eq!(only(&server).path, "/api/chat");
}

#[tokio::test]
async fn gemini_answers_in_events() {
    let server = ModelServer::start([Reply::events(&[
        json!({ "candidates": [{ "content": { "role": "model", "parts": [{ "text": "Good " }] } }] }),
        json!({
            "candidates": [{
                "content": { "role": "model", "parts": [{ "text": "morning" }] },
                "finishReason": "STOP",
            }],
            "usageMetadata": {
                "promptTokenCount": 9, "candidatesTokenCount": 2, "totalTokenCount": 11,
            },
        }),
    ])])
    .await;
    let chunks = answer(&scripted(&server, "google-generative-ai"), hello()).await;
    assert_eq!(texts(&chunks).concat(), "Good morning");
    let usage = Usage { input: 9, output: 2, ..Usage::default() };
    assert_eq!(end(&chunks), (StopReason::Stop, usage));
    let asked = only(&server);
    assert_eq!(asked.path, "/models/m:streamGenerateContent?alt=sse");
    assert_eq!(asked.header("x-goog-api-key"), Some("sk-very-secret"));
}

#[tokio::test]
async fn pictures_are_shown_and_other_files_named() {
    let server = ModelServer::start([Reply::openai(&["nice"])]).await;
    let media = |mime: &str, name: &str, data: &[u8]| Media {
        mime: mime.into(),
        file_name: Some(name.into()),
        data: data.to_vec(),
    };
    let attachments = vec![
        media("image/png", "a.png", b"png"),
        media("text/plain", "b.txt", b"some words"),
        media("application/zip", "c.zip", b"zip"),
    ];
    let turns = vec![Turn::User { text: "look".into(), own_words: String::new(), attachments }];
    let prompt = Prompt { turns, ..Prompt::default() };
    answer(&scripted(&server, "openai-completions"), prompt).await;
    let content = only(&server).body["messages"][0]["content"].clone();
    assert_eq!(content[0]["text"], "look");
    assert_eq!(content[1]["image_url"]["url"], "data:image/png;base64,cG5n");
    assert_eq!(content[2]["text"], "[b.txt, text/plain]\nsome words");
    assert!(content[3]["text"].as_str().unwrap().starts_with("[c.zip, application/zip, 3 bytes"));
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let busy = json!({ "error": { "message": "slow down" } });
    let server = ModelServer::start([
        Reply::error(429, &busy),
        Reply::error(500, &json!({ "error": "boom" })),
        Reply::openai(&["hi"]),
    ])
    .await;
    let chunks = answer(&scripted(&server, "openai-completions"), hello()).await;
    assert_eq!(texts(&chunks), ["hi"]);
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_server_that_stays_busy_is_given_up_after_three_attempts() {
    let busy = Reply::error(429, &json!({ "error": { "message": "slow down" } }));
    let server = ModelServer::start(vec![busy; 5]).await;
    match failure(&scripted(&server, "openai-completions")).await {
        ProviderError::Busy { message, retry_after_ms } => {
            assert_eq!(message, "scripted: 429: slow down");
            assert_eq!(retry_after_ms, Some(1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_server_that_asks_for_patience_is_left_alone() {
    let busy = Reply::error(503, &json!({})).header("retry-after-ms", "3600000");
    let server = ModelServer::start(vec![busy; 2]).await;
    let error = failure(&scripted(&server, "openai-completions")).await;
    assert!(matches!(error, ProviderError::Busy { retry_after_ms: Some(3_600_000), .. }));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn an_answer_that_had_begun_is_never_asked_for_again() {
    for api in ["openai-completions", "anthropic-messages"] {
        let begun = match api {
            "openai-completions" => Reply::openai(&["Good ", "morning"]).cut_after(1),
            _ => Reply::anthropic(None, &["Good ", "morning"]).cut_after(3),
        };
        let server = ModelServer::start([begun, Reply::openai(&["again"])]).await;
        let mut chunks = ask(&scripted(&server, api), hello()).await;
        let error = chunks.pop().unwrap().unwrap_err();
        assert!(matches!(error, ProviderError::Failed(_)), "{error:?}");
        assert_eq!(chunks.len(), 1, "{api}: {chunks:?}");
        assert_eq!(chunks[0].as_ref().unwrap(), &Chunk::Text("Good ".into()));
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_connection_that_ends_before_the_answer_begins_is_tried_again() {
    let server =
        ModelServer::start([Reply::openai(&["x"]).cut_after(0), Reply::openai(&["hi"])]).await;
    let chunks = answer(&scripted(&server, "openai-completions"), hello()).await;
    assert_eq!(texts(&chunks), ["hi"]);
}

#[tokio::test]
async fn a_refused_key_is_named_by_its_place_and_never_shown() {
    let said = json!({ "error": { "message": "Incorrect API key provided: sk-very-secret" } });
    let server = ModelServer::start([Reply::error(401, &said)]).await;
    match failure(&scripted(&server, "openai-completions")).await {
        ProviderError::Unauthorized(text) => {
            let place = "models.providers.scripted.apiKey";
            assert_eq!(text, format!("scripted refused the key from {place}"));
        }
        other => panic!("{other:?}"),
    }
    for status in [400, 403, 404, 500] {
        let server = ModelServer::start(vec![Reply::error(status, &said); 3]).await;
        let text = format!("{:?}", failure(&scripted(&server, "openai-completions")).await);
        assert!(text.contains("***") && !text.contains("very-secret"), "{status}: {text}");
    }
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_told_apart() {
    let said = json!({ "error": {
        "message": "This model's maximum context length is 8192 tokens.",
        "code": "context_length_exceeded",
    } });
    let server = ModelServer::start([Reply::error(400, &said)]).await;
    let error = failure(&scripted(&server, "openai-completions")).await;
    assert!(matches!(error, ProviderError::TooLong(_)), "{error:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = ModelServer::start([Reply::openai(&["stolen"])]).await;
    let moved = Reply::error(307, &json!({})).header("location", &other.url());
    let server = ModelServer::start([moved]).await;
    failure(&scripted(&server, "openai-completions")).await;
    assert!(other.requests().is_empty(), "the key went to another server");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let gone = ModelServer::start([]).await;
    let sections = json!({ "models": gone.models("openai-completions") });
    let url = gone.url();
    drop(gone);
    let text = failure(&models(sections)).await.to_string();
    assert!(text.starts_with(&format!("scripted: cannot connect to {url}: ")), "{text}");
}

#[tokio::test]
async fn an_error_within_the_answer_is_told() {
    let overloaded = json!({
        "type": "error", "error": { "type": "overloaded_error", "message": "Overloaded" },
    });
    let server =
        ModelServer::start([Reply::events(&[overloaded]), Reply::anthropic(None, &["hi"])]).await;
    let chunks = answer(&scripted(&server, "anthropic-messages"), hello()).await;
    assert_eq!(texts(&chunks), ["hi"], "nothing was shown yet, so it was asked again");
}

#[test]
fn every_model_is_listed_in_order() {
    let sections = json!({ "models": { "providers": {
        "zeta": { "baseUrl": "http://h", "models": [{ "id": "b" }, { "id": "c", "name": "A" }] },
        "alpha": { "baseUrl": "http://h", "models": [{ "id": "x", "reasoning": true }] },
    } } });
    let listed: Vec<String> =
        models(sections).list().into_iter().map(|info| info.model.to_string()).collect();
    assert_eq!(listed, ["alpha/x", "builtin/echo", "zeta/c", "zeta/b"]);
}
