//! Lints of `upstream`.

use super::Linter;

/// Warns about the way out.
pub(super) fn lint(linter: &mut Linter<'_>) {
    let document = linter.document;
    let Some(upstream) = &document.upstream else { return };
    if upstream.proxy.is_none() {
        if upstream.proxy_auth.is_some() {
            linter.warn(
                "/upstream/proxy_auth",
                "without `proxy` this is only used beside the option --upstream-proxy",
            );
        }
        if upstream.proxy_resolves {
            linter.warn(
                "/upstream/proxy_resolves",
                "without `proxy` this is only used beside the option --upstream-proxy",
            );
        }
        return;
    }
    if upstream.proxy_resolves {
        linter.warn(
            "/upstream/proxy_resolves",
            "the proxy resolves names, so rules for addresses do not hold for what it reaches by \
             name, and special-purpose addresses are not refused there: let the proxy itself \
             refuse them",
        );
    }
}
