//! `interceptor completions`: prints shell completions.
//!
//! The shell asks this program what could come next (clap_complete's engine), so that names of
//! policies and running sandboxes are those of now. What stands behind `--` is another command's,
//! which the shell completes as if it were typed alone.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, ValueEnum};
use clap_complete::env::{Bash, CompleteEnv, Elvish, EnvCompleter, Fish, Powershell, Shells, Zsh};

use super::candidates;

/// The variable by which a shell asks. It is set for nothing but that question.
const ASKED: &str = "INTERCEPTOR_COMPLETE";
/// The name that is completed.
const NAME: &str = "interceptor";

/// The arguments of `interceptor completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor completions bash > /etc/bash_completion.d/interceptor
  interceptor completions zsh \\
    > /usr/local/share/zsh/site-functions/_interceptor
  interceptor completions fish > ~/.config/fish/completions/interceptor.fish")]
pub struct Completions {
    /// The shell.
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// A shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    /// GNU Bash.
    Bash,
    /// Elvish.
    Elvish,
    /// fish.
    Fish,
    /// PowerShell.
    #[value(name = "powershell")]
    Power,
    /// zsh.
    Zsh,
}

/// The shells. Two of them insert a word as it is: they get only what they take for a word.
const SHELLS: Shells<'static> = Shells(&[&Plain(Bash), &Elvish, &Fish, &Plain(Powershell), &Zsh]);

/// A shell that inserts words as they are. A sandbox or a repository may have chosen the name of a
/// file: one that the shell would expand, or run, when the line is entered, is left out.
struct Plain<S>(S);

impl<S: EnvCompleter> EnvCompleter for Plain<S> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn is(&self, name: &str) -> bool {
        self.0.is(name)
    }

    fn write_registration(
        &self,
        var: &str,
        name: &str,
        bin: &str,
        completer: &str,
        buf: &mut dyn Write,
    ) -> io::Result<()> {
        self.0.write_registration(var, name, bin, completer, buf)
    }

    fn write_complete(
        &self,
        cmd: &mut Command,
        args: Vec<OsString>,
        current_dir: Option<&Path>,
        buf: &mut dyn Write,
    ) -> io::Result<()> {
        let mut all = Vec::new();
        self.0.write_complete(cmd, args, current_dir, &mut all)?;
        // The engine's own variable and default.
        let separator = std::env::var("_CLAP_IFS").unwrap_or_else(|_| "\n".to_owned());
        buf.write_all(plain(&String::from_utf8_lossy(&all), &separator).as_bytes())
    }
}

/// Those candidates, each with what is said of it behind a tabulator, that are words for a shell.
fn plain(all: &str, separator: &str) -> String {
    let is_word = |candidate: &&str| {
        let word = candidate.split('\t').next().unwrap_or_default();
        word.chars().all(|c| c.is_alphanumeric() || "/._-+@%:,=".contains(c))
    };
    all.split(separator).filter(is_word).collect::<Vec<&str>>().join(separator)
}

/// Bash's own completion of another command needs the package bash-completion.
const BASH: &str = r#"
_interceptor() {
    local at
    for ((at = 1; at < COMP_CWORD; at++)); do
        [[ ${COMP_WORDS[at]} == -- ]] && break
    done
    if ((at >= COMP_CWORD)); then
        _clap_complete_interceptor "$@"
    elif declare -F _comp_command_offset > /dev/null; then
        _comp_command_offset $((at + 1))
    elif declare -F _command_offset > /dev/null; then
        _command_offset $((at + 1))
    elif ((COMP_CWORD == at + 1)); then
        mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}" |
            grep -E '^[[:alnum:]/._+@%:,=-]+$')
    else
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
    fi
}
complete -o nospace -o bashdefault -F _interceptor interceptor
[[ ${BASH_VERSINFO[0]} -gt 4 || ${BASH_VERSINFO[0]} -eq 4 && ${BASH_VERSINFO[1]} -ge 4 ]] &&
    complete -o nospace -o bashdefault -o nosort -F _interceptor interceptor
"#;

/// The last lines are for a file that zsh reads when the command is first completed.
const ZSH: &str = r#"
function _interceptor() {
    local at=${words[(i)--]}
    if (( at < CURRENT )); then
        shift $at words
        (( CURRENT -= at ))
        _normal
    else
        _clap_dynamic_completer_interceptor "$@"
    fi
}
compdef _interceptor interceptor
if [[ $funcstack[1] == _interceptor ]]; then
    _interceptor "$@"
fi
"#;

/// Stands before the engine's own line, which counts only where this function says so.
const FISH: &str = r#"function __interceptor_command
    set -l words (commandline --current-process --tokenize --cut-at-cursor)
    set -l at (contains --index -- -- $words)
    or return 1
    set -e words[1..$at]
    if set -q argv[1]
        set -l typed (string join ' ' -- (string escape -- $words) (commandline --current-token))
        complete --do-complete $typed
    end
end
complete --keep-order --exclusive --command interceptor --condition __interceptor_command \
    --arguments "(__interceptor_command complete)"
"#;
const FISH_LINE: &str = "complete --keep-order --exclusive --command interceptor ";
const FISH_CONDITION: &str = "--condition 'not __interceptor_command' ";

/// Runs the command.
pub fn run(arguments: Completions) -> anyhow::Result<ExitCode> {
    io::stdout().lock().write_all(&text(arguments.shell))?;
    Ok(ExitCode::SUCCESS)
}

/// Answers a shell that asks what could come next, and ends this process; else does nothing.
pub(super) fn answer(all: fn() -> Command) {
    let engine = CompleteEnv::with_factory(|| candidates::attach(all()));
    engine.shells(SHELLS).var(ASKED).complete();
}

/// The completions of one shell.
pub(super) fn text(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    let name = shell.to_possible_value().map(|value| value.get_name().to_owned());
    if let Some(engine) = name.as_deref().and_then(|name| SHELLS.completer(name)) {
        // Writing to memory does not fail.
        let _ = engine.write_registration(ASKED, NAME, NAME, NAME, &mut text);
    }
    match shell {
        Shell::Bash => text.extend(BASH.as_bytes()),
        Shell::Zsh => text.extend(ZSH.as_bytes()),
        Shell::Fish => {
            let engine = String::from_utf8_lossy(&text);
            let engine = engine.replace(FISH_LINE, &format!("{FISH_LINE}{FISH_CONDITION}"));
            text = format!("{FISH}{engine}").into_bytes();
        }
        Shell::Elvish | Shell::Power => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_expand_or_run_is_no_candidate() {
        let all =
            "--policy\u{b}a.json\u{b}$(id).json\u{b}a b\u{b}`id`\u{b}a;id\u{b}*\u{b}\u{b}ü/x:y=";
        assert_eq!(plain(all, "\u{b}"), "--policy\u{b}a.json\u{b}\u{b}ü/x:y=");
        assert_eq!(plain("a\tof $x; y\n$(b)\tof\nc\n", "\n"), "a\tof $x; y\nc\n");
    }

    #[test]
    fn each_shell_asks_the_engine_and_leaves_other_commands_to_itself() {
        for shell in Shell::value_variants() {
            let text = String::from_utf8(text(*shell)).unwrap();
            assert!(text.contains(ASKED) && text.contains(NAME), "{shell:?}: {text}");
        }
        let fish = String::from_utf8(text(Shell::Fish)).unwrap();
        assert_eq!(fish.matches(FISH_CONDITION).count(), 1, "{fish}");
        assert!(String::from_utf8(text(Shell::Zsh)).unwrap().starts_with("#compdef interceptor\n"));
    }
}
