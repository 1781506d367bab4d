//! How a key is put into a request, as written in a document: `{"header": …, "format": …}`,
//! `{"basic": …}` or `{"query": …}`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::credential::Form;

/// `inject`: exactly one of `header` (with `format`), `basic` and `query`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InjectDocument {
    /// The header that carries the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The header's value, with `{key}` where the key stands; `{key}` alone where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// HTTP Basic authentication: the key is the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<BasicDocument>,
    /// The query parameter that carries the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
}

/// `basic` of an `inject`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicDocument {
    /// The user name; empty for the client's own, `{key}` where the key is the user name and the
    /// password is empty.
    pub username: String,
}

/// Headers that frame, route or steer the connection: none may carry a key.
const FORBIDDEN: [&str; 16] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "http2-settings",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "http-method-override",
    "method-override",
];

impl InjectDocument {
    /// Parses the form.
    ///
    /// # Errors
    /// The invalid field (empty for the whole object), and how to fix it.
    pub fn form(&self) -> Result<Form, (&'static str, String)> {
        match self {
            InjectDocument { header: Some(name), format, basic: None, query: None } => {
                header(name, format.as_deref().unwrap_or("{key}"))
            }
            InjectDocument { header: None, format: None, basic: Some(basic), query: None } => {
                let username = &basic.username;
                if username.contains(Form::KEY) && username != Form::KEY {
                    return Err((
                        "basic/username",
                        "the user name is `{key}` alone, or a name without it".to_owned(),
                    ));
                }
                if username.contains(':')
                    || username.chars().any(|character| character.is_control())
                {
                    return Err((
                        "basic/username",
                        "a user name has no colon and no control character (RFC 7617)".to_owned(),
                    ));
                }
                Ok(Form::Basic { username: username.clone() })
            }
            InjectDocument { header: None, format: None, basic: None, query: Some(name) } => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
                if name.is_empty() || !name.bytes().all(plain) {
                    return Err((
                        "query",
                        "a query parameter's name has letters, digits, `-`, `.`, `_` and `~`"
                            .to_owned(),
                    ));
                }
                Ok(Form::Query { name: name.clone() })
            }
            _ => Err((
                "",
                "give exactly one of `header` (with or without `format`), `basic` and `query`"
                    .to_owned(),
            )),
        }
    }
}

fn header(name: &str, format: &str) -> Result<Form, (&'static str, String)> {
    let name = name.to_ascii_lowercase();
    if !is_token(&name) {
        return Err((
            "header",
            "this is not the name of an HTTP header (RFC 9110 section 5.1)".to_owned(),
        ));
    }
    if FORBIDDEN.contains(&name.as_str()) || name.starts_with("sec-websocket-") {
        return Err((
            "header",
            "this header steers the connection and can carry no key".to_owned(),
        ));
    }
    let Some((prefix, suffix)) = format.split_once("{key}") else {
        return Err((
            "format",
            "the format has `{key}` where the key stands, e.g. `Bearer {key}`".to_owned(),
        ));
    };
    let visible = |text: &str| {
        text.bytes().all(|byte| matches!(byte, 0x20..0x7f) && byte != b'{' && byte != b'}')
    };
    if !visible(prefix) || !visible(suffix) || prefix.starts_with(' ') || suffix.ends_with(' ') {
        return Err((
            "format",
            "the format has `{key}` once, beside it visible ASCII, and no space at its ends"
                .to_owned(),
        ));
    }
    Ok(Form::Header { name, prefix: prefix.to_owned(), suffix: suffix.to_owned() })
}

/// Whether a text is a token of RFC 9110 section 5.6.2: a method or a field name.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
