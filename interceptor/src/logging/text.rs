//! Formats the fields of a text log line. A request's message already summarises its fields, so
//! only the JSON format prints them.

use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{FormatFields, Writer};

use crate::audit::steers_or_hides;

/// The field that marks a line whose message summarises its fields.
pub(crate) const SUMMED_UP: &str = "decision";

/// `message name=value …`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let mut found = CollectedFields::default();
        fields.record(&mut found);
        writer.write_str(&found.line())
    }
}

#[derive(Default)]
struct CollectedFields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl CollectedFields {
    fn add(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = visible(&value),
            name => self.others.push((name.strip_prefix("r#").unwrap_or(name), value)),
        }
    }

    fn line(self) -> String {
        let mut line = self.message;
        if !line.is_empty() && self.others.iter().any(|(name, _)| *name == SUMMED_UP) {
            return line;
        }
        for (name, value) in self.others {
            let gap = if line.is_empty() { "" } else { " " };
            let bare = !value.is_empty() && !value.contains([' ', '"', '=']);
            // Writing to a String cannot fail.
            let _ = match bare {
                true => write!(line, "{gap}{name}={}", visible(&value)),
                false => write!(line, "{gap}{name}=\"{}\"", visible(&value)),
            };
        }
        line
    }
}

impl Visit for CollectedFields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }
}

/// Escapes text for a terminal.
fn visible(text: &str) -> String {
    if !text.contains(steers_or_hides) {
        return text.to_owned();
    }
    text.chars().fold(String::new(), |mut out, character| {
        if steers_or_hides(character) {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Lines;

        fn make_writer(&self) -> Lines {
            self.clone()
        }
    }

    fn logged(log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(lines.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .fmt_fields(Fields);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn fields_are_written_as_people_read_them() {
        let path = std::path::Path::new("/a b");
        let line = logged(|| {
            tracing::info!(
                sandbox = %"sb-1",
                path = %path.display(),
                pid = 7,
                r#type = "x",
                on = true,
                "begun"
            );
        });
        assert_eq!(line, " INFO begun sandbox=sb-1 path=\"/a b\" pid=7 type=x on=true\n");
        let none: Option<&str> = None;
        assert_eq!(logged(|| tracing::info!(host = none, "begun")), " INFO begun\n");
    }

    #[test]
    fn a_message_that_says_it_all_stands_alone() {
        let line = logged(|| {
            tracing::info!(decision = "allow", status = 200, "allowed GET a.test/ 200 1ms")
        });
        assert_eq!(line, " INFO allowed GET a.test/ 200 1ms\n");
    }

    #[test]
    fn o2_nothing_in_a_line_steers_the_terminal() {
        let hostile = "a\u{1b}[2J\nb\u{202e}";
        let line =
            logged(|| tracing::info!(host = hostile, other = ?Some(hostile), "of {hostile}"));
        let body = line.strip_suffix('\n').unwrap();
        assert!(!body.contains(steers_or_hides), "{body:?}");
    }
}
