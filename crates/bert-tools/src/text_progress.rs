//! How far a command has come with its texts: a bar on a terminal, a line now and then in a pipe.
//!
//! Owns the clock. Writes to standard error only.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::table::thousands;

/// Time between two lines in a pipe.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The bar or the lines of one command.
#[derive(Debug)]
pub struct TextProgress {
    bar: ProgressBar,
    start: Instant,
    last_line: Instant,
    num_texts: u64,
    num_bytes: Option<u64>,
}

impl TextProgress {
    /// Begins to measure. `num_bytes` is the size of the input, where it is known.
    pub fn new(num_bytes: Option<u64>) -> Self {
        let target = match io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(num_bytes, target);
        let template = match num_bytes {
            Some(_) => "{elapsed_precise} [{wide_bar}] {percent} %, {msg}",
            None => "{elapsed_precise} {spinner} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, start: Instant::now(), last_line: Instant::now(), num_texts: 0, num_bytes }
    }

    /// Shows that more texts are done, and with them the input up to this byte.
    pub fn advance(&mut self, num_texts: usize, num_bytes_done: u64) {
        self.num_texts += num_texts as u64;
        let text = describe(self.num_texts, num_bytes_done, self.num_bytes, self.start.elapsed());
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            print_line(&text);
        }
        self.bar.set_position(num_bytes_done);
        self.bar.set_message(text);
    }

    /// Takes the bar away; texts per second.
    pub fn finish(self) -> f64 {
        self.bar.finish_and_clear();
        self.num_texts as f64 / self.start.elapsed().as_secs_f64().max(1e-9)
    }
}

/// Texts done, speed, and time left where the size of the input is known.
fn describe(num_texts: u64, num_bytes_done: u64, num_bytes: Option<u64>, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let mut text = format!("{} texts, {:.0}/s", thousands(num_texts), num_texts as f64 / seconds);
    if let Some(num_bytes) = num_bytes.filter(|_| num_bytes_done > 0) {
        let num_left = num_bytes.saturating_sub(num_bytes_done);
        text.push_str(&format!(", {:.0} s left", num_left as f64 * seconds / num_bytes_done as f64));
    }
    text
}

#[expect(clippy::print_stderr, reason = "progress belongs beside the results, not among them")]
fn print_line(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_reckoned_from_the_bytes_of_the_input() {
        let ten = Duration::from_secs(10);
        assert_eq!(describe(1500, 30_000, Some(90_000), ten), "1,500 texts, 150/s, 20 s left");
        assert_eq!(describe(1500, 30_000, None, ten), "1,500 texts, 150/s");
    }
}
