//! Passwords from a terminal that does not show them, or from standard input. Never from arguments, which every user of the machine can read.

use crate::authenticate::passwords::Typed;
use anyhow::{Context, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};

/// A password of 128 characters has at most 512 bytes; what is longer is no line with a password.
const LINE_BYTES_MAX: u64 = 4096;

/// A new password: one line of standard input, or asked for twice.
///
/// # Errors
/// Nothing comes, the two differ, or there is no terminal.
pub(super) fn new_password(from_stdin: bool) -> anyhow::Result<Typed> {
    if from_stdin {
        return line(&mut std::io::stdin().lock()).context("standard input");
    }
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    let terminal = terminal.context("there is no terminal to ask for a password: use --password-stdin")?;
    let first = hidden(&terminal, "New password: ")?;
    if hidden(&terminal, "The same again: ")? != first {
        bail!("the two passwords differ");
    }
    Ok(first)
}

/// One line without its end.
fn line(from: &mut impl BufRead) -> anyhow::Result<Typed> {
    let mut text = String::new();
    from.take(LINE_BYTES_MAX).read_line(&mut text)?;
    let text = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text)).unwrap_or(&text);
    if text.is_empty() {
        bail!("there is no password");
    }
    Ok(Typed::new(text))
}

fn hidden(mut terminal: &File, prompt: &str) -> anyhow::Result<Typed> {
    let silent = Silent::new(terminal)?;
    terminal.write_all(prompt.as_bytes())?;
    let typed = line(&mut BufReader::new(terminal));
    drop(silent);
    terminal.write_all(b"\n")?;
    typed
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silent<'a> {
    terminal: &'a File,
    was: Termios,
}

impl<'a> Silent<'a> {
    fn new(terminal: &'a File) -> anyhow::Result<Self> {
        let was = tcgetattr(terminal).context("the terminal can't be told to hide what is typed")?;
        let mut silent = was.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        // What was typed ahead was shown: it is thrown away.
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, was })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // Best effort: a shell sets its own modes anyway.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.was);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_without_its_end_and_an_empty_one_is_no_password() {
        for (text, wanted) in [("a b\n", "a b"), ("a b\r\n", "a b"), (" a ", " a "), ("first\nsecond\n", "first")] {
            assert_eq!(line(&mut text.as_bytes()).unwrap(), Typed::new(wanted), "{text:?}");
        }
        assert!(line(&mut "\n".as_bytes()).is_err() && line(&mut "".as_bytes()).is_err());
    }
}
