//! The JSON Schema of the policy document, generated from the types of [`super::document`] and
//! checked in as `data/policy.schema.json`.

use serde_json::{Value, json};

use super::document::Document;

/// The schema, as JSON text with a newline at its end.
pub fn json_schema() -> String {
    let mut schema = schemars::schema_for!(Document).to_value();
    forbid_null(&mut schema);
    // Not a part of the policy: it tells editors where this schema is.
    schema["properties"]["$schema"] =
        json!({ "type": "string", "description": "This schema, for editors; otherwise ignored." });
    format!("{schema:#}\n")
}

/// An optional field must not be null, although the derived schema allows null for every `Option`.
fn forbid_null(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
                choices.retain(|choice| choice["type"] != "null");
                if let [Value::Object(only)] = choices.as_slice() {
                    let only = only.clone();
                    object.remove("anyOf");
                    object.extend(only);
                }
            }
            object.values_mut().for_each(forbid_null);
        }
        Value::Array(list) => list.iter_mut().for_each(forbid_null),
        _ => {}
    }
}
