//! How far the building of shards is: a bar on a terminal, a line now and then in a pipe.
//!
//! Owns the clock of a build. Writes to standard error only.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use bert_data::shards::BuildProgress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::table::megabytes;

/// Time between two lines in a pipe.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The bar or the lines of one build.
#[derive(Debug)]
pub struct BuildScreen {
    bar: ProgressBar,
    start: Instant,
    last_line: Instant,
    last: BuildProgress,
}

impl BuildScreen {
    /// Begins to measure.
    pub fn new() -> Self {
        let target = match io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{wide_bar}] {percent} %, {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, start: Instant::now(), last_line: Instant::now(), last: BuildProgress::default() }
    }

    /// Shows how far the build is.
    pub fn show(&mut self, progress: &BuildProgress) {
        self.last = *progress;
        self.bar.set_length(progress.num_bytes);
        self.bar.set_position(progress.num_bytes_done);
        let text = describe(progress, self.start.elapsed());
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            print_line(&text);
        }
        self.bar.set_message(text);
    }

    /// Takes the bar away; megabytes of text per second, if any was encoded.
    pub fn finish(self) -> Option<String> {
        self.bar.finish_and_clear();
        let seconds = self.start.elapsed().as_secs_f64();
        let num_bytes = self.last.num_text_bytes_encoded;
        (num_bytes > 0)
            .then(|| format!("{}/s of text", megabytes((num_bytes as f64 / seconds.max(1e-9)) as u64)))
    }
}

/// Bytes done, speed and time left.
fn describe(progress: &BuildProgress, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let num_new = progress.num_bytes_done.saturating_sub(progress.num_bytes_reused);
    let num_left = progress.num_bytes.saturating_sub(progress.num_bytes_done);
    let mut text = format!(
        "{} of {} read, {}/s of text",
        megabytes(progress.num_bytes_done),
        megabytes(progress.num_bytes),
        megabytes((progress.num_text_bytes_encoded as f64 / seconds) as u64),
    );
    if num_new > 0 {
        text.push_str(&format!(", {:.0} s left", num_left as f64 * seconds / num_new as f64));
    }
    if progress.num_bytes_reused > 0 {
        text.push_str(&format!(", {} were finished before", megabytes(progress.num_bytes_reused)));
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
    fn time_left_is_reckoned_from_what_this_build_has_read() {
        let progress = BuildProgress {
            num_bytes: 100_000_000,
            num_bytes_done: 60_000_000,
            num_bytes_reused: 40_000_000,
            num_text_bytes_encoded: 30_000_000,
        };
        let text = describe(&progress, Duration::from_secs(10));
        assert_eq!(
            text,
            "60.0 MB of 100.0 MB read, 3.0 MB/s of text, 20 s left, 40.0 MB were finished before"
        );
    }
}
