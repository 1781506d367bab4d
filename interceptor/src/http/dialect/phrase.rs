//! The reason phrase of a refusal over HTTP/1 (RFC 9112 section 4). wget, pip and many older
//! clients print nothing else.

use hyper::ext::ReasonPhrase;

/// Maximum bytes of a phrase: a status line is printed as one line.
const LONGEST: usize = 240;
/// Maximum characters of a single word, such as a path, so that it does not crowd out the reason.
const LONGEST_WORD: usize = 80;

/// The phrase for a refusal with this message.
pub(in crate::http) fn of(message: &str) -> Option<ReasonPhrase> {
    let mut phrase = "Refused:".to_owned();
    for word in message.split_ascii_whitespace() {
        phrase.push(' ');
        phrase.extend(word.chars().map(visible).take(LONGEST_WORD));
        if word.chars().nth(LONGEST_WORD).is_some() {
            phrase.push_str("...");
        }
        if phrase.len() > LONGEST {
            break;
        }
    }
    if phrase.len() > LONGEST {
        // The first half of a message says what was refused, the second how to permit it.
        let end = phrase[..LONGEST].rfind("; ").or_else(|| phrase[..LONGEST].rfind(' '));
        phrase.truncate(end.unwrap_or(LONGEST));
        phrase.push_str("...");
    }
    ReasonPhrase::try_from(phrase).ok()
}

fn visible(character: char) -> char {
    if matches!(character, ' '..='~') { character } else { '?' }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(message: &str) -> String {
        String::from_utf8(of(message).unwrap().as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_phrase_is_one_short_line_of_visible_ascii_whatever_the_message() {
        let long = format!("{} was refused; {}", "x".repeat(400), "y ".repeat(400));
        let hostile = [
            "a\r\nset-cookie: b\r\n\r\nbody",
            "\0\u{1b}[2J\u{7f}\t",
            "naïve \u{202e}漢字",
            &"é".repeat(10_000),
            &"z".repeat(10_000),
            &long,
            "",
        ];
        for message in hostile {
            let phrase = text(message);
            assert!(phrase.starts_with("Refused:") && phrase.len() <= LONGEST + 3, "{phrase}");
            assert!(phrase.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{phrase}");
        }
        assert!(text(&long).contains("xxx... was refused..."), "{}", text(&long));
    }

    #[test]
    fn a_short_message_is_kept_whole() {
        assert_eq!(text("a.test port 443 was refused"), "Refused: a.test port 443 was refused");
    }
}
