//! Base URLs (`policy::base_url` explains them) at both ends of a request: its target is rewritten
//! before it is judged, and URLs in its response are readdressed so that the client follows them
//! through the proxy.

use http::header::{CONTENT_LOCATION, HeaderName, LINK, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use interceptor_policy::{BaseUrl, Deny, Policy, Reason};

use super::refuse::deny::refusal;

/// The target to ask the origin for: the rest of the path, with the query as sent.
///
/// # Errors
/// The refusal, if the rest of the path is not a valid path.
pub(crate) fn target(based: &BaseUrl, sent: &Uri) -> Result<Uri, Deny> {
    let target = match sent.query() {
        None => PathAndQuery::try_from(based.path.as_str()),
        Some(query) => PathAndQuery::try_from(format!("{}?{query}", based.path)),
    };
    target.map(Uri::from).map_err(|_| {
        refusal(
            Reason::PathAmbiguous,
            "the rest of the path, after the service, is not a valid path".to_owned(),
        )
    })
}

/// Readdresses URLs in the response headers that lead to the service's own hosts: redirects and
/// pagination links. Other URLs, and those in bodies, stay as they are.
pub(crate) fn readdress(headers: &mut HeaderMap, policy: &Policy, based: &BaseUrl) {
    change(headers, &LOCATION, |url| policy.as_base_url(based, url));
    change(headers, &CONTENT_LOCATION, |url| policy.as_base_url(based, url));
    change(headers, &LINK, |value| links(value, |url| policy.as_base_url(based, url)));
}

fn change(headers: &mut HeaderMap, name: &HeaderName, new: impl Fn(&str) -> Option<String>) {
    if !headers.contains_key(name) {
        return;
    }
    let values: Vec<HeaderValue> = headers.get_all(name).iter().cloned().collect();
    headers.remove(name);
    for value in values {
        let changed =
            value.to_str().ok().and_then(&new).and_then(|text| HeaderValue::try_from(text).ok());
        headers.append(name.clone(), changed.unwrap_or(value));
    }
}

/// The targets of a `Link` field (RFC 8288 section 3) are in angle brackets.
fn links(value: &str, new: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut changed = String::new();
    let mut rest = value;
    while let Some((before, behind)) = rest.split_once('<') {
        let Some((url, after)) = behind.split_once('>') else { break };
        changed.push_str(before);
        changed.push_str(&format!("<{}>", new(url).as_deref().unwrap_or(url)));
        rest = after;
    }
    changed.push_str(rest);
    (changed != value).then_some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_of_links_are_changed_and_nothing_else() {
        let double = |url: &str| (url != "c").then(|| format!("{url}{url}"));
        assert_eq!(
            links("<a>; rel=\"next\", <b>; rel=\"last\", <c>", double).as_deref(),
            Some("<aa>; rel=\"next\", <bb>; rel=\"last\", <c>")
        );
        assert_eq!(links("<c>; rel=next", double), None);
        assert_eq!(links("<a", double), None);
        assert_eq!(links("", double), None);
    }
}
