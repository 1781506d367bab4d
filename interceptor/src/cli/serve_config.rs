//! Reads the configuration of `interceptor serve`. Every error is reported at once with its
//! location, never with the value, which may be secret.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::control::model::{ConfiguredSandbox, DaemonConfig};
use crate::files;

/// The largest configuration, in bytes.
const LARGEST: usize = 16 << 20;
/// The maximum of `drain`, in seconds, as for `--drain`.
const LONGEST_DRAIN: u64 = 86_400;
/// The maximum of `max_sandboxes`, as for `--max-sandboxes`.
const MOST_SANDBOXES: u32 = 65_536;

/// Reads the configuration.
pub(super) fn read(path: &Path) -> anyhow::Result<DaemonConfig> {
    let name = || format!("the configuration {}", path.display());
    let text = files::read_text(path, LARGEST).with_context(name)?;
    let error = match serde_json::from_str::<DaemonConfig>(&text) {
        Ok(config) => {
            let wrong = out_of_range(&config);
            if wrong.is_empty() {
                return Ok(config);
            }
            bail!("{}: {}", name(), wrong.join("; "));
        }
        Err(error) => error,
    };
    let wrong = match serde_json::from_str(&text) {
        Ok(Value::Object(fields)) => wrong(&fields),
        _ => Vec::new(),
    };
    // Duplicate fields and syntax errors have a line number.
    if wrong.is_empty() {
        let (line, column) = (error.line(), error.column());
        bail!("{}, line {line}, column {column}: {}", name(), without_value(&error));
    }
    bail!("{}: {}", name(), wrong.join("; "))
}

/// The errors in the fields, each checked on its own.
fn wrong(fields: &Map<String, Value>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (field, value) in fields {
        match (field.as_str(), value) {
            ("sandboxes", Value::Array(sandboxes)) => {
                for (index, sandbox) in sandboxes.iter().enumerate() {
                    wrong.extend(of_sandbox(&format!("/sandboxes/{index}"), sandbox));
                }
            }
            _ => wrong.extend(alone::<DaemonConfig>("", field, value, None)),
        }
    }
    wrong
}

fn of_sandbox(place: &str, sandbox: &Value) -> Vec<String> {
    let Value::Object(fields) = sandbox else { return vec![format!("{place}: must be an object")] };
    let others = fields.iter().filter(|(field, _)| *field != "cgroup");
    let each = others.filter_map(|(field, value)| {
        alone::<ConfiguredSandbox>(place, field, value, Some(("cgroup", Value::from("/"))))
    });
    let mut wrong: Vec<String> = each.collect();
    match fields.get("cgroup") {
        Some(cgroup) => wrong.extend(alone::<ConfiguredSandbox>(place, "cgroup", cgroup, None)),
        None => wrong.push(format!("{place}: missing field `cgroup`")),
    }
    wrong
}

/// The error in one field, with the required one added.
fn alone<T: DeserializeOwned>(
    place: &str,
    field: &str,
    value: &Value,
    beside: Option<(&str, Value)>,
) -> Option<String> {
    let mut object = Map::new();
    object.extend(beside.map(|(field, value)| (field.to_owned(), value)));
    object.insert(field.to_owned(), value.clone());
    let error = serde_json::from_value::<T>(Value::Object(object)).err()?;
    Some(format!("{place}/{field}: {}", without_value(&error)))
}

fn out_of_range(config: &DaemonConfig) -> Vec<String> {
    let mut wrong = Vec::new();
    if config.drain.is_some_and(|seconds| seconds > LONGEST_DRAIN) {
        wrong.push(format!("/drain: must be at most {LONGEST_DRAIN} seconds"));
    }
    if config.max_sandboxes.is_some_and(|most| !(1..=MOST_SANDBOXES).contains(&most)) {
        wrong.push(format!("/max_sandboxes: must be between 1 and {MOST_SANDBOXES}"));
    }
    wrong
}

/// `invalid type: string "…", expected …`, ``unknown variant `…`, expected …``: without the value,
/// which may be secret.
fn without_value(error: &serde_json::Error) -> String {
    let what = interceptor_policy::without_place(error);
    if let Some((_, expected)) =
        what.strip_prefix("unknown variant `").and_then(|at| at.split_once("`, "))
    {
        return format!("unknown variant, {expected}");
    }
    match (what.find('"'), what.rfind('"')) {
        (Some(first), Some(last)) if first < last => {
            format!("{}…{}", &what[..first], &what[last + 1..])
        }
        _ => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> anyhow::Result<DaemonConfig> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path())
    }

    #[test]
    fn p3_an_unknown_field_of_the_configuration_is_an_error_that_names_it() {
        for text in
            [r#"{"audits":"x"}"#, r#"{"sandboxes":[{"cgroup":"/x","polciy":"y"}]}"#, "[]", "{", ""]
        {
            assert!(config(text).is_err(), "{text}");
        }
        let error = format!("{:#}", config(r#"{"audits":"x"}"#).unwrap_err());
        assert!(error.contains("`audits`"), "{error}");
        let read = config(r#"{"control":"/c","sandboxes":[{"cgroup":"/x","pid":7}]}"#).unwrap();
        assert_eq!(read.sandboxes[0].pid, Some(7));
    }

    #[test]
    fn a_value_in_the_wrong_place_is_not_repeated() {
        for text in [r#"{"max_sandboxes":"sk-canary"}"#, r#"{"log_format":"sk-canary"}"#] {
            let error = format!("{:#}", config(text).unwrap_err());
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let text = r#"{"audits":"x","drain":"y","adopt":"a b","sandboxes":[
            {"cgroup":7,"polciy":"y"},{"id":"x"},[],{"cgroup":"/x","pid":"p"}]}"#;
        let error = format!("{:#}", config(text).unwrap_err());
        for place in [
            "/audits: ",
            "/drain: ",
            "/adopt: ",
            "/sandboxes/0/cgroup: ",
            "/sandboxes/0/polciy: ",
            "/sandboxes/1: missing field `cgroup`",
            "/sandboxes/2: ",
            "/sandboxes/3/pid: ",
        ] {
            assert!(error.contains(place), "{place}: {error}");
        }
        let error = format!("{:#}", config(r#"{"drain":100000,"max_sandboxes":0}"#).unwrap_err());
        assert!(error.contains("/drain") && error.contains("/max_sandboxes"), "{error}");
        let twice = format!("{:#}", config(r#"{"drain":1,"drain":2}"#).unwrap_err());
        assert!(twice.contains("line 1"), "{twice}");
    }

    #[test]
    fn what_the_options_say_the_configuration_may_say() {
        let text =
            r#"{"readable":["a"],"drain":5,"adopt":"none","base_urls":true,"log_format":"json"}"#;
        let read = config(text).unwrap();
        assert_eq!((read.drain, read.base_urls, read.readable.len()), (Some(5), true, 1));
        assert_eq!(read.adopt, Some(crate::fleet::Adopt::None));
        assert_eq!(read.log_format, Some(crate::logging::Format::Json));
    }
}
