//! A terminal behind a launcher: mpirun reads its ranks through pipes and passes the bytes on to its own terminal.
//!
//! Owns the question whether a person looks at rank 0, and the escape codes that reach that person through a pipe.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    os::unix::process::parent_id,
    path::Path,
};

use indicatif::{ProgressDrawTarget, TermLike};

/// Width of a terminal that cannot be asked: the pipe hides it.
const ASSUMED_WIDTH: u16 = 100;

/// Where a bar can be drawn; hidden where nobody looks.
#[must_use]
pub fn draw_target() -> ProgressDrawTarget {
    if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else if launcher_has_terminal() {
        ProgressDrawTarget::term_like(Box::new(BehindPipe))
    } else {
        ProgressDrawTarget::hidden()
    }
}

/// Whether the parent process is a launcher whose standard error is a terminal.
fn launcher_has_terminal() -> bool {
    let parent = format!("/proc/{}", parent_id());
    let name = fs::read_to_string(Path::new(&parent).join("comm")).unwrap_or_default();
    let is_launcher = ["mpirun", "mpiexec", "orterun", "prterun", "orted", "prted", "hydra_pmi_proxy"]
        .contains(&name.trim());
    is_launcher
        && fs::read_link(Path::new(&parent).join("fd/2")).is_ok_and(|target| is_terminal_path(&target))
}

fn is_terminal_path(path: &Path) -> bool {
    path.starts_with("/dev/pts") || path.to_str().is_some_and(|path| path.starts_with("/dev/tty"))
}

/// Writes ANSI escape codes to standard error.
#[derive(Debug)]
struct BehindPipe;

fn write_all(text: &str) -> io::Result<()> {
    io::stderr().write_all(text.as_bytes())
}

/// Moves the cursor `num_cells` cells; `direction` is the last letter of the ANSI code.
fn move_cursor(num_cells: usize, direction: char) -> io::Result<()> {
    if num_cells == 0 { Ok(()) } else { write_all(&format!("\x1b[{num_cells}{direction}")) }
}

impl TermLike for BehindPipe {
    fn width(&self) -> u16 {
        ASSUMED_WIDTH
    }

    fn move_cursor_up(&self, num_lines: usize) -> io::Result<()> {
        move_cursor(num_lines, 'A')
    }

    fn move_cursor_down(&self, num_lines: usize) -> io::Result<()> {
        move_cursor(num_lines, 'B')
    }

    fn move_cursor_right(&self, num_columns: usize) -> io::Result<()> {
        move_cursor(num_columns, 'C')
    }

    fn move_cursor_left(&self, num_columns: usize) -> io::Result<()> {
        move_cursor(num_columns, 'D')
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        write_all(&format!("{line}\r\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        write_all(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        write_all("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_told_from_pipes_and_files() {
        for (path, expected) in [
            ("/dev/pts/3", true),
            ("/dev/tty1", true),
            ("pipe:[123]", false),
            ("/dev/null", false),
            ("/tmp/log", false),
        ] {
            assert_eq!(is_terminal_path(Path::new(path)), expected, "{path}");
        }
    }
}
