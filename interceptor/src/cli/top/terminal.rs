//! The terminal: taken for the screen, and given back as it was, however this program ends or
//! stops.

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write as _};
use std::{panic, thread};

use anyhow::bail;
use crossterm::cursor::{Hide, Show};
use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use crossterm::execute;
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{FlushArg, tcflush};
use ratatui::Frame;
use ratatui::backend::CrosstermBackend;

/// What is written at once.
const BUFFER: usize = 64 * 1024;

type Screen = ratatui::Terminal<CrosstermBackend<BufWriter<Stdout>>>;

/// The terminal, while the screen is on it.
pub(super) struct Terminal(Screen);

/// Refuses where there is no terminal, and says what to type instead.
///
/// # Errors
/// If standard input or output is none, or one that cannot move its cursor.
pub(super) fn needed() -> anyhow::Result<()> {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb {
        return Ok(());
    }
    bail!(
        "top needs a terminal (standard input and output, and TERM). Without one: `interceptor \
         ps` lists runs, `interceptor ctl approvals --watch` follows what is asked, `interceptor \
         ctl audit ID` follows requests"
    )
}

impl Terminal {
    /// Takes the terminal.
    ///
    /// # Errors
    /// If it cannot be used.
    pub(super) fn begin() -> io::Result<Terminal> {
        let (before, own) = (panic::take_hook(), thread::current().id());
        panic::set_hook(Box::new(move |panicked| {
            // What another thread would say goes over the screen; whoever waits for it hears of it.
            if thread::current().id() == own {
                leave();
                before(panicked);
            }
        }));
        enter()?;
        match screen() {
            Ok(screen) => Ok(Terminal(screen)),
            Err(error) => {
                leave();
                Err(error)
            }
        }
    }

    /// Draws.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub(super) fn draw(&mut self, work: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(work).map(|_| ())
    }

    /// Gives the terminal back and stops this process; goes on when it is continued.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub(super) fn stop(&mut self) -> io::Result<()> {
        leave();
        raise(Signal::SIGSTOP)?;
        self.take_again()
    }

    /// Takes the terminal after a stop, in which others may have used it. What was typed meanwhile
    /// was not meant for what is drawn now.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub(super) fn take_again(&mut self) -> io::Result<()> {
        // Remembers what it has set, and would not set it again.
        disable_raw_mode()?;
        enter()?;
        tcflush(io::stdin(), FlushArg::TCIFLUSH)?;
        self.0 = screen()?;
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        leave();
    }
}

fn screen() -> io::Result<Screen> {
    let out = BufWriter::with_capacity(BUFFER, io::stdout());
    ratatui::Terminal::new(CrosstermBackend::new(out))
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    let entered = execute!(
        io::stdout(),
        EnterAlternateScreen,
        EnableBracketedPaste,
        Clear(ClearType::All),
        Hide
    );
    entered.inspect_err(|_| leave())
}

/// Gives the terminal back. Nothing else can be done if that fails.
fn leave() {
    let mut out = io::stdout();
    let _ = execute!(out, DisableBracketedPaste, LeaveAlternateScreen, Show);
    let _ = out.flush();
    let _ = disable_raw_mode();
}
