//! Which address stands for which name, and which place is reused first.

use std::collections::HashSet;

use interceptor_policy::is_synthetic;

use super::*;

fn name(text: &str) -> HostName {
    match Host::parse(text).unwrap() {
        Host::Name(name) => name,
        Host::Ip(address) => panic!("{address} is no name"),
    }
}

fn any(_: &HostName) -> bool {
    true
}

/// The policy of these tests: what ends in `.denied` is denied.
fn but_denied(name: &HostName) -> bool {
    !name.as_str().ends_with(".denied")
}

#[test]
fn a_name_keeps_its_addresses_and_they_lead_back_to_it() {
    let names = Names::new();
    let (four, six) = names.addresses(&name("api.example.com"), any).unwrap();
    assert_eq!(four, Ipv4Addr::new(198, 18, 1, 0));
    assert_eq!(six, "2001:2::100".parse::<Ipv6Addr>().unwrap());
    let other = names.addresses(&name("other.example.com"), any).unwrap();
    assert_eq!(names.addresses(&name("API.example.com."), any).unwrap(), (four, six));
    for address in [IpAddr::V4(four), IpAddr::V6(six), IpAddr::V6(four.to_ipv6_mapped())] {
        assert_eq!(names.name_of(address).unwrap().as_str(), "api.example.com", "{address}");
    }
    assert_eq!(names.name_of(other.0.into()).unwrap().as_str(), "other.example.com");
}

#[test]
fn a_restored_table_gives_out_the_same_addresses_and_goes_on_where_it_ended() {
    let names = Names::new();
    let start = Instant::now();
    let known: Vec<_> = ["a.example", "b.example", "c.example"]
        .into_iter()
        .zip([20, 0, 10])
        .map(|(text, seconds)| {
            (text, names.addresses_at(&name(text), any, start + Duration::from_secs(seconds)))
        })
        .collect();
    let restored = Names::restore(names.snapshot()).unwrap();
    for (text, addresses) in known {
        assert_eq!(restored.addresses(&name(text), any), addresses, "{text}");
    }
    assert_eq!(
        restored.addresses(&name("d.example"), any),
        names.addresses(&name("d.example"), any)
    );
    let row = |text: &str| (text.to_owned(), Duration::ZERO);
    assert!(Names::restore(vec![row("a.example"), row("a.example")]).is_none());
    assert!(Names::restore(vec![row("127.0.0.1")]).is_none());
    assert!(Names::restore(vec![row("a.example"); CAPACITY as usize + 1]).is_none());
}

#[test]
fn the_product_s_own_addresses_and_those_not_given_out_lead_nowhere() {
    let names = Names::new();
    names.addresses(&name("api.example.com"), any).unwrap();
    for text in [
        "198.18.0.0",
        "198.18.0.255",
        "198.18.1.1",
        "198.19.255.0",
        "198.19.255.254",
        "198.19.255.255",
        "198.17.255.255",
        "198.20.0.0",
        "0.0.0.0",
        "255.255.255.255",
        "2001:2::",
        "2001:2::ff",
        "2001:2::101",
        "2001:2:0:1::100",
        "2001:2:1::100",
        "2001:1:ffff::100",
        "::",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ] {
        assert_eq!(
            names.name_of(text.parse().unwrap()).map(|name| name.to_string()),
            None,
            "{text}"
        );
    }
}

#[test]
fn the_whole_of_both_ranges_is_synthetic_and_nothing_else_is() {
    for (text, synthetic) in [
        ("198.18.0.0", true),
        ("198.19.255.255", true),
        ("::ffff:198.18.1.0", true),
        ("2001:2::", true),
        ("2001:2:0:ffff:ffff:ffff:ffff:ffff", true),
        ("198.17.255.255", false),
        ("198.20.0.0", false),
        ("2001:2:1::", false),
        ("2001:1:ffff:ffff::", false),
    ] {
        assert_eq!(is_synthetic(text.parse().unwrap()), synthetic, "{text}");
    }
}

#[test]
fn every_place_has_addresses_of_its_own_within_the_ranges() {
    let mut seen = HashSet::new();
    for slot in 0..SLOTS {
        let (four, six) = addresses_of(slot);
        assert!(seen.insert(four) && is_synthetic(four.into()) && is_synthetic(six.into()));
        assert_eq!(slot_of(four.into()), Some(slot));
        assert_eq!(slot_of(six.into()), Some(slot));
    }
    assert_eq!(addresses_of(SLOTS - 1).0, Ipv4Addr::new(198, 19, 254, 255));
}

