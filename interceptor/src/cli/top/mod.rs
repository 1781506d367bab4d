//! `interceptor top`: what sandboxes do and ask, live, in a terminal; and answers to it. It shows
//! what the page shows in a browser, by the control sockets of the user's runs and of the daemon.

mod asks;
mod draw;
mod heard;
mod keys;
mod list;
mod policy;
mod requests;
mod screen;
mod sources;
mod store;
mod terminal;
#[cfg(test)]
mod tests;
mod text;
mod theme;
mod waiting;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use crossterm::event::{self, Event, KeyCode, KeyModifiers};
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use self::draw::Setting;
use self::heard::{Ask, Source, Told};
use self::screen::Screen;
use self::sources::Message;
use self::terminal::Terminal;
use self::theme::Theme;
use super::common::colours;
use super::ctl::DaemonClient;
use super::person::Person;
use super::whom::Whom;

/// How many messages wait for the screen; further ones wait at their sources.
const WAITING: usize = 64;
/// How often the screen is drawn at most.
const AT_MOST_EVERY: Duration = Duration::from_millis(50);
/// How often times are drawn anew.
const TICK: Duration = Duration::from_secs(1);

/// The arguments of `interceptor top`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor top
  sudo interceptor top
  sudo interceptor top --control /run/interceptor/other.sock

It shows your runs, and the daemon's sandboxes if you may control it (root). `?` lists the keys.

Exit status: 0 ended by q or a signal, 2 no terminal or the terminal failed.")]
pub struct Top {
    /// Only the daemon at this control socket.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: Top) -> anyhow::Result<ExitCode> {
    terminal::needed()?;
    let person = Person::invoking()?;
    let theme = Theme { colours: colours(&io::stdout()) };
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start")?;
    let shown = tokio.block_on(async {
        let (to, messages) = channel(WAITING);
        tokio::spawn(sources::follow(arguments.control, person, to));
        show(messages, theme).await
    });
    // What is under way ends with this process.
    tokio.shutdown_background();
    shown.context("the terminal failed").map(|()| ExitCode::SUCCESS)
}

/// What stops and ends this program from outside.
struct Outside {
    ends: [Signals; 3],
    stops: Signals,
    goes_on: Signals,
}

impl Outside {
    fn new() -> io::Result<Outside> {
        let [hangup, interrupt, terminate] =
            [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()].map(signal);
        Ok(Outside {
            ends: [hangup?, interrupt?, terminate?],
            stops: signal(SignalKind::from_raw(libc::SIGTSTP))?,
            goes_on: signal(SignalKind::from_raw(libc::SIGCONT))?,
        })
    }

    /// What comes next.
    async fn next(&mut self) -> Outer {
        let Outside { ends: [hangup, interrupt, terminate], stops, goes_on } = self;
        tokio::select! {
            _ = hangup.recv() => Outer::End,
            _ = interrupt.recv() => Outer::End,
            _ = terminate.recv() => Outer::End,
            _ = stops.recv() => Outer::Stop,
            _ = goes_on.recv() => Outer::GoOn,
        }
    }
}

enum Outer {
    End,
    Stop,
    GoOn,
}

/// Reads keys on a thread of its own, which ends with this process.
fn keys() -> Receiver<io::Result<Event>> {
    let (to, keys) = channel(WAITING);
    thread::spawn(move || {
        loop {
            let read = event::read();
            let is_over = read.is_err();
            if to.blocking_send(read).is_err() || is_over {
                return;
            }
        }
    });
    keys
}

/// Shows the screen until it is over.
async fn show(messages: Receiver<Message>, theme: Theme) -> io::Result<()> {
    let mut outside = Outside::new()?;
    let mut terminal = Terminal::begin()?;
    let (told, results) = channel(WAITING);
    let mut shown = Shown {
        screen: Screen::default(),
        whom: HashMap::new(),
        told,
        is_dirty: true,
        drawn: None,
        theme,
    };
    let mut coming = Coming { keys: keys(), messages, results };
    while !shown.screen.is_over {
        let due = shown.due();
        tokio::select! {
            biased;
            outer = outside.next() => match outer {
                Outer::End => break,
                Outer::Stop => {
                    terminal.stop()?;
                    shown.begin_anew();
                }
                Outer::GoOn => {
                    terminal.take_again()?;
                    shown.begin_anew();
                }
            },
            () = tokio::time::sleep_until(due.into()) => shown.draw(&mut terminal)?,
            came = coming.next() => shown.take(came?)?,
        }
    }
    Ok(())
}

