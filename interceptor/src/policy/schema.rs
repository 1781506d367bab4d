//! The JSON Schema of the policy document, generated from the types of [`super::document`] and checked in as
//! `data/policy.schema.json`.

use schemars::JsonSchema;

use super::document::Document;

/// A key: the key itself, or where it is.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used: the reader makes a KeySource")]
pub(super) enum Key {
    /// The key itself.
    Literal(#[schemars(length(min = 1))] String),
    /// A variable of the interceptor's environment.
    Env(EnvKey),
    /// A file; its trailing newline is dropped.
    File(FileKey),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct EnvKey {
    /// The variable's name.
    env: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct FileKey {
    /// The file's path.
    file: String,
}

/// One variable or several.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum Env {
    /// One variable.
    One(String),
    /// Several variables.
    Several(Vec<String>),
}

/// The schema, as JSON text with a newline at its end.
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(Document);
    let mut text = format!("{:#}", schema.as_value());
    text.push('\n');
    text
}
