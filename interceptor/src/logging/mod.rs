//! The log: to standard error, as text or as JSON lines, filtered by `RUST_LOG`.
//!
//! No real key gets into it at any level. Two independent measures ensure that:
//!
//! - Libraries are limited to [`MOST_OF_LIBRARIES`]. At `debug` and `trace`, HTTP, TLS and DNS
//!   libraries print heads and frames with keys and queries; our own modules do not.
//! - Each line is searched for the real keys of every sandbox, as responses are
//!   ([`interceptor_policy::redact`]).

mod keys;
mod stderr;
mod text;

use std::io::{self, IsTerminal, Write};

use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

pub(crate) use self::keys::{KeptOut, Secrets, changed, keep_out};
use self::stderr::LogWriter;
use crate::notice;

/// The maximum level for other crates.
pub(crate) const MOST_OF_LIBRARIES: LevelFilter = LevelFilter::INFO;

/// The format of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts the log, filtered by `RUST_LOG` or else by `level`, in the same syntax. Does nothing if
/// already started.
pub(crate) fn start(format: Format, level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    start_filtered(format, filter);
}

/// As [`start`], but filtered by `level` alone, which may be anything.
pub(crate) fn start_at(format: Format, level: &str) {
    start_filtered(format, EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("error")));
}

fn start_filtered(format: Format, filter: EnvFilter) {
    notice::set_json(format == Format::Json);
    if format == Format::Json {
        // A panic is also one JSON line.
        std::panic::set_hook(Box::new(|panic| notice::error(panic)));
    }
    let lines = tracing_subscriber::fmt::layer().with_writer(Cleaned).log_internal_errors(false);
    let lines = match format {
        Format::Text => {
            lines.with_ansi(io::stderr().is_terminal()).fmt_fields(text::Fields).boxed()
        }
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let log = tracing_subscriber::registry()
        .with(filter)
        .with(lines.with_filter(filter_fn(is_ours_or_mild)));
    // Fails only if a subscriber is already installed.
    let _ = log.try_init();
}

/// Whether an event may be logged, regardless of `RUST_LOG`.
fn is_ours_or_mild(metadata: &Metadata<'_>) -> bool {
    let ours = metadata.target().strip_prefix("interceptor");
    ours.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        || *metadata.level() <= MOST_OF_LIBRARIES
}

/// Standard error, with keys replaced.
#[derive(Clone, Copy, Debug)]
struct Cleaned;

impl Write for Cleaned {
    /// Takes a whole line, so that no key is split.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LogWriter.write_all(keys::cleaned(line).as_deref().unwrap_or(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        LogWriter.flush()
    }
}

impl<'a> MakeWriter<'a> for Cleaned {
    type Writer = Cleaned;

    fn make_writer(&'a self) -> Cleaned {
        Cleaned
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use interceptor_policy::{Catalogue, Document, Policy};

    use super::keep_out;
    use super::keys::cleaned;
    use crate::credential::Keyring;

    fn keyring(key: &str) -> Arc<Keyring> {
        let text =
            format!(r#"{{"credentials_v2":{{"c":{{"key":"{key}","hosts":["api.test"]}}}}}}"#);
        let document = Document::parse(&text).unwrap().document;
        let policy = Policy::compile(&document, &Catalogue::builtin()).unwrap();
        Arc::new(Keyring::load(&policy, None).unwrap())
    }

    #[test]
    fn o1_the_keys_of_every_sandbox_are_taken_out_of_a_line_as_long_as_it_lives() {
        let (one, two) =
            (keyring("first-real-key-of-this-test"), keyring("second-real-key-of-this-test"));
        let kept = (keep_out(&one), keep_out(&two));
        let line =
            b"{\"a\":\"first-real-key-of-this-test\",\"b\":\"second-real-key-of-this-test\"}\n";
        let clean = String::from_utf8(cleaned(line).unwrap()).unwrap();
        assert!(!clean.contains("-real-key-of-this-test") && clean.ends_with("\"}\n"), "{clean}");
        assert_eq!(cleaned(b"nothing of the kind\n"), None);
        drop(kept);
        assert_eq!(cleaned(line), None, "keys that are gone are not kept for the log's sake");
    }

    #[test]
    fn no_log_line_shows_a_value_as_rust_writes_it() {
        fn sources(directory: &std::path::Path, into: &mut Vec<std::path::PathBuf>) {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => sources(&path, into),
                    false => into.push(path),
                }
            }
        }
        let mut files = Vec::new();
        sources(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut files);
        let mut calls = 0;
        for file in files.iter().filter(|file| file.extension().is_some_and(|kind| kind == "rs")) {
            let text = std::fs::read_to_string(file).unwrap();
            let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for call in shipped.split("tracing::").skip(1) {
                let Some((macro_name, rest)) = call.split_once("!(") else { continue };
                if !["trace", "debug", "info", "warn", "error"].contains(&macro_name) {
                    continue;
                }
                calls += 1;
                // Fields stand before the message, which is the first string that no `=` precedes.
                let fields = rest.split(");").next().unwrap();
                let debug = fields
                    .split(',')
                    .map(str::trim)
                    .any(|field| field.starts_with('?') || field.contains("= ?"));
                assert!(!debug, "{}: {macro_name}!({fields}", file.display());
            }
        }
        assert!(calls > 40, "{calls}");
    }
}
