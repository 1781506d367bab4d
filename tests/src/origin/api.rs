//! Answers of the OpenAI, Anthropic and Gemini APIs, enough for their official clients and for
//! command-line agents, whole, as server-sent events, and as messages of a WebSocket. If the
//! model's name ends in `-gated`, the events after the first wait for the test's gate, so that a
//! test can show that the first arrived before the last was sent.

mod copilot;
mod google;

use std::sync::Arc;

use serde_json::{Value, json};

use super::Shared;
use super::answer::GATE;
use super::body::{Feed, Frames};

/// The text of every answer, in the parts that are streamed.
pub const TEXT: [&str; 3] = ["Hello ", "from the ", "origin"];

/// The answer, if one of the APIs has this request and its body is valid.
pub(super) fn answer(
    host: &str,
    path: &str,
    body: &[u8],
    shared: &Arc<Shared>,
) -> Option<http::Response<Frames>> {
    if let Some(known) = copilot::answer(host, path) {
        return Some(whole_answer(&known));
    }
    let asked: Value = serde_json::from_slice(body).ok()?;
    let (whole, events): (Value, Vec<String>) = match (host, path) {
        ("api.openai.com", "/v1/chat/completions")
        | ("api.githubcopilot.com", "/chat/completions")
            if asked["messages"].is_array() =>
        {
            openai(&asked)
        }
        ("api.openai.com", "/v1/responses") if !asked["input"].is_null() => openai_response(&asked),
        ("api.anthropic.com", "/v1/messages") if asked["messages"].is_array() => anthropic(&asked),
        ("generativelanguage.googleapis.com", _) => google::answer(path, &asked)?,
        _ => return None,
    };
    let streams = asked["stream"] == true || path.ends_with(":streamGenerateContent");
    if !streams {
        return Some(whole_answer(&whole));
    }
    let gated = asked["model"].as_str().is_some_and(|model| model.ends_with("-gated"));
    Some(typed("text/event-stream; charset=utf-8", stream(events, gated, shared.clone())))
}

fn whole_answer(answer: &Value) -> http::Response<Frames> {
    typed("application/json", Frames::full(answer.to_string()))
}

fn typed(kind: &'static str, frames: Frames) -> http::Response<Frames> {
    let mut response = http::Response::new(frames);
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(kind));
    response
}

/// The messages that answer one of the client's on a WebSocket, where an API has one
/// (<https://platform.openai.com/docs/guides/websocket-mode>).
pub(super) fn messages(host: &str, path: &str, message: &[u8]) -> Option<Vec<String>> {
    let asked: Value = serde_json::from_slice(message).ok()?;
    let wanted = (host, path) == ("api.openai.com", "/v1/responses");
    if !wanted || asked["type"] != "response.create" {
        return None;
    }
    let data = |event: &String| {
        event.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned)
    };
    Some(openai_response(&asked).1.iter().filter_map(data).collect())
}

fn stream(events: Vec<String>, gated: bool, shared: Arc<Shared>) -> Frames {
    Frames::fed(None, move |feed: Feed| async move {
        for event in events {
            // The first text has been sent. The rest waits until the test has seen it.
            if gated && event.contains(TEXT[1]) {
                let opened = tokio::time::timeout(GATE, shared.gate.notified()).await;
                if opened.is_err() {
                    feed.data(
                        "event: error\ndata: {\"error\": {\"message\": \"the gate stayed \
                         shut\"}}\n\n",
                    )
                    .await;
                    return;
                }
            }
            if !feed.data(event).await {
                return;
            }
        }
    })
}

