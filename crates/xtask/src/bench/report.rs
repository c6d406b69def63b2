//! The report of a benchmark as Markdown: the machine, how it was measured, one row per comparison.

use super::DataArgs;
use super::figures::{Comparison, Measured, Spread, text};
use anyhow::Context;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// Where and when.
pub struct Machine {
    processor: String,
    date: String,
    load_before: String,
}

impl Machine {
    /// Asks the system.
    ///
    /// # Errors
    ///
    /// If `date` cannot be run.
    pub fn read() -> anyhow::Result<Self> {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let processor = model.map_or("unknown", |(_, name)| name.trim()).to_owned();
        let output = Command::new("date").args(["-u", "+%F"]).output().context("failed to run `date`")?;
        let date = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Self { processor, date, load_before: load() })
    }

    /// Name of the report about `what`.
    pub fn file_name(&self, what: &str) -> String {
        format!("{what}-{}-{}.md", slug(&self.processor), self.date)
    }

    /// Processor and date, for a title.
    pub fn title(&self) -> String {
        format!("{}, {}", self.processor, self.date)
    }

    /// The load before the measurement and now.
    pub fn loads(&self) -> String {
        format!("Load of the machine before {}, after {}.", self.load_before, load())
    }
}

/// Lower case letters and digits of a name, joined by `-`.
fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("-")
}

/// Processes that wanted to run, over 1, 5 and 15 minutes.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Writes a report, or what it was made of, and says where it is.
///
/// # Errors
///
/// If it cannot be written.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("failed to write `{}`", path.display()))?;
    println!("==> bench: written to {}", path.display());
    Ok(())
}

/// The whole report.
///
/// # Errors
///
/// Never in practice: only of writing into memory.
pub fn markdown(machine: &Machine, args: &DataArgs, comparisons: &[Comparison]) -> anyhow::Result<String> {
    let mut out = String::new();
    let Machine { processor, date, load_before } = machine;
    writeln!(out, "# Speed of the data pipeline: {processor}, {date}\n")?;
    writeln!(
        out,
        "Written by `cargo xtask bench data`. {} pairs per row, the two sides in turns, pinned to the same cores \
         ({:?}; rows of one core: the first); medians, and in brackets the lowest and the highest. Batches: rows of \
         128 tokens, 32 rows a batch, {} s per measurement, real tokens without padding. Load of the machine before \
         {load_before}, after {}. A ratio of processor time leaves out what other programs took.\n",
        args.pairs,
        args.cores,
        args.seconds,
        load()
    )?;
    writeln!(out, "| | ours | peer | ratio | ratio of processor time |\n|---|---|---|---|---|")?;
    for comparison in comparisons {
        let peer = match &comparison.peer_name {
            Some(name) => format!("{} ({name})", rates(&comparison.peer)),
            None => "not measured".to_owned(),
        };
        let ratio = comparison.ratio(|m| m.per_second);
        let processor_ratio = comparison.ratio(|m| m.per_processor_second);
        writeln!(
            out,
            "| {} | {} | {peer} | {} | {} |",
            comparison.name,
            rates(&comparison.ours),
            text(ratio, 1.0, 1),
            text(processor_ratio, 1.0, 1)
        )?;
    }
    if args.python.is_none() {
        writeln!(out, "\nSkipped: Hugging Face's collators, because --python was not given.")?;
    }
    if args.google.is_none() {
        writeln!(out, "\nSkipped: Google's create_pretraining_data, because --google was not given.")?;
    }
    Ok(out)
}

/// Median rate with its spread, in thousands or millions of what was counted.
fn rates(measured: &[Measured]) -> String {
    let Some(Spread { median, min, max }) = Spread::of(measured.iter().map(|m| m.per_second)) else {
        return "not measured".to_owned();
    };
    let (scale, unit) = match measured[0].unit.as_str() {
        "bytes" => (1e6, "MB/s"),
        _ => (1e6, "M tokens/s"),
    };
    let digits = if median / scale < 10.0 { 2 } else { 1 };
    format!("{:.digits$} {unit} ({:.digits$}-{:.digits$})", median / scale, min / scale, max / scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn names_of_processors_make_file_names() {
        assert_eq!(slug("AMD EPYC 7R13 @ 2.6GHz"), "amd-epyc-7r13-2-6ghz");
    }

    #[test]
    fn rows_say_what_was_skipped() {
        let measured = |rate: f64| Measured {
            unit: "tokens".to_owned(),
            per_second: rate,
            per_processor_second: rate * 2.0,
        };
        let mut with = Comparison::new("zh: token".to_owned(), Some("collator"));
        with.ours = vec![measured(9e6), measured(12e6)];
        with.peer = vec![measured(0.5e6), measured(0.4e6)];
        let mut without = Comparison::new("zh: text".to_owned(), None);
        without.ours = vec![measured(2e6)];
        let args = DataArgs {
            corpus: vec![PathBuf::from("zh.txt")],
            vocab: vec![PathBuf::from("vocab.txt")],
            python: None,
            google: None,
            pairs: 2,
            seconds: 1.0,
            google_mb: 1,
            cores: vec![0, 1],
            out: None,
        };
        let machine =
            Machine { processor: "P".to_owned(), date: "2026-01-01".to_owned(), load_before: "0".to_owned() };
        let text = markdown(&machine, &args, &[with, without]).unwrap();
        let row = "| zh: token | 10.5 M tokens/s (9.0-12.0) | 0.45 M tokens/s (0.40-0.50) (collator) | \
                   24.0 (18.0-30.0) | 24.0 (18.0-30.0) |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| zh: text | 2.00 M tokens/s (2.00-2.00) | not measured | - | - |"), "{text}");
        assert!(text.contains("Skipped: Hugging Face") && text.contains("Skipped: Google"), "{text}");
    }
}
