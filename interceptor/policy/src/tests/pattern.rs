//! Path patterns (attack R2): a truth table with one line for each claim of docs/policy.md.

use super::super::{CanonicalPath, PathPattern, PatternError};

/// `pattern path match`
const TRUTH: &str = "
/v1/models              /v1/models                  yes
/v1/models              /v1/models/gpt-4            yes
/v1/models              /v1/models/                 yes
/v1/models              /v1/models/a/b/c            yes
/v1/models              /v1/models-admin            no
/v1/models              /v1/modelsx                 no
/v1/models              /v1/model                   no
/v1/models              /v1                         no
/v1/models              /V1/models                  no
/v1/models              /v1/Models                  no
/v1/models              /x/v1/models                no
/v1/models              //v1/models                 no
/v1/models              /v1//models                 no
/v1/models              /v1/models%2Fgpt-4          no
/v1/models              /v1/models/a%2Fb            yes
/v1/models              /v1/models;x                no
/v1/models              /v1/models.                 no
/v1/chat                /v1/chatty                  no
/v1/                    /v1/                        yes
/v1/                    /v1/models                  yes
/v1/                    /v1/a/b                     yes
/v1/                    /v1                         no
/v1/                    /v10/                       no
/                       /                           yes
/                       /anything/at/all            yes
/                       //                          yes
/.                      /                           yes
/.                      /a                          no
/.                      /a/                         no
/.                      //                          no
/.                      //a                         no
/*                      /a                          yes
/*                      /a/b                        yes
/*                      /                           no
/repos/*                /repos/o/r/issues           yes
/repos/*                /repos/o                    yes
/repos/*                /repos/o/                   yes
/repos/*                /repos                      no
/repos/*                /repos/                     no
/repos/*                /repos//                    yes
/repos/*                /repositories/o             no
/repos/*                /repos/o%2Fr                yes
/repos/*/issues         /repos/o/issues             yes
/repos/*/issues         /repos/o/issues/1           no
/repos/*/issues         /repos/o/r/issues           no
/repos/*/issues         /repos//issues              no
/repos/*/issues         /repos/o%2Fr/issues         no
/repos/*/issues         /repos/o%252Fr/issues       yes
/repos/*/issues/*       /repos/o/issues/1/comments  yes
/repos/*/issues/*       /repos/o/issues/            no
/repos/*/*/issues       /repos/o/r/issues           yes
/repos/*/               /repos/o/                   yes
/repos/*/               /repos/o                    no
/repos/*/               /repos/o/x                  no
/v1/m*                  /v1/models                  yes
/v1/m*                  /v1/m                       yes
/v1/m*                  /v1/models/a                no
/v1/m*                  /v1/m%2Fa                   no
/v1/*s                  /v1/models                  yes
/v1/*s                  /v1/s                       yes
/v1/*s                  /v1/x                       no
/v1/m*l*s               /v1/models                  yes
/v1/m*l*s               /v1/mls                     yes
/v1/m*l*s               /v1/mod                     no
/v1/file-*              /v1/file-abc                yes
/v1/file-*              /v1/file-                   yes
/v1/file-*/content      /v1/file-abc/content        yes
/v1/file-*/content      /v1/file-abc/x/content      no
/**                     /                           yes
/**                     /a/b                        yes
/a/**                   /a/                         yes
/a/**                   /a/b/c                      yes
/a/**                   /a                          no
/a/**                   /ab                         no
/a/**/b                 /a/b                        yes
/a/**/b                 /a/x/b                      yes
/a/**/b                 /a/x/y/b                    yes
/a/**/b                 /a//b                       yes
/a/**/b                 /a/xb                       no
/a/**/b                 /a/b/c                      no
/a/**/b                 /a/x%2Fb                    no
/a/**/b                 /a/x%2Fy/b                  yes
/a/**/b/*               /a/x/b/c/d                  yes
/a/**/b/*               /a/x/b/                     no
/a/**/*/c               /a/b/c                      yes
/a/**/*/c               /a/c                        no
/a/**/*/c               /a//c                       no
/**/c                   /c                          yes
/**/c                   /a/b/c                      yes
/**/c                   /a/xc                       no
/**c                    /a/xc                       yes
/a**                    /a/b                        yes
/a**                    /a                          yes
/a**b                   /a/x/b                      yes
/a**b                   /ab                         yes
/a**b                   /a/x/c                      no
/a/x**                  /a/x/y/z                    yes
/a/x**                  /a/x%2Fy                    yes
/v?/models              /v1/models                  yes
/v?/models              /v/models                   no
/v?/models              /v10/models                 no
/v?/models              /v%2F/models                no
/v?/models              /v%C3%A9/models             yes
/v?/models              /v%3B/models                yes
/v1?models              /v1/models                  no
/?                      /a                          yes
/?                      /                           no
/?                      /ab                         no
/a%2Fb                  /a%2Fb                      yes
/a%2fb                  /a%2Fb/c                    yes
/a%2Fb                  /a/b                        no
/a%2F*/c                /a%2Fx/c                    yes
/a*20                   /a%20                       no
/a*%20                  /a%20                       yes
/a*                     /a%20b                      yes
/%61dmin                /admin                      yes
/%7Euser                /~user                      yes
/caf%c3%a9              /caf%C3%A9                  yes
/a;b                    /a;b                        yes
/a;b                    /a%3Bb                      no
/a+b                    /a+b                        yes
/a.b                    /a.b                        yes
/a.b                    /axb                        no
/*.json                 /x.json                     yes
/*.json                 /a/x.json                   no
/*.json                 /.json                      yes
";

#[test]
fn r2_patterns_match_as_the_specification_says() {
    let mut cases = 0;
    for line in TRUTH.lines().filter(|line| !line.is_empty()) {
        let [pattern, path, expected] =
            line.split_whitespace().collect::<Vec<_>>().try_into().unwrap();
        let pattern = PathPattern::parse(pattern).unwrap();
        let path = CanonicalPath::parse(path).unwrap();
        assert_eq!(pattern.matches(&path), expected == "yes", "{line}");
        cases += 1;
    }
    assert!(cases > 100);
}

/// The truth table again, with each rule among a thousand others of the same credential: the tree
/// agrees with the single pattern.
#[test]
fn r2_the_tree_of_rules_agrees_with_the_single_pattern() {
    let crowd: Vec<String> = (0..250)
        .flat_map(|n| {
            [
                format!("\"/crowd{n}\""),
                format!("\"/crowd/*/{n}\""),
                format!("\"/crowd/x{n}*y\""),
                format!("\"/crowd/**/z{n}\""),
            ]
        })
        .collect();
    let crowd = crowd.join(",");
    for line in TRUTH.lines().filter(|line| !line.is_empty()) {
        let [pattern, path, expected] =
            line.split_whitespace().collect::<Vec<_>>().try_into().unwrap();
        let document = format!(
            r#"{{"credentials_v2":{{"c":{{"key":"k","hosts":["good.test"],"endpoints":[
                {{"methods":["GET"],"paths":[{crowd}]}},
                {{"methods":["GET"],"paths":["{pattern}"]}}]}}}}}}"#
        );
        let policy = super::policy(&document);
        let seen = super::decide(&policy, "GET", &format!("https://good.test{path}"));
        let expected = if expected == "yes" { "allow" } else { "endpoint_denied" };
        assert_eq!(super::outcome(&seen), expected, "{line}");
    }
}

