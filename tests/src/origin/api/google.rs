//! Answers of the Gemini API (<https://ai.google.dev/api/generate-content>).

use serde_json::{Value, json};

use super::TEXT;

/// What a path asks for: its last segment is `MODEL:METHOD`.
pub(super) fn answer(path: &str, asked: &Value) -> Option<(Value, Vec<String>)> {
    let (_, method) = path.strip_prefix("/v1beta/models/")?.split_once(':')?;
    let piece = |text: &str, end: Option<&str>| {
        json!({
            "candidates": [{ "index": 0, "finishReason": end,
                             "content": { "role": "model", "parts": [{ "text": text }] } }],
            "usageMetadata": { "promptTokenCount": 1, "candidatesTokenCount": 3,
                               "totalTokenCount": 4 },
            "modelVersion": "lab", "responseId": "lab",
        })
    };
    match method {
        "generateContent" | "streamGenerateContent" if asked["contents"].is_array() => {
            let end = |index: usize| (index + 1 == TEXT.len()).then_some("STOP");
            let pieces = TEXT.iter().enumerate().map(|(index, text)| piece(text, end(index)));
            let events = pieces.map(|piece| format!("data: {piece}\r\n\r\n")).collect();
            Some((piece(&TEXT.concat(), Some("STOP")), events))
        }
        "countTokens" => Some((json!({ "totalTokens": 1 }), Vec::new())),
        _ => None,
    }
}