/// <https://platform.openai.com/docs/api-reference/chat>
fn openai(asked: &Value) -> (Value, Vec<String>) {
    let whole = json!({
        "id": "chatcmpl-lab", "object": "chat.completion", "created": 1_700_000_000,
        "model": asked["model"],
        "choices": [{
            "index": 0, "finish_reason": "stop", "logprobs": null,
            "message": { "role": "assistant", "content": TEXT.concat(), "refusal": null },
        }],
        "usage": { "prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4 },
    });
    let chunk = |delta: Value, end: Value| {
        let chunk = json!({
            "id": "chatcmpl-lab", "object": "chat.completion.chunk", "created": 1_700_000_000,
            "model": asked["model"],
            "choices": [{ "index": 0, "delta": delta, "finish_reason": end, "logprobs": null }],
        });
        format!("data: {chunk}\n\n")
    };
    let mut events = vec![chunk(json!({ "role": "assistant", "content": "" }), Value::Null)];
    events.extend(TEXT.map(|text| chunk(json!({ "content": text }), Value::Null)));
    events.push(chunk(json!({}), json!("stop")));
    events.push("data: [DONE]\n\n".to_owned());
    (whole, events)
}

/// <https://platform.openai.com/docs/api-reference/responses>
fn openai_response(asked: &Value) -> (Value, Vec<String>) {
    let message = |text: &str, status: &str| {
        json!({
            "id": "msg_lab", "type": "message", "role": "assistant", "status": status,
            "content": [{ "type": "output_text", "text": text, "annotations": [], "logprobs": [] }],
        })
    };
    let response = |status: &str, output: Vec<Value>| {
        json!({
            "id": "resp_lab", "object": "response", "created_at": 1_700_000_000, "status": status,
            "model": asked["model"],
            "error": null, "incomplete_details": null, "instructions": null, "metadata": {},
            "output": output, "parallel_tool_calls": true, "temperature": 1.0, "top_p": 1.0,
            "tool_choice": "auto", "tools": [],
            "usage": { "input_tokens": 1, "input_tokens_details": { "cached_tokens": 0 },
                       "output_tokens": 3, "output_tokens_details": { "reasoning_tokens": 0 },
                       "total_tokens": 4 },
        })
    };
    let whole = response("completed", vec![message(&TEXT.concat(), "completed")]);
    let mut told = vec![
        json!({ "type": "response.created", "response": response("in_progress", vec![]) }),
        json!({ "type": "response.output_item.added", "output_index": 0,
                        "item": { "id": "msg_lab", "type": "message", "role": "assistant",
                                  "status": "in_progress", "content": [] } }),
        json!({ "type": "response.content_part.added", "item_id": "msg_lab",
                        "output_index": 0, "content_index": 0,
                        "part": { "type": "output_text", "text": "",
                                  "annotations": [], "logprobs": [] } }),
    ];
    told.extend(TEXT.map(|text| {
        json!({ "type": "response.output_text.delta", "item_id": "msg_lab",
                "output_index": 0, "content_index": 0, "delta": text, "logprobs": [] })
    }));
    let item = message(&TEXT.concat(), "completed");
    told.push(json!({ "type": "response.output_item.done", "output_index": 0, "item": item }));
    told.push(json!({ "type": "response.completed", "response": whole }));
    let events = told.into_iter().enumerate().map(|(number, mut event)| {
        event["sequence_number"] = number.into();
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
    });
    (whole, events.collect())
}

/// <https://docs.anthropic.com/en/api/messages>
fn anthropic(asked: &Value) -> (Value, Vec<String>) {
    let message = |content: Value, reason: Value| {
        json!({
            "id": "msg_lab", "type": "message", "role": "assistant", "model": asked["model"],
            "content": content, "stop_reason": reason, "stop_sequence": null,
            "usage": { "input_tokens": 1, "output_tokens": 3 },
        })
    };
    let whole = message(json!([{ "type": "text", "text": TEXT.concat() }]), json!("end_turn"));
    let mut told = vec![
        json!({ "type": "message_start", "message": message(json!([]), Value::Null) }),
        json!({ "type": "content_block_start", "index": 0,
                "content_block": { "type": "text", "text": "" } }),
        json!({ "type": "ping" }),
    ];
    told.extend(TEXT.map(|text| {
        json!({ "type": "content_block_delta", "index": 0,
                "delta": { "type": "text_delta", "text": text } })
    }));
    told.extend([
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta",
                "delta": { "stop_reason": "end_turn", "stop_sequence": null },
                "usage": { "output_tokens": 3 } }),
        json!({ "type": "message_stop" }),
    ]);
    let event = |event: Value| {
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
    };
    (whole, told.into_iter().map(event).collect())
}
