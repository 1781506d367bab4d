//! CPU time and memory of a process and everything that descends from it, from proc(5).

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A process and its descendants, except those that run an excluded program, and their descendants.
#[derive(Clone, Debug)]
pub struct Tree {
    root: u32,
    /// Device and inode.
    except: Option<(u64, u64)>,
}

/// The fields of proc_pid_stat(5) for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Its own ticks and those of the children that it has waited for, user and system.
    ticks: u64,
}

impl Tree {
    /// `root` and all its descendants.
    pub fn new(root: u32) -> Tree {
        Tree { root, except: None }
    }

    /// Excludes the processes that run this program.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn without(self, program: &Path) -> Result<Tree> {
        let file = fs::metadata(program).with_context(|| program.display().to_string())?;
        Ok(Tree { except: Some((file.dev(), file.ino())), ..self })
    }

    /// CPU seconds so far, user and system, including children that have ended.
    ///
    /// # Errors
    /// When the root is gone.
    pub fn cpu(&self) -> Result<f64> {
        let stats = self.stats()?;
        let hertz =
            nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("_SC_CLK_TCK")?;
        Ok(stats.values().map(|stat| stat.ticks).sum::<u64>() as f64 / hertz as f64)
    }

    /// Bytes of memory in use: the proportional set sizes, in which a page that several processes
    /// share counts once.
    ///
    /// # Errors
    /// When the root is gone.
    pub fn memory(&self) -> Result<u64> {
        let mut bytes = 0;
        for pid in self.stats()?.keys() {
            // A process may end meanwhile.
            let rollup =
                fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            bytes += proportional(&rollup).unwrap_or(0);
        }
        Ok(bytes)
    }

    /// [`Tree::memory`] once it is stable, or after `patience`.
    ///
    /// # Errors
    /// When the root is gone.
    pub fn settled_memory(&self, patience: Duration) -> Result<u64> {
        const PAUSE: Duration = Duration::from_millis(250);
        const REST: u64 = 64 << 10;
        let deadline = Instant::now() + patience;
        let mut last = self.memory()?;
        loop {
            std::thread::sleep(PAUSE);
            let now = self.memory()?;
            if now.abs_diff(last) < REST || Instant::now() > deadline {
                return Ok(now);
            }
            last = now;
        }
    }

    fn stats(&self) -> Result<HashMap<u32, Stat>> {
        let mut all = HashMap::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
                .ok()
                .and_then(|line| Stat::read(&line));
            all.extend(stat.map(|stat| (pid, stat)));
        }
        anyhow::ensure!(all.contains_key(&self.root), "process {} is gone", self.root);
        Ok(below(self.root, &all, |pid| self.is_excepted(pid)))
    }

    fn is_excepted(&self, pid: u32) -> bool {
        let Some(except) = self.except else { return false };
        // The link leads to the file itself, whatever the process's mount namespace.
        let program = fs::metadata(format!("/proc/{pid}/exe"));
        program.is_ok_and(|file| (file.dev(), file.ino()) == except)
    }
}

impl Stat {
    fn read(line: &str) -> Option<Stat> {
        // The name, in parentheses, may contain anything.
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = (14..=17).map(field).sum::<Option<u64>>()?;
        Some(Stat { parent: u32::try_from(field(4)?).ok()?, ticks })
    }
}

/// `root` and its descendants, without excluded processes and their descendants.
fn below(
    root: u32,
    all: &HashMap<u32, Stat>,
    excepted: impl Fn(u32) -> bool,
) -> HashMap<u32, Stat> {
    let mut found = HashMap::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        let Some(stat) = all.get(&pid) else { continue };
        if found.contains_key(&pid) || excepted(pid) {
            continue;
        }
        found.insert(pid, *stat);
        next.extend(all.iter().filter(|(_, stat)| stat.parent == pid).map(|(pid, _)| *pid));
    }
    found
}

fn proportional(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell that ends with the test.
    struct Shell(Child);

    impl Shell {
        /// Starts it, and waits for its first output.
        fn start(script: &str) -> Shell {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut shell = Shell(command.spawn().unwrap());
            let mut line = String::new();
            BufReader::new(shell.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n");
            shell
        }

        fn tree(&self) -> Tree {
            Tree::new(self.0.id())
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            // Close its input first, in case it waits for that.
            drop(self.0.stdin.take());
            let _ = self.0.wait();
        }
    }

    const WORK: &str = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";

    #[test]
    fn a_line_of_proc_is_read_whatever_the_process_is_called() {
        let line = "7 (a ) b) S 42 7 7 0 -1 4194560 100 0 0 0 5 6 70 800 20 0 1 0 9 10 11";
        assert_eq!(Stat::read(line), Some(Stat { parent: 42, ticks: 881 }));
        assert_eq!(Stat::read("7 (sh) S 42"), None);
    }

    #[test]
    fn a_tree_is_all_descendants_except_excluded_ones() {
        let stat = |parent| Stat { parent, ticks: 1 };
        let all: HashMap<u32, Stat> = [(1, 0), (2, 1), (3, 2), (4, 3), (5, 2), (6, 1)]
            .map(|(pid, parent)| (pid, stat(parent)))
            .into();
        let mut found: Vec<u32> = below(2, &all, |pid| pid == 3).into_keys().collect();
        found.sort_unstable();
        assert_eq!(found, [2, 5]);
    }

    #[test]
    fn the_cpu_of_ended_children_counts() {
        let idle = Shell::start("echo ready; read _");
        assert!(idle.tree().cpu().unwrap() < 0.1);
        let ended = Shell::start(&format!("sh -c '{WORK}'; echo ready; read _"));
        let alive = Shell::start(&format!("sh -c '{WORK}; echo ready; read _'; true"));
        for shell in [&ended, &alive] {
            assert!(shell.tree().cpu().unwrap() > 0.02, "{:?}", shell.tree().cpu());
        }
    }

    #[test]
    fn an_excluded_program_is_not_counted() {
        let directory = tempfile::tempdir().unwrap();
        let other = directory.path().join("other-sh");
        fs::copy(fs::canonicalize("/bin/sh").unwrap(), &other).unwrap();
        let script = format!("{} -c '{WORK}; echo ready; read _'; true", other.display());
        let shell = Shell::start(&script);
        assert!(shell.tree().cpu().unwrap() > 0.02);
        assert!(shell.tree().without(&other).unwrap().cpu().unwrap() < 0.02);
    }

    #[test]
    fn memory_is_the_sum_of_the_proportional_sizes() {
        let rollup = "0-1 ---p 0 00:00 0  [rollup]\nRss:  900 kB\nPss:  300 kB\nPss_Anon: 1 kB\n";
        assert_eq!(proportional(rollup), Some(300 << 10));
        let one = Shell::start("echo ready; read _");
        let two = Shell::start("sh -c 'echo ready; read _'; true");
        assert!(one.tree().memory().unwrap() > 64 << 10);
        assert!(two.tree().memory().unwrap() > 128 << 10);
    }

    #[test]
    fn a_tree_without_its_root_is_an_error() {
        let mut child = Command::new("true").spawn().unwrap();
        let tree = Tree::new(child.id());
        child.wait().unwrap();
        assert!(tree.cpu().is_err() && tree.memory().is_err());
    }
}
