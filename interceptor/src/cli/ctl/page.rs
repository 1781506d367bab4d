//! `interceptor ctl page`: an address of the page that lets one browser in.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::Value;

use super::print;
use super::to::DaemonClient;
use crate::cli::daemon::client::ApiRequest;
use crate::cli::person::Person;
use crate::entrance::WAY_IN;
use crate::sandbox::launch;

/// How long a browser may take to open the address.
const OPENED_WITHIN: Duration = Duration::from_secs(30);
/// How often it is asked whether it has.
const LOOK: Duration = Duration::from_millis(200);
/// The program that opens files with what a person uses for them.
const OPENER: &str = "xdg-open";

/// The arguments of `interceptor ctl page`.
#[derive(Debug, clap::Args)]
pub(super) struct PageCommand {
    /// The page of this run [default: the only page there is].
    #[arg(value_name = "SANDBOX")]
    pub(super) sandbox: Option<String>,
    /// Open it in a browser.
    #[arg(long)]
    pub(super) open: bool,
}

/// The page of one.
pub(super) fn one(to: &DaemonClient, open: bool) -> anyhow::Result<()> {
    let invitation = invitation(to)?;
    match open {
        true => open_it(to, url(&invitation)?),
        false => {
            let url = url(&invitation)?;
            to.print(&invitation, |out, _| writeln!(out, "{url}"))
        }
    }
}

/// The pages of all who have one.
pub(super) fn any(all: &[DaemonClient], open: bool) -> anyhow::Result<()> {
    let mut with: Vec<&DaemonClient> = Vec::new();
    let mut last = None;
    for (to, found) in all.iter().zip(DaemonClient::get_of_all(all, "/v1/page")) {
        match found {
            Ok(_) => with.push(to),
            Err(error) => last = Some(error),
        }
    }
    match (with.as_slice(), last) {
        ([only], _) => one(only, open),
        ([], Some(error)) => Err(error),
        (_, _) if open => bail!("there are several pages: name the sandbox whose page to open"),
        (several, _) => {
            for to in several {
                let name = to.whom.run.as_ref().map_or("the daemon", |run| run.id.as_str());
                let invitation = invitation(to)?;
                let url = url(&invitation)?;
                to.print(&invitation, |out, _| writeln!(out, "{name}: {url}"))?;
            }
            Ok(())
        }
    }
}

fn invitation(to: &DaemonClient) -> anyhow::Result<Value> {
    to.value(ApiRequest { method: Method::POST, path: "/v1/page".to_owned(), body: None })
}

/// The address, if it is one of a page on this host: it is put into a document and opened.
fn url(invitation: &Value) -> anyhow::Result<String> {
    let url = print::text(&invitation["url"]);
    if !is_way_in(&url) {
        bail!("what answers tells no address of a page on this host");
    }
    Ok(url)
}

fn is_way_in(url: &str) -> bool {
    let way = url.strip_prefix("http://").and_then(|rest| rest.split_once(WAY_IN));
    let Some((address, query)) = way else { return false };
    let is_here = address.parse().is_ok_and(|address: SocketAddr| address.ip().is_loopback());
    let token = query.strip_prefix("?token=").unwrap_or_default().as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
    is_here && !token.is_empty() && token.iter().all(is_plain)
}

/// Opens an address. No argument of a program has it, since other users can read those; a file of
/// the person's leads the browser on.
fn open_it(to: &DaemonClient, url: String) -> anyhow::Result<()> {
    let person = Person::invoking()?;
    let file = Leading::to(&url, &person).context("cannot make a file that leads to the page")?;
    let waiting = unused(to)?;
    let opening = opener(&person, &file.0).spawn();
    let mut opening = opening.with_context(|| format!("cannot start {OPENER}; open {url}"))?;
    let until = Instant::now() + OPENED_WITHIN;
    while unused(to)? >= waiting {
        if has_failed(&mut opening)? || Instant::now() > until {
            bail!("no browser was opened; open {url}");
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn has_failed(opening: &mut Child) -> io::Result<bool> {
    Ok(opening.try_wait()?.is_some_and(|status| !status.success()))
}

fn unused(to: &DaemonClient) -> anyhow::Result<u64> {
    Ok(to.get("/v1/page")?["unused"].as_u64().unwrap_or_default())
}

/// The program that opens a file, run by the person and not by root.
fn opener(person: &Person, file: &Path) -> Command {
    let mut command = Command::new(OPENER);
    command.arg(file).env_clear().envs(person.environment());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let identity = &person.identity;
    if nix::unistd::geteuid().is_root() && !identity.is_root() {
        // Without supplementary groups.
        command.uid(identity.uid).gid(identity.gid);
    }
    command
}

/// A document of the person's alone that leads to an address, while it is held.
struct Leading(PathBuf);

impl Leading {
    fn to(url: &str, person: &Person) -> io::Result<Leading> {
        let runtime = person.variable("XDG_RUNTIME_DIR").map(PathBuf::from);
        let directory = runtime.filter(|path| path.is_dir()).unwrap_or_else(std::env::temp_dir);
        let name = launch::random_id().map_err(io::Error::other)?;
        let path = directory.join(format!("interceptor-page-{name}.html"));
        let text = format!(
            "<!doctype html><meta charset=utf-8><title>interceptor</title>\
             <meta http-equiv=refresh content=\"0;url={url}\">\n"
        );
        person.act(|| {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(text.as_bytes())
        })?;
        Ok(Leading(path))
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_of_a_page_on_this_host_is_printed_or_opened() {
        for good in ["http://127.0.0.1:7878/enter?token=aZ09_-", "http://[::1]:80/enter?token=x"] {
            assert_eq!(url(&serde_json::json!({ "url": good })).unwrap(), good);
        }
        for wrong in [
            "",
            "https://127.0.0.1:7878/enter?token=x",
            "http://192.0.2.1:7878/enter?token=x",
            "http://127.0.0.1/enter?token=x",
            "http://localhost:7878/enter?token=x",
            "http://127.0.0.1:1@evil.test:7878/enter?token=x",
            "http://127.0.0.1:7878/enter?token=",
            "http://127.0.0.1:7878/enter",
            "http://127.0.0.1:7878/other?token=x",
            "http://127.0.0.1:7878/enter?token=x&y",
            "http://127.0.0.1:7878/enter?token=x\"><script>",
            "http://127.0.0.1:7878/enter?token=x;url=http://evil.test",
            "javascript:alert(1)",
        ] {
            url(&serde_json::json!({ "url": wrong })).unwrap_err();
        }
        url(&Value::Null).unwrap_err();
    }
}