#[test]
fn r2_what_is_no_pattern_is_an_error() {
    use super::super::PathError;
    let table = [
        ("", PatternError::NotAbsolute),
        ("v1/models", PatternError::NotAbsolute),
        ("*", PatternError::NotAbsolute),
        ("**", PatternError::NotAbsolute),
        ("https://api.example.com/v1", PatternError::NotAbsolute),
        ("/a[b]", PatternError::Bracket),
        ("/a]", PatternError::Bracket),
        ("/{id}", PatternError::Bracket),
        ("/a}", PatternError::Bracket),
        ("/***", PatternError::Stars),
        ("/a/****/b", PatternError::Stars),
        ("/a?b=c", PatternError::Query),
        ("/a/../b", PatternError::Path(PathError::DotSegment)),
        ("/a/.", PatternError::Path(PathError::DotSegment)),
        ("/a/%2e%2e/b", PatternError::Path(PathError::DotSegment)),
        ("/a%zz", PatternError::Path(PathError::Escape)),
        ("/a%*2F", PatternError::Path(PathError::Escape)),
        ("/a%c3*%a9", PatternError::Path(PathError::Utf8)),
        ("/a b", PatternError::Path(PathError::Delimiter)),
        ("/a#b", PatternError::Path(PathError::Delimiter)),
        ("/a\\b", PatternError::Path(PathError::Backslash)),
        ("/caf\u{e9}", PatternError::Path(PathError::NotAscii)),
        ("/a\tb", PatternError::Path(PathError::Control)),
        ("/a%00", PatternError::Path(PathError::Control)),
    ];
    for (pattern, expected) in table {
        assert_eq!(PathPattern::parse(pattern), Err(expected), "{pattern:?}");
    }
    assert_eq!(PathPattern::parse(&format!("/{}", "a".repeat(8192))), Err(PatternError::TooLong));
}

#[test]
fn x6_a_glob_of_many_stars_takes_no_exponential_time() {
    let started = std::time::Instant::now();
    for pattern in [
        format!("/{}b", "a*".repeat(200)),
        format!("/{}b", "a**".repeat(200)),
        format!("/{}b", "**/".repeat(300)),
    ] {
        let pattern = PathPattern::parse(&pattern).unwrap();
        let path = CanonicalPath::parse(&format!("/{}", "a".repeat(20_000))).unwrap();
        assert!(!pattern.matches(&path));
    }
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}
