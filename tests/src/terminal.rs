//! A program at a terminal of its own: a pseudoterminal, and what a terminal emulator makes of what
//! it writes.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The time limit for what is to appear: a bound against hanging.
const PATIENCE: Duration = Duration::from_secs(40);
/// The most bytes that are kept of what was written.
const KEPT: usize = 32 << 20;

/// A program at a terminal.
pub struct Terminal {
    child: Child,
    master: File,
    slave: OwnedFd,
    shown: Arc<Shown>,
}

#[derive(Default)]
struct Shown {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    parser: vt100::Parser,
    written: Vec<u8>,
}

impl State {
    fn resize(&mut self, rows: u16, columns: u16) {
        let size = |cells| NonZeroU16::new(cells).expect("a terminal has cells");
        self.parser.screen_mut().set_size(size(rows), size(columns));
    }

    fn rows(&self) -> Vec<String> {
        let screen = self.parser.screen();
        screen.rows(0, screen.size().1.get()).collect()
    }
}

impl Shown {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no reader has panicked")
    }
}

impl Terminal {
    /// Starts a program at a terminal of so many rows and columns, which is its controlling one.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Terminal {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).expect("a pseudoterminal");
        // setsid(1) execs the program, so that the process is this child.
        let mut whole = Command::new("setsid");
        whole.arg("--ctty").arg(command.get_program()).args(command.get_args()).env_clear();
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                whole.env(name, value);
            }
        }
        if let Some(directory) = command.get_current_dir() {
            whole.current_dir(directory);
        }
        let end = || Stdio::from(slave.try_clone().expect("a descriptor"));
        let child = whole.stdin(end()).stdout(end()).stderr(end()).spawn().expect("setsid(1)");
        drop(whole);
        let shown = Arc::new(Shown::default());
        shown.state().resize(rows, columns);
        let (reading, mut reader) =
            (shown.clone(), File::from(master.try_clone().expect("a descriptor")));
        thread::spawn(move || {
            let mut piece = [0; 16 * 1024];
            while let Ok(length @ 1..) = reader.read(&mut piece) {
                let mut state = reading.state();
                state.parser.process(&piece[..length]);
                if state.written.len() < KEPT {
                    state.written.extend_from_slice(&piece[..length]);
                }
                reading.changed.notify_all();
            }
        });
        Terminal { child, master: File::from(master), slave, shown }
    }

    /// The process at it.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Types something.
    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("a terminal keeps what is typed");
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it runs");
    }

    /// What the screen shows, row by row.
    pub fn rows(&self) -> Vec<String> {
        self.shown.state().rows()
    }

    /// What the screen shows.
    pub fn text(&self) -> String {
        self.rows().join("\n")
    }

    /// Whether a text on the screen stands there in bold.
    pub fn is_bold(&self, text: &str) -> bool {
        let state = self.shown.state();
        let screen = state.parser.screen();
        let found = state
            .rows()
            .iter()
            .zip(0..)
            .find_map(|(row, number)| Some((number, u16::try_from(row.find(text)?).ok()?)));
        found.and_then(|(row, column)| screen.cell(row, column)).is_some_and(vt100::Cell::bold)
    }

    /// Everything that was written to the terminal.
    pub fn written(&self) -> String {
        String::from_utf8_lossy(&self.shown.state().written).into_owned()
    }

    /// Whether the screen of a full-screen program is shown.
    pub fn is_taken(&self) -> bool {
        self.shown.state().parser.screen().alternate_screen()
    }

    /// Whether the terminal is as shells want it: no other screen, a cursor, plain paste, and the
    /// driver edits lines.
    pub fn is_as_before(&self) -> bool {
        let state = self.shown.state();
        let screen = state.parser.screen();
        let is_plain =
            !screen.alternate_screen() && !screen.hide_cursor() && !screen.bracketed_paste();
        drop(state);
        let modes = nix::sys::termios::tcgetattr(&self.slave).expect("a terminal");
        let wanted = nix::sys::termios::LocalFlags::ICANON
            | nix::sys::termios::LocalFlags::ECHO
            | nix::sys::termios::LocalFlags::ISIG;
        is_plain && modes.local_flags.contains(wanted)
    }

    /// Waits until the terminal is so.
    ///
    /// # Panics
    /// If that takes too long.
    #[track_caller]
    pub fn wait(&self, what: &str, condition: impl Fn(&Terminal) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "never: {what}; it shows:\n{}", self.text());
            let state = self.shown.state();
            // What is no output, as the modes, is looked at again soon.
            let again = Duration::from_millis(50);
            drop(self.shown.changed.wait_timeout(state, again).expect("no reader has panicked"));
        }
    }

    /// Waits until the screen shows a text.
    ///
    /// # Panics
    /// If that takes too long.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        self.wait(text, |terminal| terminal.text().contains(text));
    }

    /// Gives it another size, as a window that is resized does.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        self.shown.state().resize(rows, columns);
        let stdin = Stdio::from(self.slave.try_clone().expect("a descriptor"));
        let mut stty = Command::new("stty");
        stty.args(["rows", &rows.to_string(), "cols", &columns.to_string()]).stdin(stdin);
        assert!(stty.status().expect("stty(1)").success());
    }

    /// Waits for the program's end.
    ///
    /// # Panics
    /// If that takes too long.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "it goes on; it shows:\n{}", self.text());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Closes the terminal, as a window that is closed does; returns how the program ended.
    #[track_caller]
    pub fn hang_up(self) -> ExitStatus {
        let mut this = self;
        // The reader's copy stays open until the program has ended, so the hang-up is sent.
        this.signal(Signal::SIGHUP);
        this.end()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
