//! A host, an authority and a network rule: no panic, and the printed form of a parsed value parses
//! to the same value.
#![no_main]

use interceptor_policy::{Authority, Host, NetworkRule, Target};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(host) = Host::parse(text) {
        let printed = host.to_string();
        assert!(
            printed.is_ascii()
                && !printed.contains(|character: char| character.is_ascii_uppercase())
        );
        assert_eq!(Host::parse(&printed).as_ref(), Ok(&host));
        // Rules and requests share one form.
        assert_eq!(Host::parse_rule(text), Ok(host));
    }
    if let Ok(authority) = Authority::parse(text) {
        assert!(!text.contains('@') && authority.port != Some(0));
    }
    if let Ok((rule, _)) = NetworkRule::parse(text) {
        assert!(rule.port != Some(0));
        if let Target::Name(name) | Target::Below(name) = &rule.target {
            assert!(matches!(Host::parse(name.as_str()), Ok(Host::Name(_))));
        }
    }
});
