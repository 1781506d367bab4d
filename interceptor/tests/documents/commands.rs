//! Commands in pages: the program accepts every `interceptor …` that a reader may copy.

use std::fs;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use interceptor::cli::Cli;

use super::pages::{blocks, pages, spans};
use super::root;

/// The words of the simple commands of a shell script. Substitutions stay in the word in which they
/// stand, but the commands in them are found too.
fn commands(script: &str) -> Vec<Vec<String>> {
    let script = script.replace("\\\n", " ");
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut characters = script.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\'' => {
                let word = word.get_or_insert_default();
                word.extend(characters.by_ref().take_while(|c| *c != '\''));
            }
            '"' => {
                let word = word.get_or_insert_default();
                let mut depth = 0;
                while let Some(inner) = characters.next() {
                    match inner {
                        '"' if depth == 0 => break,
                        '(' if word.ends_with('$') || depth > 0 => depth += 1,
                        ')' if depth > 0 => depth -= 1,
                        '\\' => word.extend(characters.next()),
                        _ => {}
                    }
                    word.push(inner);
                }
            }
            '\\' => word.get_or_insert_default().extend(characters.next()),
            '#' if word.is_none() => {
                while characters.peek().is_some_and(|c| *c != '\n') {
                    characters.next();
                }
            }
            // A redirection takes a word, which is not an argument.
            '<' | '>' => {
                if let Some(word) = word.take().filter(|word| word.parse::<u8>().is_err()) {
                    commands.last_mut().unwrap().push(word);
                }
                while characters.next_if(|c| "<>& ".contains(*c)).is_some() {}
                while characters.next_if(|c| !" \n|;&)".contains(*c)).is_some() {}
            }
            ' ' | '\t' => commands.last_mut().unwrap().extend(word.take()),
            '\n' | ';' | '|' | '&' | '(' | ')' | '{' | '}' if word.as_deref() != Some("$") => {
                commands.last_mut().unwrap().extend(word.take());
                commands.push(Vec::new());
            }
            _ => word.get_or_insert_default().push(character),
        }
    }
    commands.last_mut().unwrap().extend(word);
    commands.retain(|command| !command.is_empty());
    commands
}

/// The arguments of an `interceptor` that a command starts.
fn arguments(command: &[String]) -> Option<&[String]> {
    let before = |word: &&String| ["sudo", "exec", "-E"].contains(&word.as_str());
    let start = command.iter().take_while(before).count();
    let (program, arguments) = command[start..].split_first()?;
    (program == "interceptor" || program.ends_with("/interceptor")).then_some(arguments)
}

/// Why the program refuses arguments.
fn refused(arguments: &[String]) -> Option<clap::Error> {
    // A shell replaces a variable or a substitution with a number or a path.
    let value = |word: &String| if word.starts_with('$') { "1".to_owned() } else { word.clone() };
    let all = std::iter::once("interceptor".to_owned()).chain(arguments.iter().map(value));
    Cli::try_parse_from(all).err()
}

#[test]
fn the_program_accepts_every_command_of_a_script() {
    let mut checked = 0;
    for (path, text) in pages() {
        for block in blocks(&path, &text).iter().filter(|block| block.language == "sh") {
            for command in commands(&block.text) {
                let Some(arguments) = arguments(&command) else { continue };
                if let Some(error) = refused(arguments) {
                    assert_eq!(error.kind(), ErrorKind::DisplayHelp, "{}: {error}", block.place);
                }
                checked += 1;
            }
        }
    }
    assert!(checked >= 20, "{checked} commands were found");
}

#[test]
fn the_program_knows_every_command_that_a_sentence_names() {
    let mut checked = 0;
    for (path, text) in pages() {
        for span in spans(&text).into_iter().filter(|span| span.starts_with("interceptor ")) {
            // Shorthand for several commands, or part of one, is not a command.
            if span.contains(['[', '…', '|', '_', '(']) {
                continue;
            }
            for command in commands(&span) {
                let Some(error) = refused(&command[1..]) else { continue };
                // A sentence may omit required arguments.
                let part = [
                    ErrorKind::MissingRequiredArgument,
                    ErrorKind::MissingSubcommand,
                    ErrorKind::DisplayHelp,
                    ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
                ];
                let valueless = error.to_string().contains("but none was supplied");
                assert!(
                    part.contains(&error.kind()) || valueless,
                    "{}: {span}: {error}",
                    path.display()
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked} commands were found");
}

#[test]
fn the_page_of_commands_has_every_command() {
    let page = fs::read_to_string(root().join("docs/run.md")).unwrap();
    let shown = Cli::command();
    let shown = shown.get_subcommands().filter(|command| !command.is_hide_set());
    let names: Vec<&str> =
        shown.map(clap::Command::get_name).filter(|name| *name != "help").collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(page.contains(&format!("`interceptor {name}")), "docs/run.md does not name {name}");
    }
}

#[test]
fn options_that_pages_name_are_options_of_the_program() {
    let mut known: Vec<String> = Vec::new();
    let mut rest = vec![Cli::command()];
    while let Some(command) = rest.pop() {
        known.extend(command.get_arguments().filter_map(|one| one.get_long()).map(str::to_owned));
        rest.extend(command.get_subcommands().cloned());
    }
    let mut checked = 0;
    for (path, text) in pages() {
        // A span that is only an option, with or without its value. Other programs' options appear
        // with the program.
        for span in spans(&text).into_iter().filter(|span| span.starts_with("--")) {
            let name = span.trim_start_matches('-').split([' ', '=', '…']).next().unwrap();
            let others = OTHERS.contains(&name);
            assert!(
                others || known.iter().any(|known| known == name),
                "{}: {span}",
                path.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked} options were found");
}

/// Options of other programs that pages name on their own.
const OTHERS: [&str; 10] = [
    "annotation",
    "cgroups",
    "check",
    "dangerously-bypass-approvals-and-sandbox",
    "help",
    "network",
    "no-sandbox",
    "privileged",
    "sandbox",
    "workspace",
];

#[test]
fn scripts_are_read_as_a_shell_reads_them() {
    let script =
        "A=1\nsudo -E a 'b c' \"d $(e \"f\" (g)) h\" > out 2>&1 | i <in \\\n j # k\n l;m &\n";
    let words: Vec<String> = commands(script).iter().map(|command| command.join("+")).collect();
    assert_eq!(words, ["A=1", "sudo+-E+a+b c+d $(e \"f\" (g)) h", "i+j", "l", "m"]);
}
