//! The two edges of a request under a base URL (`policy::base_url` says what that is): its target,
//! rewritten before it is judged, and the URLs in its answer, readdressed so that the client stays
//! where it can go on.

use http::header::{CONTENT_LOCATION, HeaderName, LINK, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use interceptor_policy::{BaseUrl, Deny, Policy, Reason};

use super::refuse::deny::refusal;

/// The target that the origin would have been asked for: the rest of the path, and the query as it
/// was sent.
///
/// # Errors
/// The refusal of a rest that is none.
pub(crate) fn target(based: &BaseUrl, sent: &Uri) -> Result<Uri, Deny> {
    let target = match sent.query() {
        None => PathAndQuery::try_from(based.path.as_str()),
        Some(query) => PathAndQuery::try_from(format!("{}?{query}", based.path)),
    };
    target.map(Uri::from).map_err(|_| {
        refusal(
            Reason::PathAmbiguous,
            "what follows the service in the path is no path of its own".to_owned(),
        )
    })
}

/// Readdresses the URLs of an answer that lead to the service's own hosts: redirects, and the pages
/// of a list. Others, and those in bodies, stay as they are.
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

/// The targets of a `link` field (RFC 8288 section 3) are what stands between angle brackets.
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