/// Where everything comes from.
struct Coming {
    keys: Receiver<io::Result<Event>>,
    messages: Receiver<Message>,
    results: Receiver<Told>,
}

enum Came {
    Key(Event),
    Message(Message),
    Told(Told),
}

impl Coming {
    /// What comes next; keys first, however much else there is.
    async fn next(&mut self) -> io::Result<Came> {
        tokio::select! {
            biased;
            Some(key) = self.keys.recv() => key.map(Came::Key),
            Some(told) = self.results.recv() => Ok(Came::Told(told)),
            Some(message) = self.messages.recv() => Ok(Came::Message(message)),
            else => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// The screen, and whom it asks.
struct Shown {
    screen: Screen,
    whom: HashMap<Source, Whom>,
    told: Sender<Told>,
    is_dirty: bool,
    drawn: Option<Instant>,
    theme: Theme,
}

impl Shown {
    /// When to draw next.
    fn due(&self) -> Instant {
        let Some(drawn) = self.drawn else { return Instant::now() };
        if self.is_dirty {
            return drawn + AT_MOST_EVERY;
        }
        // Questions and leases count down, and a question may be answered once it stands still.
        let settles = self.screen.waiting.settles_at().filter(|at| *at >= drawn);
        settles.unwrap_or(drawn + TICK).min(drawn + TICK)
    }

    fn begin_anew(&mut self) {
        self.screen.waiting.unsettle();
        self.is_dirty = true;
    }

    fn draw(&mut self, terminal: &mut Terminal) -> io::Result<()> {
        let setting = Setting { theme: self.theme, now: Instant::now(), time: Timestamp::now() };
        terminal.draw(|frame| draw::draw(frame, &mut self.screen, setting))?;
        self.is_dirty = false;
        self.drawn = Some(Instant::now());
        Ok(())
    }

    fn take(&mut self, came: Came) -> io::Result<()> {
        self.is_dirty = true;
        let now = Instant::now();
        let asks = match came {
            Came::Key(Event::Key(key))
                if key.code == KeyCode::Char('z')
                    && key.modifiers.contains(KeyModifiers::CONTROL) =>
            {
                // As the terminal would: everybody in the foreground, this process too.
                kill(Pid::from_raw(0), Signal::SIGTSTP)?;
                return Ok(());
            }
            Came::Key(Event::Key(key)) => keys::press(&mut self.screen, key, now),
            Came::Key(Event::Paste(text)) => {
                keys::paste(&mut self.screen, &text);
                Vec::new()
            }
            Came::Key(_) => Vec::new(),
            Came::Told(told) => {
                self.screen.told(told);
                Vec::new()
            }
            Came::Message(Message::Found { source, name, whom, is_expected }) => {
                self.screen.store.add(source, name, is_expected);
                self.whom.insert(source, whom);
                Vec::new()
            }
            Came::Message(Message::Heard(source, heard)) => {
                if matches!(heard, heard::Heard::Ended) {
                    self.whom.remove(&source);
                }
                self.screen.hear(source, heard, now);
                Vec::new()
            }
        };
        for (source, ask) in asks {
            self.ask(source, ask);
        }
        Ok(())
    }

    /// Asks a source, beside the screen.
    fn ask(&mut self, source: Source, ask: Ask) {
        let Some(whom) = self.whom.get(&source) else {
            let gone = Told::Failed(text::Plain::of("it has ended"));
            return self.screen.told(gone);
        };
        let (to, told) = (DaemonClient::quiet(whom.clone()), self.told.clone());
        tokio::spawn(async move {
            let asked = tokio::task::spawn_blocking(move || asks::carry_out(&to, ask)).await;
            let result = match asked {
                Ok(result) => result,
                Err(_) => Some(Told::Failed(text::Plain::of("an internal error"))),
            };
            if let Some(result) = result {
                // Fails only at the end.
                let _ = told.send(result).await;
            }
        });
    }
}
