//! `interceptor install daemon`: sets a host up for `run` without sudo, and undoes it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use nix::unistd::Group;

use super::place;

/// The group whose members may use the daemon.
const GROUP: &str = "interceptor";
/// The daemon's configuration.
const CONFIG: &str = "/etc/interceptor/config.json";
/// Where systemd looks for units of the administrator's.
const UNIT: &str = "/etc/systemd/system/interceptor.service";
/// Exists where systemd runs (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// The directories, with their modes.
const DIRECTORIES: [(&str, u32); 3] = [
    ("/etc/interceptor", 0o755),
    ("/etc/interceptor/policies", 0o700),
    ("/var/lib/interceptor", 0o700),
];

/// The configuration of a host on which nobody has said otherwise.
const USUAL: &str = r#"{
  "group": "interceptor",
  "access": [ { "group": "interceptor", "policies": [], "own_policies": true } ]
}
"#;

/// The unit; `PROGRAM` stands for the program.
const TEMPLATE: &str = include_str!("../../../data/interceptor.service");

/// What starts the daemon of this host, if `install daemon` has set it up.
pub(in crate::cli) fn start() -> Option<&'static str> {
    let commands = [
        (UNIT, "systemctl start interceptor"),
        (CONFIG, "interceptor serve --config /etc/interceptor/config.json"),
    ];
    let there = commands.into_iter().find(|(file, _)| Path::new(file).exists());
    there.map(|(_, command)| command)
}

/// Does it, or shows what it would do.
///
/// # Errors
/// If a step fails.
pub(super) fn install(output: &mut impl Write, dry_run: bool) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    if !dry_run {
        place::check(&program, "the daemon's program")?;
    }
    let steps = Steps { dry_run };
    match Group::from_name(GROUP)? {
        Some(_) => writeln!(output, "the group {GROUP} is there")?,
        None => {
            steps.say(output, &format!("make the group {GROUP}"))?;
            steps.run(&["groupadd", "--system", GROUP])?;
        }
    }
    for (directory, mode) in DIRECTORIES {
        if Path::new(directory).is_dir() {
            writeln!(output, "the directory {directory} is there")?;
            continue;
        }
        steps.say(output, &format!("make the directory {directory}, mode {mode:04o}"))?;
        if !dry_run {
            let made = DirBuilder::new().recursive(true).mode(mode).create(directory);
            made.with_context(|| format!("cannot make {directory}"))?;
        }
    }
    if Path::new(CONFIG).exists() {
        writeln!(output, "the configuration {CONFIG} is there")?;
    } else {
        steps.write(output, CONFIG, USUAL, 0o600)?;
    }
    let systemd = Path::new(SYSTEMD).is_dir();
    if systemd {
        let unit = TEMPLATE.replace("PROGRAM", &program.display().to_string());
        steps.write(output, UNIT, &unit, 0o644)?;
        steps.say(output, "start the unit interceptor, now and at each boot")?;
        steps.run(&["systemctl", "daemon-reload"])?;
        steps.run(&["systemctl", "enable", "--quiet", "interceptor"])?;
        steps.run(&["systemctl", "restart", "interceptor"])?;
    }
    next(output, &program, systemd)?;
    Ok(ExitCode::SUCCESS)
}

/// Says what to type next.
fn next(output: &mut impl Write, program: &Path, systemd: bool) -> anyhow::Result<()> {
    let user = std::env::var("SUDO_USER").unwrap_or_else(|_| "USER".to_owned());
    writeln!(output, "\nNext, type")?;
    if !systemd {
        writeln!(
            output,
            "  sudo {} serve --config {CONFIG}   (systemd does not run here; the daemon runs until \
             ^C)",
            program.display()
        )?;
    }
    writeln!(output, "  sudo usermod -aG {GROUP} {user}   (and log in again)")?;
    writeln!(output, "  interceptor run --profile unrestricted -- bash")?;
    writeln!(
        output,
        "\n{CONFIG} says who may use which policy; `sudo interceptor install daemon \
         --uninstall` undoes this."
    )?;
    Ok(())
}

/// Undoes it. What others have written stays.
///
/// # Errors
/// If a step fails.
pub(super) fn uninstall(output: &mut impl Write) -> anyhow::Result<ExitCode> {
    let steps = Steps { dry_run: false };
    if Path::new(UNIT).exists() {
        if Path::new(SYSTEMD).is_dir() {
            steps.say(output, "stop the unit interceptor")?;
            steps.run(&["systemctl", "disable", "--quiet", "--now", "interceptor"])?;
        }
        fs::remove_file(UNIT).with_context(|| format!("cannot remove {UNIT}"))?;
        writeln!(output, "removed {UNIT}")?;
        if Path::new(SYSTEMD).is_dir() {
            steps.run(&["systemctl", "daemon-reload"])?;
        }
    }
    if fs::read_to_string(CONFIG).is_ok_and(|text| text == USUAL) {
        fs::remove_file(CONFIG).with_context(|| format!("cannot remove {CONFIG}"))?;
        writeln!(output, "removed {CONFIG}")?;
    }
    for (directory, _) in DIRECTORIES.iter().rev() {
        match fs::remove_dir(directory) {
            Ok(()) => writeln!(output, "removed {directory}")?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                writeln!(output, "{directory} stays: it is not empty")?;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot remove {directory}"));
            }
        }
    }
    if Group::from_name(GROUP)?.is_some() {
        steps.run(&["groupdel", GROUP])?;
        writeln!(output, "removed the group {GROUP}")?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Steps {
    dry_run: bool,
}

impl Steps {
    fn say(&self, output: &mut impl Write, what: &str) -> std::io::Result<()> {
        let would = if self.dry_run { "would " } else { "" };
        writeln!(output, "{would}{what}")
    }

    fn write(
        &self,
        output: &mut impl Write,
        path: &str,
        content: &str,
        mode: u32,
    ) -> anyhow::Result<()> {
        self.say(output, &format!("write {path}:\n{content}"))?;
        if self.dry_run {
            return Ok(());
        }
        // Whole or not at all.
        let partial = format!("{path}.{}", std::process::id());
        let written = (|| {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(mode).open(&partial)?;
            file.write_all(content.as_bytes())?;
            fs::rename(&partial, path)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written.with_context(|| format!("cannot write {path}"))
    }

    fn run(&self, words: &[&str]) -> anyhow::Result<()> {
        let [program, arguments @ ..] = words else { return Ok(()) };
        if self.dry_run {
            return Ok(());
        }
        let said = || words.join(" ");
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
        let output = output.with_context(said)?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("`{}` failed: {}", said(), why.trim());
        }
        Ok(())
    }
}
