//! Spellings of a key, as encoders write them.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

pub(super) fn wrapped(text: &str, width: usize, end: &str) -> String {
    let lines: Vec<&str> =
        text.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
    lines.join(end)
}

fn digits(byte: u8, upper: bool) -> String {
    if upper { format!("{byte:02X}") } else { format!("{byte:02x}") }
}

pub(super) fn hex(text: &str, group: usize, between: &str, upper: bool) -> String {
    let groups: Vec<String> = text
        .as_bytes()
        .chunks(group)
        .map(|bytes| bytes.iter().map(|byte| digits(*byte, upper)).collect())
        .collect();
    groups.join(between)
}

pub(super) fn utf16(text: &str, big: bool) -> Vec<u8> {
    let bytes = |unit: u16| if big { unit.to_be_bytes() } else { unit.to_le_bytes() };
    text.encode_utf16().flat_map(bytes).collect()
}

pub(super) fn each(text: &str, escape: impl Fn(char) -> String) -> String {
    text.chars().map(escape).collect()
}

/// References without a semicolon, unless a digit follows that would continue the number.
fn no_semicolon(key: &str) -> String {
    let followed = key.chars().zip(key.chars().skip(1).map(Some).chain([None]));
    let escape = |(c, next): (char, Option<char>)| match next {
        Some(next) if !c.is_ascii_alphanumeric() && !next.is_ascii_digit() => {
            format!("&#{}", c as u32)
        }
        _ => c.to_string(),
    };
    followed.map(escape).collect()
}

/// Spellings of a key, by name.
pub(super) fn spellings(key: &str) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: &str, text: String| all.push((name.to_owned(), text.into_bytes()));
    let special = |c: char| !c.is_ascii_alphanumeric();
    let only = |escape: &dyn Fn(char) -> String| {
        each(key, |c| if special(c) { escape(c) } else { c.to_string() })
    };
    add("literal", key.to_owned());
    add("percent", only(&|c| format!("%{:02X}", c as u32)));
    add("percent, lower", only(&|c| format!("%{:02x}", c as u32)));
    add("percent, each", each(key, |c| format!("%{:02X}", c as u32)));
    add("percent, twice", only(&|c| format!("%25{:02X}", c as u32)));
    add("percent, thrice", only(&|c| format!("%2525{:02X}", c as u32)));
    add("json", only(&|c| format!("\\u{:04x}", c as u32)));
    add("json, upper", only(&|c| format!("\\u{:04X}", c as u32)));
    add("json, each", each(key, |c| format!("\\u{:04x}", c as u32)));
    add("json in json", only(&|c| format!("\\\\u{:04x}", c as u32)));
    add("json in json in json", only(&|c| format!("\\\\\\\\u{:04x}", c as u32)));
    add("slashes", key.replace('/', "\\/"));
    add("slashes in json", key.replace('/', "\\\\\\/"));
    add("x", only(&|c| format!("\\x{:02x}", c as u32)));
    add("x, each", each(key, |c| format!("\\x{:02X}", c as u32)));
    add("braces", only(&|c| format!("\\u{{{:x}}}", c as u32)));
    add("braces, zeros", each(key, |c| format!("\\u{{{:06X}}}", c as u32)));
    add("octal", only(&|c| format!("\\{:03o}", c as u32)));
    add("html", only(&|c| format!("&#{};", c as u32)));
    add("html, hex", only(&|c| format!("&#x{:X};", c as u32)));
    add("html, zeros", each(key, |c| format!("&#x{:05x};", c as u32)));
    add("html, twice", only(&|c| format!("&amp;#{};", c as u32)));
    let names = [('+', "&plus;"), ('/', "&sol;"), ('=', "&equals;"), ('<', "&lt;")];
    let named = names.iter().fold(key.to_owned(), |text, (c, name)| text.replace(*c, name));
    add("html, named", named);
    add("json of percent", only(&|c| format!("\\u0025{:02X}", c as u32)));
    add("percent of json", only(&|c| format!("%5Cu{:04x}", c as u32)));
    for before in ["", "u", "us"] {
        let larger = format!("{before}Bearer {key} and so on");
        let standard = STANDARD.encode(&larger);
        add("base64", standard.clone());
        add("base64url", URL_SAFE_NO_PAD.encode(&larger));
        for (width, end) in
            [(16, "\n"), (60, "\n"), (64, "\n"), (76, "\r\n"), (20, "\\n"), (76, "\\r\\n")]
        {
            add("base64, wrapped", wrapped(&standard, width, end));
            add("base64, wrapped", wrapped(&standard, width, end).replace('/', "\\/"));
        }
        add("base64, wrapped, %0A", wrapped(&standard, 76, "%0A").replace('+', "%2B"));
        add("base64, percent", each(&standard, |c| format!("%{:02X}", c as u32)));
        add("base64, slashes", standard.replace('/', "\\/").replace('+', "\\u002b"));
        add("base64, html", standard.replace('/', "&#x2F;").replace('+', "&#43;"));
        add("base64 of UTF-16", STANDARD.encode(utf16(&larger, false)));
    }
    for upper in [false, true] {
        add("hex", hex(key, 100, "", upper));
        add("hex, 60 columns", wrapped(&hex(key, 100, "", upper), 60, "\n"));
        add("hex, columns in json", wrapped(&hex(key, 100, "", upper), 60, "\\n"));
        for between in [":", " ", "-", ",", ".", "_", "\n", "\r\n", ", ", "%3A", "%20", "\\n"] {
            add(&format!("hex by {between:?}"), hex(key, 1, between, upper));
        }
        for group in [2, 4, 8] {
            add("hex, groups", format!("1234567{}", hex(key, group, " ", upper)));
        }
        add("hex, 0x", format!("0x{}", hex(key, 1, ", 0x", upper)));
        let rows = wrapped(&hex(key, 1, ":", upper), 24, "\n");
        add("hex, rows", rows.replace(":\n", "\n"));
        add("hex, rows", rows);
        add("hex, rows in json", wrapped(&hex(key, 1, " ", upper), 48, "\\n"));
    }
    add("\\x before each", format!("\\x{}", hex(key, 1, "\\x", false)));
    let digits = hex(key, 100, "", false);
    let mixed = |text: &str, every: usize| -> String {
        let upper =
            |(at, c): (usize, char)| if at % every == 0 { c.to_ascii_uppercase() } else { c };
        text.chars().enumerate().map(upper).collect()
    };
    add("hex, mixed case", mixed(&digits, 3));
    add("hex, mixed case", mixed(&digits, 2));
    add("hex, mixed case by :", mixed(&hex(key, 1, ":", false), 4));
    add("punctuation", only(&|c| format!("\\{c}")));
    add("html, no semicolon", no_semicolon(key));
    let folded = STANDARD.encode(format!("Basic {key} and some more behind it"));
    for (width, end) in [(60, "\n  "), (76, "\r\n "), (16, "\n\t\t"), (60, "\\n    ")] {
        add("base64, folded", wrapped(&folded, width, end));
    }
    for (name, text) in [
        ("percent", only(&|c| format!("%{:02X}", c as u32))),
        ("json", only(&|c| format!("\\u{:04x}", c as u32))),
        ("slashes", key.replace('/', "\\/")),
        ("base64", STANDARD.encode(format!("u{key}"))),
        ("hex", digits),
    ] {
        all.push((format!("utf-16le, {name}"), utf16(&text, false)));
        all.push((format!("utf-16be, {name}"), utf16(&text, true)));
    }
    all.push(("utf-16le".into(), utf16(key, false)));
    all.push(("utf-16be".into(), utf16(key, true)));
    all
}