#[test]
fn x4_a_full_table_refuses_new_names_until_old_ones_are_long_unused() {
    let names = Names::with_capacity(3);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let first = names.addresses_at(&name("a.example"), any, at(0)).unwrap();
    let second = names.addresses_at(&name("b.example"), any, at(1)).unwrap();
    names.addresses_at(&name("c.example"), any, at(2)).unwrap();
    assert_eq!(names.addresses_at(&name("d.example"), any, at(3)), None);
    // Those that have a place keep it; a connection to an address counts as use.
    assert_eq!(names.addresses_at(&name("b.example"), any, at(4)), Some(second));
    assert_eq!(names.name_of_at(first.0.into(), at(3000)).unwrap().as_str(), "a.example");
    // c has been unused for an hour: its place, and only its, is given away.
    let reused = names.addresses_at(&name("d.example"), any, at(3603)).unwrap();
    assert_ne!(reused, first);
    assert_ne!(reused, second);
    assert_eq!(names.name_of_at(reused.0.into(), at(3603)).unwrap().as_str(), "d.example");
    assert_eq!(names.addresses_at(&name("a.example"), any, at(3603)), Some(first));
    assert_eq!(
        names.addresses_at(&name("c.example"), any, at(3603)),
        None,
        "b was used less than an hour ago"
    );
}

#[test]
fn x4_denied_names_take_the_places_of_denied_names_and_never_those_of_live_permitted_ones() {
    let names = Names::with_capacity(4);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let ask = |text: &str, seconds| names.addresses_at(&name(text), but_denied, at(seconds));
    let first = ask("a.example", 0).unwrap();
    for number in 0..100 {
        assert!(ask(&format!("n{number}.denied"), 1 + number).is_some(), "{number}");
    }
    assert_eq!(ask("a.example", 200), Some(first));
    // Permitted names take the places of denied ones, whatever their age.
    let second = ask("b.example", 201).unwrap();
    let third = ask("c.example", 201).unwrap();
    let fourth = ask("d.example", 201).unwrap();
    let all: HashSet<_> = [first, second, third, fourth].into();
    assert_eq!(all.len(), 4);
    // Now there is none left to take, for either kind.
    assert_eq!(ask("e.example", 202), None);
    assert_eq!(ask("x.denied", 202), None);
    for (text, kept) in [("a", first), ("b", second), ("c", third), ("d", fourth)] {
        assert_eq!(ask(&format!("{text}.example"), 203), Some(kept));
        assert_eq!(
            names.name_of_at(kept.0.into(), at(203)).unwrap().as_str(),
            format!("{text}.example")
        );
    }
    assert!(ask("x.denied", 203 + 3600).is_some(), "a permitted name that is long unused goes");
}

#[test]
fn what_a_name_is_follows_the_policy_in_force() {
    let names = Names::with_capacity(2);
    let kept = names.addresses(&name("a.denied"), but_denied).unwrap();
    names.addresses(&name("b.denied"), but_denied).unwrap();
    // The policy permits everything from here on: neither may be evicted any more.
    assert_eq!(names.addresses(&name("c.example"), any), None);
    assert_eq!(names.addresses(&name("a.denied"), any), Some(kept));
    // And it denies again what it denied before.
    assert_eq!(names.addresses(&name("a.denied"), but_denied), Some(kept));
    assert_eq!(names.addresses(&name("c.example"), but_denied), Some(kept));
}

#[test]
fn after_a_restore_permitted_names_are_still_safe_from_denied_ones() {
    let names = Names::with_capacity(CAPACITY);
    let kept = names.addresses(&name("a.example"), but_denied).unwrap();
    for number in 1..CAPACITY {
        names.addresses(&name(&format!("n{number}.denied")), but_denied).unwrap();
    }
    let restored = Names::restore(names.snapshot()).unwrap();
    for number in 0..10 {
        assert!(restored.addresses(&name(&format!("m{number}.denied")), but_denied).is_some());
    }
    assert_eq!(restored.addresses(&name("a.example"), but_denied), Some(kept));
    assert_eq!(restored.name_of(kept.0.into()).unwrap().as_str(), "a.example");
}
