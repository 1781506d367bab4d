//! Answers of GitHub to Copilot CLI, as it asks before its first turn: who the user is, and which
//! models there are.

use serde_json::{Value, json};

/// The answer to a GET, if this is one of them.
pub(super) fn answer(host: &str, path: &str) -> Option<Value> {
    match (host, path) {
        ("api.github.com", "/copilot_internal/user") => Some(json!({
            "login": "lab", "copilot_plan": "individual", "access_type_sku": "pro",
            "chat_enabled": true, "organization_list": [],
            "endpoints": { "api": "https://api.githubcopilot.com" },
        })),
        ("api.githubcopilot.com", "/models") => {
            Some(json!({ "object": "list", "data": [model("gpt-4.1"), model("gpt-5-mini")] }))
        }
        _ => None,
    }
}

fn model(id: &str) -> Value {
    json!({
        "id": id, "name": id, "vendor": "lab", "version": id, "object": "model",
        "model_picker_enabled": true, "is_chat_default": true, "is_chat_fallback": true,
        "preview": false, "supported_endpoints": ["/chat/completions"],
        "capabilities": {
            "family": id, "type": "chat", "object": "model_capabilities",
            "tokenizer": "o200k_base",
            "limits": { "max_context_window_tokens": 128_000, "max_output_tokens": 16_000,
                        "max_prompt_tokens": 128_000 },
            "supports": { "streaming": true, "tool_calls": true, "parallel_tool_calls": true },
        },
        "policy": { "state": "enabled", "terms": "" },
        "billing": { "is_premium": false, "multiplier": 0 },
    })
}
