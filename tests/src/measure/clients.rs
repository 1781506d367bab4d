//! Reads the output of wrk and h2load.

use anyhow::{Context, Result, ensure};

/// How many requests wrk completed; an error if any failed.
///
/// # Errors
/// When the output does not say, or something failed.
pub fn completed_by_wrk(output: &str) -> Result<f64> {
    for bad in ["Non-2xx", "Socket errors"] {
        ensure!(!output.contains(bad), "{bad}");
    }
    let count = output.lines().find_map(|line| line.trim().split_once(" requests in "));
    Ok(count.context("no count")?.0.parse()?)
}

/// How many requests h2load completed; an error if any failed.
///
/// # Errors
/// When the output does not say, or something failed.
pub fn completed_by_h2load(output: &str) -> Result<f64> {
    let line =
        output.lines().find_map(|line| line.strip_prefix("requests: ")).context("no count")?;
    let number = |word: &str| {
        let part = line.split(", ").find_map(|part| part.strip_suffix(word));
        anyhow::Ok(part.context("no number")?.trim().parse::<f64>()?)
    };
    ensure!(number("failed")? == 0.0 && number("errored")? == 0.0, "some failed");
    number("succeeded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_tells_how_many_requests_it_completed() {
        let good = "Running 2s test\n  1 threads and 32 connections\n  24690 requests in 2.00s, \
                    30.10MB read\nRequests/sec:  12345.00\n";
        assert_eq!(completed_by_wrk(good).unwrap(), 24690.0);
        assert!(completed_by_wrk(&format!("{good}  Non-2xx or 3xx responses: 7\n")).is_err());
        assert!(completed_by_wrk("unable to connect").is_err());
    }

    #[test]
    fn h2load_tells_how_many_requests_it_completed() {
        let line = |failed: u32| {
            format!(
                "requests: 9 total, 9 started, 9 done, 8 succeeded, {failed} failed, 0 errored, 0 \
                 timeout"
            )
        };
        assert_eq!(completed_by_h2load(&line(0)).unwrap(), 8.0);
        assert!(completed_by_h2load(&line(1)).is_err());
        assert!(completed_by_h2load("").is_err());
    }
}
